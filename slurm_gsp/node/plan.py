"""The plan of a maintenance: all its steps in order, with their scripts in full. Pure but for the templates.

A dry run prints the plan, the real run executes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from slurm_gsp.config import Config
from slurm_gsp.core.view import NEEDED_MODULES
from slurm_gsp.node import packages as pkg
from slurm_gsp.node.host import RUN
from slurm_gsp.node.situation import Situation
from slurm_gsp.node.staging import STATUS
from slurm_gsp.node.target import Target
from slurm_gsp.parse.packages import Package

Render: TypeAlias = Callable[[str, Mapping[str, object]], str]
"""From a template's name and its values to the script."""

UNITS: Final = (
    "dcgm-exporter", "nvidia-dcgm-exporter", "nvidia-dcgm", "dcgm", "nvidia-imex", "nvidia-fabricmanager",
    "nvidia-persistenced",
)  # fmt: skip
"""systemd's services that keep the driver open, the ones that need others first."""
UNLOAD_ORDER: Final = ("nvidia_peermem", "nvidia_drm", "nvidia_modeset", "nvidia_uvm", "nvidia")
"""What rests on others goes first."""
UNLOAD_S: Final = 60
"""How long one module may take to go; a driver that is wedged never lets it."""

PREFLIGHT: Final = "preflight"
PIN: Final = "pin"
REBOOT: Final = "reboot"


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One step: what it does, its script if it has one, and why there is nothing to do, if there is not."""

    number: int
    name: str
    does: str
    script: str = ""
    idle: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of one maintenance; ``title`` and ``notes`` are for people."""

    title: str
    steps: tuple[PlannedStep, ...]
    notes: tuple[str, ...] = ()


_DOES: Final[Mapping[str, str]] = {
    PREFLIGHT: "what stands against it, before anything is changed",
    "fetch": "fetch the pinned packages and what they need, and compare their digests",
    "holders": "name the processes that have the driver open; one that belongs to a Slurm job ends this",
    "stop-services": "stop the services that keep the driver open",
    "unload": "unload the modules; what does not go, a realignment leaves to the reboot",
    "purge": "finish an interrupted installation; remove driver packages that are of another driver",
    "install": "install the pinned versions anew, in one transaction and from what was fetched",
    "build": "build the modules for the kernel that boots next",
    "check": "module, GSP image and libraries on disk are of the pinned driver",
    "initramfs": "renew the initial RAM disk of that kernel",
    "hold": "keep the package manager from moving the pinned packages",
    PIN: "write down what this node is pinned to",
    REBOOT: "reboot",
    "load": "load the modules again",
    "start-services": "start again what was stopped",
    "look": "is the node consistent now?",
}
_REALIGN: Final = (
    PREFLIGHT, "fetch", "holders", "stop-services", "unload", "purge", "install", "build", "check",
    "initramfs", "hold", PIN, REBOOT,
)  # fmt: skip
"""What may fail for others' sake comes before anything is stopped: a fabric manager takes jobs with it."""
REBOOT_NUMBER: Final = len(_REALIGN)
_RELOAD: Final = (PREFLIGHT, "stop-services", "holders", "unload", "load", "start-services", "look")
_PYTHON: Final = frozenset({"holders", "check", "look", PIN, REBOOT})
"""Steps without a script; preflight has one where a repository is needed."""


def is_clean(now: Situation, target: Target) -> bool:
    """Whether every package is there as pinned and as shipped, and none of another driver beside it."""
    return not (
        pkg.differences(now.packages, now.pinned, now.family) or now.altered or strays_of(now, target)
    )


def strays_of(now: Situation, target: Target) -> tuple[Package, ...]:
    """The packages that the purge removes."""
    return pkg.strays(now.packages, now.pinned, target.profile, now.family)


def plan_realign(now: Situation, target: Target, config: Config, render: Render) -> Plan:
    """The realignment of this node."""
    values = template_values(now, target, config)
    idle = _idle(now, target)
    scripts = {
        name: render(name, values)
        for name in _REALIGN
        if name not in _PYTHON and (name not in idle or (name == "fetch" and "install" not in idle))
    }
    operation, profile = target.operation, target.profile
    title = (
        f"{now.node}: {operation.kind.value} ({operation.campaign}) to {target.pinned.target}, "
        f"profile {profile.name}: driver {profile.driver}, {profile.flavour}; kernel {now.kernel}"
    )
    return Plan(title, _steps(_REALIGN, scripts, idle), tuple(_notes(now, target)))


