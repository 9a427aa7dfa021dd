"""Many BMCs at once: bounded in number and in time, whatever any of them does."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Final, TypeAlias

from slurm_gsp.core.reading import Unknown
from slurm_gsp.redfish.model import Answer
from slurm_gsp.redfish.read import read_bmc
from slurm_gsp.redfish.site import Access, Site

GRACE_S: Final = 3.0
"""For the logout, past the deadline of a BMC. A thread that is still busy then (with a name server, say) is
left to itself, and its place goes to the next."""
INSTALL: Final = "pip install 'redfish>=3.3.4' 'requests>=2.32.2'"

Read: TypeAlias = Callable[[str, float], Answer]
"""From an address and the seconds that there are to what the BMC lists. Never raises."""


class LibraryMissingError(Exception):
    """The Redfish library is not installed; the message says how to."""


def sweep(
    nodes: Iterable[str], site: Site, read: Read | None = None, clock: Callable[[], float] = time.monotonic
) -> dict[str, Answer]:
    """What the BMC of each node lists, in the order of ``nodes``, each once.

    Takes ``site.total_s`` and a grace of seconds at most. LibraryMissingError without the Redfish library.
    """
    return _Sweep(site, read or library_reader(site.access), clock).run(dict.fromkeys(nodes))


def library_reader(access: Access) -> Read:
    """Reads with the Redfish library; LibraryMissingError without it."""
    try:
        from slurm_gsp.redfish.client import library  # noqa: PLC0415  (optional, and slow to import)
    except ImportError as error:
        raise LibraryMissingError(f"asking BMCs needs the package redfish ({error}): {INSTALL}") from error
    return partial(read_bmc, library(access))


class _Sweep:
    """One sweep while it runs: a thread for each BMC that is being read, never more than allowed."""

    def __init__(self, site: Site, read: Read, clock: Callable[[], float]) -> None:
        self._site = site
        self._read = read
        self._clock = clock
        self._ends = clock() + site.total_s
        self._answers: SimpleQueue[tuple[str, Answer]] = SimpleQueue()
        self._due: dict[str, float] = {}
        self._found: dict[str, Answer] = {}

    def run(self, nodes: Iterable[str]) -> dict[str, Answer]:
        nodes = tuple(nodes)
        ahead = deque(nodes)
        while ahead or self._due:
            while ahead and len(self._due) < self._site.concurrency:
                self._start(ahead.popleft())
            if self._due:
                self._wait()
        return {node: self._found[node] for node in nodes}

    def _start(self, node: str) -> None:
        address = self._site.address(node)
        seconds = min(self._site.deadline_s, self._ends - self._clock())
        if address is None:
            self._found[node] = Unknown(node, "nothing says where its BMC is ([redfish] address)")
        elif seconds <= 0:
            told = f"was not asked: the {self._site.total_s:g} s of the whole sweep were over"
            self._found[node] = Unknown(address, told)
        else:
            self._due[node] = self._clock() + seconds + GRACE_S
            Thread(target=self._work, args=(node, address, seconds), name=f"bmc-{node}", daemon=True).start()

    def _work(self, node: str, address: str, seconds: float) -> None:
        self._answers.put((node, self._read(address, seconds)))

    def _wait(self) -> None:
        """Take one answer; give up those that are past their time."""
        try:
            node, answer = self._answers.get(timeout=max(0.0, min(self._due.values()) - self._clock()))
        except Empty:
            now = self._clock()
            for late in [node for node, due in self._due.items() if due <= now]:
                del self._due[late]
                self._found[late] = Unknown(self._site.address(late) or late, "did not come back in time")
        else:
            if self._due.pop(node, None) is not None:  # else it was given up before
                self._found[node] = answer
