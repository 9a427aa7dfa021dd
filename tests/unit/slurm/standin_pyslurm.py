"""A module in the place of pyslurm, with a Slurm of its own in memory.

Its classes have methods and properties of pyslurm 25.11 and no others (tests/fixtures/pyslurm-25.11-api.txt).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

API = Path(__file__).parents[2] / "fixtures/pyslurm-25.11-api.txt"


def names(what: str) -> frozenset[str]:
    """The names behind ``Node METHODS``, say; those of its properties are in the line below."""
    found = re.search(rf"^{what}: (.*)$", API.read_text(), re.MULTILINE)
    assert found is not None, what
    return frozenset(found[1].split(", "))


def properties(name: str) -> frozenset[str]:
    found = re.search(rf"^{name} METHODS:.*\n +props:(.*)$", API.read_text(), re.MULTILINE)
    assert found is not None, name
    return frozenset(re.findall(r"\w+", found[1]))


FLAGS = enum.Flag("ReservationFlags", sorted(names("ReservationFlags NAMES")))


class PyslurmError(Exception):
    """As pyslurm's."""


class RPCError(PyslurmError):
    """As pyslurm's."""


@dataclass
class Memory:
    """What this Slurm knows and was asked; ``refuses`` is what it answers to everything."""

    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    reservations: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    refuses: str = ""

    def ask(self, what: str) -> None:
        self.asked.append(what)
        if self.refuses:
            raise RPCError(self.refuses)


class Record:
    """An object that has the properties of its class; those that were not set are None."""

    allowed: frozenset[str] = frozenset()

    def __init__(self, name: str | None = None, **values: object) -> None:
        object.__setattr__(self, "values", {})
        for key, value in {**({"name": name} if name else {}), **values}.items():
            setattr(self, key, value)

    def __setattr__(self, key: str, value: object) -> None:
        if key not in self.allowed:
            raise KeyError(key)  # as pyslurm does
        self.values[key] = value

    def __getattr__(self, key: str) -> object:
        if key not in self.allowed:
            raise AttributeError(key)
        return self.values.get(key)


def made(name: str, **methods: Callable[..., object]) -> type[Record]:
    """A class of pyslurm's name with these of its methods."""
    assert set(methods) <= names(f"{name} METHODS"), name
    return type(name, (Record,), {"allowed": properties(name), **methods})


def module(memory: Memory) -> Any:
    """What ``import pyslurm`` would give, over this memory."""

    def load_node(name: str) -> Record:
        memory.ask(f"load {name}")
        if name not in memory.nodes:
            raise RPCError(f"Node '{name}' does not exist")
        return node(name, **memory.nodes[name])

    def load_nodes() -> dict[str, Record]:
        memory.ask("load nodes")
        return {name: node(name, **values) for name, values in memory.nodes.items()}

    def modify_node(self: Record, changes: Record) -> None:
        memory.ask(f"modify {self.name} {changes.values}")
        if self.name not in memory.nodes:
            raise RPCError("Invalid node name specified")
        values = dict(changes.values)
        state = values.pop("state", None)
        if state == "RESUME":
            if "DRAIN" not in memory.nodes[self.name]["state"]:
                raise RPCError("Invalid node state transition")
            values = {"state": "IDLE", "reason": None}
        elif state:
            values["state"] = f"IDLE+{state}"
        memory.nodes[self.name].update(values)

    def load_reservation(name: str) -> Record:
        memory.ask(f"load reservation {name}")
        if name not in memory.reservations:
            raise RPCError(f"Reservation '{name}' doesn't exist")
        return reservation(name, **memory.reservations[name])

    def load_reservations() -> dict[str, Record]:
        memory.ask("load reservations")
        return {name: reservation(name, **values) for name, values in memory.reservations.items()}

    def create(self: Record) -> Record:
        memory.ask(f"create {self.values}")
        if not self.start_time or not self.end_time:
            raise RPCError(
                "You must at least specify a start_time,  combined with an end_time or a duration."
            )
        if self.name in memory.reservations:
            raise RPCError("Duplicate reservation name")
        if self.nodes not in memory.nodes:
            raise RPCError("Invalid node name specified")
        memory.reservations[self.name] = {key: value for key, value in self.values.items() if key != "name"}
        return self

    def modify(self: Record, changes: Record | None = None) -> None:
        values = (changes or self).values
        memory.ask(f"modify reservation {self.name}")
        if self.name not in memory.reservations:
            raise RPCError("Requested reservation is invalid")
        memory.reservations[self.name].update({key: value for key, value in values.items() if key != "name"})

    def delete(self: Record) -> None:
        memory.ask(f"delete {self.name}")
        if memory.reservations.pop(self.name, None) is None:
            raise RPCError("Requested reservation is invalid")

    node = made("Node", load=staticmethod(load_node), modify=modify_node)
    reservation = made(
        "Reservation", load=staticmethod(load_reservation), create=create, modify=modify, delete=delete
    )
    assert names("EXCEPTIONS") == {"PyslurmError", "RPCError"}
    return SimpleNamespace(
        Node=node,
        Nodes=made("Nodes", load=staticmethod(load_nodes)),
        Reservation=reservation,
        Reservations=SimpleNamespace(load=load_reservations),
        ReservationFlags=FLAGS,
        PyslurmError=PyslurmError,
        RPCError=RPCError,
    )
