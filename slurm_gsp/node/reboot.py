"""What slurm-gsp-reboot does: a node whose Reason asks for it is realigned, and every node is rebooted.

Until it is known that a realignment was asked for, all that goes wrong here ends in a plain reboot: one that
somebody asked for must not be lost. From then on all that goes wrong ends without one, and is said in the
Reason: nothing half done comes back. Only the standard library is needed for a plain reboot.
"""

from __future__ import annotations

import os
import platform
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from slurm_gsp.config import DEFAULT_PATH, Config, ConfigError, load_config
from slurm_gsp.core.operation import Operation, parse_operation
from slurm_gsp.core.reason import is_ours
from slurm_gsp.hook.main import say
from slurm_gsp.node.detach import detach
from slurm_gsp.node.failing import Failure, RefusedError, StepError
from slurm_gsp.node.holders import ancestors
from slurm_gsp.node.host import Host, this_host
from slurm_gsp.node.lock import BusyError, only_one
from slurm_gsp.node.power import reboot
from slurm_gsp.node.steps import Log
from slurm_gsp.slurm.client import NodeState, SlurmError
from slurm_gsp.slurm.on_node import ScontrolOfNode, SlurmOfNode
from slurm_gsp.slurm.scontrol import parse_node

NAMES: Final = ("SLURM_NODE_NAME", "SLURMD_NODENAME")
ASK_S: Final = 60.0
"""How long Slurm is asked for the Reason before the node is rebooted without it."""
PAUSE_S: Final = 5.0
OVER: Final = ("reboot complete", "reboot timed out")
"""What Slurm puts behind the Reason of an operation that is over; 24.11 leaves it there for later reboots."""


def main() -> int:
    """Detach a worker that realigns and reboots."""
    name = node_name(os.environ, Path("/proc"), os.getpid())
    conf = os.environ.get("SLURM_CONF")
    detach(lambda: work(name, conf))
    return 0


def node_name(environment: Mapping[str, str], proc: Path, pid: int) -> str:
    """Slurm's name for this node: told, or that of the slurmd that started us, or the short host name."""
    told = next((environment[name] for name in NAMES if environment.get(name)), None)
    return told or _slurmds_name(proc, pid) or platform.node().partition(".")[0]


def _slurmds_name(proc: Path, pid: int) -> str | None:
    for above in ancestors(proc, pid):
        words = _command_line(proc, above)
        if words and words[0].rpartition("/")[2] == "slurmd":
            return next(_names(words), None)
    return None


def _names(words: list[str]) -> Iterator[str]:
    """What follows -N."""
    for word, following in zip(words[1:], [*words[2:], ""], strict=True):
        if word == "-N" and following:
            yield following
        elif word.startswith("-N") and len(word) > 2:
            yield word[2:]


def _command_line(proc: Path, pid: int) -> list[str]:
    try:
        return (proc / str(pid) / "cmdline").read_text("utf-8", "replace").rstrip("\0").split("\0")
    except OSError:
        return []


def work(name: str, conf: str | None) -> None:
    """The detached half, on this machine."""
    config, mistake = configuration(DEFAULT_PATH)
    client = ScontrolOfNode(
        scontrol=config.slurm.scontrol, deadline_s=config.deadlines.slurm_s, conf=config.slurm.conf or conf
    )
    Worker(this_host(name, config), config, client, mistake).run()


def configuration(path: str) -> tuple[Config, str]:
    """The configuration; with mistakes in it, the defaults and the first mistake."""
    try:
        return load_config(path), ""
    except ConfigError as error:
        return Config(), error.errors[0]
    except Exception as error:
        return Config(), f"{path}: {type(error).__name__}: {error}"


@dataclass(frozen=True, slots=True)
class Worker:
    """One reboot request; ``mistake`` is what is wrong with the configuration."""

    host: Host
    config: Config
    client: SlurmOfNode
    mistake: str = ""
    clock: Callable[[], float] = time.monotonic

    def run(self) -> None:
        """Reboot, after a realignment where the Reason asks for one."""
        with ExitStack() as held:
            try:
                held.enter_context(only_one(self.host))
            except BusyError as error:
                say(str(error))
                return
            except OSError as error:  # no place for a lock: no realignment either
                self._plain(f"{type(error).__name__}: {error}")
                return
            self._locked()

    def _locked(self) -> None:
        try:
            record = self._ask()
            operation = asked_for(parse_node(record)) if record else None
        except Exception as error:
            self._plain(f"{type(error).__name__}: {error}")
            return
        if operation is None:
            self._plain("no realignment was asked for" if record else "Slurm could not be asked why")
            return
        failure = self._realigned(operation, record)
        if failure is not None:
            self._refuse(failure)

    def _ask(self) -> str:
        """The node's record; empty where Slurm gives none for a while."""
        until = self.clock() + ASK_S
        while True:
            try:
                return self.client.record(self.host.node)
            except (SlurmError, ValueError) as error:
                say(f"{self.host.node}: {error}")
            if self.clock() >= until:
                return ""
            self.host.pause(PAUSE_S)

    def _realigned(self, operation: Operation, record: str) -> Failure | None:
        """Realign and reboot. What stands against it, or is our own fault, fails the first step."""
        try:
            if self.mistake:
                raise RefusedError([self.mistake])
            return _realign(self.host, self.config, operation, record)
        except RefusedError as error:
            _say_all(error.why)
            return Failure(1, "preflight", error.why[0])
        except Exception as error:
            _say_all(traceback.format_exc().splitlines())
            return Failure(1, "preflight", f"{type(error).__name__}: {error}")

    def _refuse(self, failure: Failure) -> None:
        """No reboot: say in the Reason what failed, unless somebody put another one there meanwhile."""
        say(f"{self.host.node}: {failure.reason}")
        until = self.clock() + ASK_S
        while True:
            try:
                self.client.drain_unless(
                    self.host.node, failure.reason, lambda state: not is_ours(state.reason)
                )
                return
            except SlurmError as error:
                say(f"{self.host.node}: the Reason was not set: {error}")
            if self.clock() >= until:
                return
            self.host.pause(PAUSE_S)

    def _plain(self, why: str) -> None:
        """A reboot as it was asked for."""
        say(f"{self.host.node}: plain reboot: {why}")
        try:
            reboot(self.host, self.config, Log(Path(os.devnull)))
        except StepError as error:
            say(f"{self.host.node}: not rebooted: {error}")


def _say_all(lines: Iterable[str]) -> None:
    for line in lines:
        say(line)


def asked_for(state: NodeState) -> Operation | None:
    """The operation that a node's Reason asks for now.

    None for one that is over, and for one whose drain was lifted: 24.11 leaves it on a node in service.
    """
    if "DRAIN" not in state.states or any(word in state.reason for word in OVER):
        return None
    return parse_operation(state.reason)


def _realign(host: Host, config: Config, operation: Operation, record: str) -> Failure | None:
    """Imported late: a plain reboot must not need what a realignment needs."""
    from slurm_gsp.manifest.nodes import parse_nodes  # noqa: PLC0415
    from slurm_gsp.node.realign import log_of, realign, reboot_realigned  # noqa: PLC0415
    from slurm_gsp.node.target import of_operation  # noqa: PLC0415

    target = of_operation(operation, config, parse_nodes(record)[0], owner_uid=host.owner_uid)
    log = log_of(host, operation)
    return realign(host, config, target, log) or reboot_realigned(host, config, log)
