"""Why there is nothing to show."""

from __future__ import annotations

from collections.abc import Iterable


class FleetError(Exception):
    """The fleet cannot be shown as it was asked for; ``errors`` has one line for each reason."""

    def __init__(self, errors: Iterable[str]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(self.errors))
