"""Campaigns in the lab: a site on its Slurm, plans that begin now, a controller that can be watched."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from slurm_gsp import process
from slurm_gsp.campaign.advance import first_state
from slurm_gsp.campaign.controller import Controller
from slurm_gsp.campaign.ledger import Ledger
from slurm_gsp.campaign.model import Heading, Limits, Plan, PlannedProfile, Slot, Wave, WaveKind
from slurm_gsp.campaign.planfile import seal
from slurm_gsp.campaign.state import NodeRecord, Phase, State, Status
from slurm_gsp.campaign_cli import Outside, Site
from slurm_gsp.config import parse_config
from slurm_gsp.lab import packages, rehearsal
from slurm_gsp.lab.cluster import Lab, Node
from slurm_gsp.slurm.client import SlurmError

OLD, NEW = packages.INSTALLED, packages.UPDATE
SITE_CONFIG = """
[slurm]
conf = "{conf}"
[realign]
manifest = "{manifest}"
[campaign]
ledger = "sqlite:///{ledger}"
poll_s = 1
wait_s = 30
return_s = 90
proof_s = 60
verify_s = 60
{campaign}
"""


def digest(lab: Lab, name: str) -> str:
    return hashlib.sha256((lab.manifests / f"{name}.toml").read_bytes()).hexdigest()


def site(lab: Lab, folder: Path, campaign: str = "") -> Site:
    """The admin's side. A suite's commands run in the lab's control machine."""

    def run(argv: Sequence[str], **options: object) -> process.Finished:
        command = lab.slurm_command([Path(argv[0]).name, *argv[1:]]) if lab.suite else list(argv)
        env = {"PATH": lab.environment["PATH"], **(options.pop("env", None) or {})}
        return process.run(command, env=env, **options)

    return Site(parse_config(site_text(lab, folder, campaign), "site.toml"), Outside(run=run))


def site_text(lab: Lab, folder: Path, campaign: str = "") -> str:
    """The configuration of the admin's side."""
    return SITE_CONFIG.format(
        conf=lab.conf,
        manifest=lab.manifests / f"{rehearsal.NEW}.toml",
        ledger=folder / "ledger.db",
        campaign=campaign,
    )


def plan(lab: Lab, waves: Sequence[Sequence[str]], name: str = "c1", **limits: object) -> Plan:
    """A plan whose canary begins now; the waves to come are planned close behind, and wait as they must."""
    now = datetime.now(UTC).replace(microsecond=0)
    drivers = tuple(PlannedProfile(variant, NEW, 2, OLD) for variant in ("h100", "a100", "l40s"))
    pin, before = rehearsal.NEW, rehearsal.OLD
    heading = Heading(name, pin, digest(lab, pin), "standard", 0, before, digest(lab, before), drivers)
    chosen = Limits(**{"max_out_percent": None, "soak_s": 2, **limits})
    made = []
    for number, names in enumerate(waves):
        start = now + timedelta(seconds=15 * number)
        slots = tuple(Slot(node, lab.variant(node), start, lab.variant(node)) for node in names)
        made.append(Wave(number, WaveKind.WAVE if number else WaveKind.CANARY, slots))
    return seal(Plan(heading, now, 60, chosen, tuple(made), ()))


@dataclass
class Watched:
    """A campaign that is run here, with what was seen at each look."""

    lab: Lab
    site: Site
    plan: Plan
    told: list[str] = field(default_factory=list)
    each_tick: Callable[[State], None] = lambda _: None

    def schedule(self, ledger: Ledger) -> None:
        """As `slurm-gsp schedule` does."""
        terms = self.site.terms(self.plan)
        ledger.add(self.plan, first_state(terms, datetime.now(UTC)))
        with ledger.lead(self.plan.campaign, 60) as lead:
            while lead.state().status is Status.SCHEDULING:
                Controller(terms, lead, replace(self.site.around(terms), tell=self.told.append)).tick()

    def run(self, patience_s: float = 240) -> State:
        """Schedule it and carry it out, as `slurm-gsp run` does; its end."""
        terms = self.site.terms(self.plan)
        around = replace(self.site.around(terms), tell=self.told.append)
        until = time.monotonic() + patience_s
        with closing(self.site.ledger()) as ledger:
            self.schedule(ledger)
            with ledger.lead(self.plan.campaign, 60) as lead:
                controller = Controller(terms, lead, around)
                while time.monotonic() < until:
                    try:
                        tick = controller.tick()
                    except SlurmError as error:
                        self.told.append(f"Slurm: {error}")
                    else:
                        self.each_tick(tick.state)
                        if tick.finished:
                            return tick.state
                    time.sleep(0.5)
        raise AssertionError("not finished:\n" + "\n".join(self.told[-30:]))


def record(state: State, node: str) -> NodeRecord:
    return next(one for one in state.nodes if one.node == node)


def phases(state: State) -> dict[str, str]:
    return {one.node: one.phase.value for one in state.nodes}


def when(phase: Phase, node: str, act: Callable[[], None]) -> Callable[[State], None]:
    """Do something once, when this node is seen in this phase."""
    done: list[bool] = []

    def watch(state: State) -> None:
        if not done and record(state, node).phase is phase:
            done.append(True)
            act()

    watch.done = done  # type: ignore[attr-defined]
    return watch


def loaded(node: Node) -> str:
    return node.read("/sys/module/nvidia/version").strip()


def reservations(lab: Lab) -> str:
    said = lab.slurm(["scontrol", "-o", "show", "reservation"], check=False).stdout
    return "" if "No reservations" in said else said
