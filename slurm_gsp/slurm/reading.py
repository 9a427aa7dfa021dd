"""Nodes and reservations of a whole fleet, asked for at once: two reads whatever the size, no change.

The parsing is loaded when both questions are under way: Slurm takes longer to answer than Python to load.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from slurm_gsp import process
from slurm_gsp.slurm.ask import Begin, checked, environment, translated
from slurm_gsp.slurm.client import SlurmError

if TYPE_CHECKING:
    from slurm_gsp.slurm.overview import Held, Line


class Reading:
    """The two reads, under way; both have to be waited for, ``reservations`` first."""

    def __init__(
        self,
        begin: Begin = process.begin,
        *,
        scontrol: str = "/usr/bin/scontrol",
        conf: str | None = None,
        deadline_s: float = 60.0,
    ) -> None:
        self._reservations = bytearray()
        self._feed: process.Sink = _nowhere
        sinks: dict[str, process.Sink] = {"node": self._take, "reservation": self._reservations.extend}
        self._waits = {}
        for what, sink in sinks.items():
            argv = (scontrol, "-a", "-o", "show", what)
            start = partial(begin, argv, deadline_s=deadline_s, env=environment(conf), sink=sink)
            self._waits[what] = partial(checked, argv, translated(argv, start))

    def reservations(self) -> tuple[Held, ...]:
        """All reservations. SlurmError where Slurm does not answer; then no nodes are to be asked for."""
        from slurm_gsp.slurm.overview import parse_held  # noqa: PLC0415

        try:
            self._waits["reservation"]()
        except BaseException:
            with suppress(SlurmError):  # no process is left behind
                self._waits["node"]()
            raise
        return parse_held(self._reservations.decode("utf-8", "replace"))

    def nodes(self, take: Callable[[Line], object]) -> None:
        """Hands out node after node, while Slurm tells the next ones. SlurmError as above."""
        from slurm_gsp.slurm.overview import Lines  # noqa: PLC0415

        lines = Lines(take)
        self._feed = lines.feed
        self._waits["node"]()
        lines.end()

    def _take(self, data: bytes) -> None:
        self._feed(data)


def _nowhere(_: bytes) -> None:
    """Where what nobody waits for goes."""