def plan_stage(now: Situation, target: Target, config: Config, render: Render) -> Plan:
    """The part of a realignment that changes nothing: is everything offered, then fetch it."""
    values = template_values(now, target, config)
    names = (PREFLIGHT, "fetch")
    idle = dict.fromkeys(names, f"everything is in {now.folder}" if now.staged else "")
    steps = _steps(names, {name: render(name, values) for name in names}, idle)
    return Plan(f"{now.node}: stage {target.pinned.target}", steps)


def plan_reload(node: str, loaded: Sequence[str], render: Render, *, persistence: bool) -> Plan:
    """Unload the driver and load it again; ``loaded`` are the modules that are loaded now.

    ``persistence``: GPUs have persistence mode on, and are to have it again.
    """
    wanted = [name for name in reversed(UNLOAD_ORDER) if name in loaded] or list(NEEDED_MODULES[:4])
    values = {**_service_values(), "modules": UNLOAD_ORDER, "load": wanted, "required": True}
    values["persistence"] = persistence
    scripts = {name: render(name, values) for name in _RELOAD if name not in {PREFLIGHT, *_PYTHON}}
    return Plan(f"{node}: reload the driver", _steps(_RELOAD, scripts, {}))


def template_values(now: Situation, target: Target, config: Config) -> dict[str, object]:
    """What a template of a realignment can use; docs/realign.md explains each."""
    native = pkg.native_arch(now.packages)
    exact = pkg.exact(now.packages, now.pinned, now.family)
    return {
        **_service_values(),
        "node": now.node,
        "driver": target.profile.driver,
        "flavour": target.profile.flavour,
        "kernel": now.kernel or "",
        "folder": now.folder,
        "status": now.folder / STATUS,
        "pinned": now.pinned,
        "names": [pin.name for pin in now.pinned],
        "bare_names": [pin.name.partition(":")[0] for pin in now.pinned],
        "specs": [pkg.spec(pin, now.family) for pin in now.pinned],
        "exact": [pkg.spec(pin, now.family) for pin in exact],
        "files": [pkg.file_pattern(pin, now.family) for pin in now.pinned],
        "strays": [pkg.full_name(package, now.family, native) for package in strays_of(now, target)],
        "streams": target.profile.packages.dnf_modules,
        "stream_names": [stream.partition(":")[0] for stream in target.profile.packages.dnf_modules],
        "modules": UNLOAD_ORDER,
        "required": False,
        "lock_wait_s": config.realign.lock_wait_s,
    }


def as_text(plan: Plan, against: Sequence[str] = ()) -> str:
    """The plan for people; ``against`` is what stands against it now."""
    lines = [plan.title, *(f"  {note}" for note in plan.notes)]
    lines += [f"would be refused now: {why}" for why in against]
    for step in plan.steps:
        lines += ["", f"{step.number:2}  {step.name}: {step.does}"]
        if step.idle:
            nothing = "no repository is needed" if step.name == PREFLIGHT else "nothing to do"
            lines.append(f"    {nothing}: {step.idle}")
        elif step.script:
            lines += [f"    | {line}".rstrip() for line in step.script.splitlines()]
    return "\n".join(lines)


def _idle(now: Situation, target: Target) -> dict[str, str]:
    """The steps that have nothing to do, and why; what is staged is looked at again before it is used."""
    idle = {}
    if is_clean(now, target):
        idle = dict.fromkeys(
            (PREFLIGHT, "fetch", "purge", "install"), "all packages are as pinned and as shipped"
        )
    elif now.staged:
        idle = dict.fromkeys((PREFLIGHT, "fetch"), f"everything is in {now.folder}")
    if not pkg.uses_dkms(now.pinned):
        idle["build"] = "no pinned package uses DKMS"
    return idle


def _service_values() -> dict[str, object]:
    return {
        "units": UNITS,
        "units_back": tuple(reversed(UNITS)),
        "stopped": RUN / "stopped-services",
        "run_folder": RUN,
        "unload_seconds": UNLOAD_S,
        "persistence": False,
    }


def _steps(
    names: Sequence[str], scripts: Mapping[str, str], idle: Mapping[str, str]
) -> tuple[PlannedStep, ...]:
    return tuple(
        PlannedStep(number, name, _DOES[name], scripts.get(name, ""), idle.get(name, ""))
        for number, name in enumerate(names, start=1)
    )


def _notes(now: Situation, target: Target) -> list[str]:
    """What would be installed and removed, and why."""
    differ = pkg.differences(now.packages, now.pinned, now.family)
    notes = [f"differs: {line}" for line in differ]
    notes += [f"differs: {path} is not as its package brought it" for path in now.altered]
    notes += [f"remove: {package.name} {package.version}" for package in strays_of(now, target)]
    if notes:
        notes += [f"install: {pin.name} {pin.version}" for pin in now.pinned]
    return notes
