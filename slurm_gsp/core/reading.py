"""What a collector brings home: a reading is known, absent or unknown, never "" for all three."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Known(Generic[T_co]):
    """A value that was read; ``source`` is the path or command it came from."""

    value: T_co
    source: str


@dataclass(frozen=True, slots=True)
class Absent:
    """The place was looked at, and the thing is not there."""

    source: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """The place could not be read, or says nothing; ``why`` tells a person what to do about it."""

    source: str
    why: str


Reading: TypeAlias = Known[T] | Absent | Unknown


def value_of(reading: Reading[T]) -> T | None:
    """The value of a known reading, else None."""
    return reading.value if isinstance(reading, Known) else None
