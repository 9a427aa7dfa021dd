"""The commands that carry campaigns out, from `approve` to `history`."""

from __future__ import annotations

import getpass
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NoReturn

import click

from slurm_gsp import options, process
from slurm_gsp.campaign.advance import advance, first_state, wave_name
from slurm_gsp.campaign.approve import NotApprovedError, approve, approvers
from slurm_gsp.campaign.controller import Controller, Surroundings
from slurm_gsp.campaign.execute import Executor
from slurm_gsp.campaign.ledger import CampaignRow, LeaseTakenError, Ledger, LedgerError, alive
from slurm_gsp.campaign.look import Look, parse_look
from slurm_gsp.campaign.model import Plan
from slurm_gsp.campaign.planfile import PlanFileError, load_plan
from slurm_gsp.campaign.report import as_object, plain, print_campaigns, print_changes, print_status
from slurm_gsp.campaign.state import AskGate, Decision, Phase, State, Status, Terms
from slurm_gsp.config import Config, ConfigError, load_config
from slurm_gsp.core.published import Level
from slurm_gsp.manifest.match import folded
from slurm_gsp.manifest.sign import FileError, SignatureError, SshKeygen, digest, read_file
from slurm_gsp.plan_cli import Effects as PlanEffects
from slurm_gsp.plan_cli import plan as plan_command
from slurm_gsp.slurm.admin import Run, ScontrolAdmin, SlurmAdmin
from slurm_gsp.slurm.choose import Place, admin, choose
from slurm_gsp.slurm.client import Denied, SlurmError, SlurmMissing
from slurm_gsp.slurm.fleet import expand, read_campaign

TAKEN: Final = 3
"""Exit code: another controller works on the campaign."""
HALTED: Final = 1
_LIVE: Final = (Status.SCHEDULING, Status.RUNNING, Status.PAUSED)
_LIMIT_BYTES: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Outside:
    """What these commands reach outside: processes, the clock, time that passes."""

    run: Run = process.run
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    sleep: Callable[[float], None] = time.sleep


_dry = click.option("--dry-run", is_flag=True, help="Print what would be done, and do nothing.")
_plan_file = click.argument("plan_file", metavar="PLAN", type=click.Path(path_type=Path))


class Site:
    """One site's configuration, ledger and Slurm."""

    def __init__(self, config: Config, outside: Outside) -> None:
        self.config = config
        self.outside = outside
        self.slurm = config.slurm

    def ledger(self) -> Ledger:
        """The ledger; LedgerError where it cannot be used."""
        return Ledger(self.config.campaign.ledger, _who(), clock=self.outside.clock)

    def terms(self, plan: Plan, *, ignore_jobs: bool = False) -> Terms:
        """What a campaign goes by here."""
        campaign = self.config.campaign
        return Terms(
            plan=plan,
            level=Level(campaign.level),
            attempts=campaign.attempts,
            wait_s=campaign.wait_s,
            return_s=campaign.return_s,
            proof_s=campaign.proof_s,
            verify_s=campaign.verify_s,
            lead_s=int(4 * campaign.poll_s) + 5,
            ignore_jobs=ignore_jobs,
            gate_commands=bool(campaign.gates),
        )

    def look(self, names: Collection[str]) -> Look:
        """Four reads of Slurm, whatever the number of nodes."""
        squeue = str(Path(self.slurm.scontrol).with_name("squeue"))
        run = self.outside.run
        reader = None if run is process.run else run
        text = read_campaign(
            reader, scontrol=self.slurm.scontrol, squeue=squeue, conf=self.slurm.conf or None
        )
        return parse_look(text, names, self.outside.clock())

    @property
    def place(self) -> Place:
        """Where Slurm is."""
        deadline_s = max(30.0, self.config.deadlines.slurm_s)
        return Place(self.slurm.scontrol, self.slurm.conf or None, deadline_s)

    def executor(self, terms: Terms, run: Run | None = None) -> Executor:
        """What does the effects, or with another ``run`` only tells them, as commands."""
        place = self.place
        if run is not None:
            slurm: SlurmAdmin = ScontrolAdmin(
                run, scontrol=place.scontrol, deadline_s=place.deadline_s, conf=place.conf
            )
        else:
            try:
                slurm = admin(self.slurm.backend, place, self.outside.run)
            except SlurmError as error:
                _fail(str(error))
        campaign = self.config.campaign
        return Executor(slurm, terms, campaign.users, campaign.command)

    def around(self, terms: Terms) -> Surroundings:
        """Everything that a controller reaches."""
        return Surroundings(
            look=self.look,
            executor=self.executor(terms),
            ask_gate=lambda ask: self._ask_gate(terms, ask),
            clock=self.outside.clock,
            tell=self.tell,
        )

    def tell(self, text: str) -> None:
        """A line of progress."""
        click.echo(f"{self.outside.clock().astimezone():%H:%M:%S}  {plain(text)}")

    def _ask_gate(self, terms: Terms, ask: AskGate) -> tuple[bool, str]:
        env = {
            "GSP_CAMPAIGN": terms.plan.campaign,
            "GSP_WAVE": str(ask.wave),
            "GSP_NODES": folded(ask.nodes),
        }
        for argv in self.config.campaign.gates:
            try:
                done = self.outside.run(argv, deadline_s=self.config.campaign.gate_s, env=env)
            except process.ProcessError as error:
                return False, str(error)
            if done.rc != 0:
                said = " ".join((done.stderr or done.stdout).split())[:200]
                return False, f"{argv[0]}: exit status {done.rc}" + (f": {said}" if said else "")
        return True, ""


@click.command("approve")
@_plan_file
@click.option(
    "--key",
    required=True,
    type=click.Path(path_type=Path),
    help="OpenSSH private key, or the public key of one that ssh-agent holds.",
)
def approve_command(plan_file: Path, key: Path) -> None:
    """Approve PLAN: sign its digest, into a file beside it."""
    plan = _load(plan_file)
    try:
        target = approve(plan_file, plan, key, keygen=SshKeygen(agent=os.environ.get("SSH_AUTH_SOCK")))
    except (SignatureError, FileError) as error:
        _fail(str(error))
    click.echo(f"{target}: written, over {plan.digest}")


@click.command()
@_plan_file
@click.option("--ignore-jobs", is_flag=True, help="Reserve also where jobs run into a slot (IGNORE_JOBS).")
@_dry
@options.CONFIG
@click.pass_context
def schedule(
    context: click.Context, plan_file: Path, ignore_jobs: bool, dry_run: bool, config_path: Path
) -> None:
    """Reserve the nodes of PLAN, one maintenance reservation for each, and enter the campaign.

    Run twice, nothing changes; run after it was cut off, it finishes. Asks for as many approvals as the
    change class of the plan does. Exit code: 0, or 1 where the campaign cannot be scheduled.
    """
    site = _site(context, config_path)
    plan = _load(plan_file)
    if not plan.slots:
        _fail(f"{plan_file}: no node is planned in it")
    allowed = Path(site.config.campaign.approvers) if site.config.campaign.approvers else None
    try:
        people = approvers(plan_file, plan, allowed)
    except NotApprovedError as error:
        _fail(str(error))
    terms = site.terms(plan, ignore_jobs=ignore_jobs)
    state = first_state(terms, site.outside.clock())
    if dry_run:
        _print_effects(site, terms, state)
        return
    with closing(_ledger(site)) as ledger:
        try:
            new = ledger.add(plan, state, people, ignore_jobs=ignore_jobs)
            row = _campaign(ledger, plan.campaign)
            if not new and row.status is not Status.SCHEDULING:
                told = f"is scheduled already ({row.status.value}): nothing to do"
                click.echo(f"campaign {plan.campaign} {told}")
                return
            terms = site.terms(plan, ignore_jobs=row.ignore_jobs)
            with ledger.lead(plan.campaign, site.config.campaign.lease_s) as lead:
                controller = Controller(terms, lead, site.around(terms))
                while (before := lead.state()).status is Status.SCHEDULING:
                    if controller.tick().state == before:
                        raise SlurmError("Slurm refuses the reservations that are left")
            _print_status(site, ledger, plan.campaign)
            if not plan.limits.ahead:
                click.echo("the canary is reserved; a wave is in turn, once it is open")
        except (LedgerError, SlurmError) as error:
            _fail(f"{error}\nnot all is reserved: run this again")
    click.echo(f"next: slurm-gsp run {plan.campaign}")


@click.command()
@click.argument("campaign")
@click.option("--quiet", is_flag=True, help="Print the end only.")
@options.CONFIG
@click.pass_context
def run(context: click.Context, campaign: str, quiet: bool, config_path: Path) -> None:
    """Carry CAMPAIGN out until it is done or halted.

    It can be ended and started again at any time: everything is in the ledger and in Slurm. Exit code:
    0 done, 1 halted or wrong, 3 another controller works on it.
    """
    site = _site(context, config_path)
    with closing(_ledger(site)) as ledger:
        row = _campaign(ledger, campaign)
        _check_runnable(site, row)
        terms = site.terms(row.plan, ignore_jobs=row.ignore_jobs)
        around = site.around(terms)
        if quiet:
            around = replace(around, tell=lambda _: None)
        try:
            with ledger.lead(campaign, site.config.campaign.lease_s) as lead:
                _loop(site, Controller(terms, lead, around))
        except LeaseTakenError as error:
            click.echo(str(error), err=True)
            sys.exit(TAKEN)
        except LedgerError as error:
            _fail(str(error))
        except KeyboardInterrupt:
            click.echo(f"stopped; everything stands as it is: slurm-gsp run {campaign} goes on")
            sys.exit(130)
        _end(site, ledger, campaign)


def _loop(site: Site, controller: Controller) -> None:
    """Tick until nothing is left. A Slurm that is away is waited for, one that refuses us is not."""
    away = ""
    while True:
        try:
            tick = controller.tick()
        except (Denied, SlurmMissing) as error:
            _fail(str(error))
        except SlurmError as error:
            if str(error) != away:
                site.tell(f"Slurm does not answer, waiting: {error}")
            away = str(error)
        else:
            away = ""
            if tick.finished:
                return
        site.outside.sleep(site.config.campaign.poll_s)


@click.command()
@click.argument("campaign")
@_dry
@options.CONFIG
@click.pass_context
def step(context: click.Context, campaign: str, dry_run: bool, config_path: Path) -> None:
    """One look at CAMPAIGN and what follows from it, for a timer unit.

    Exit code: 0, also when there was nothing to do; 1 halted or wrong; 3 another controller works on it.
    """
    site = _site(context, config_path)
    with closing(_ledger(site)) as ledger:
        row = _campaign(ledger, campaign)
        _check_runnable(site, row)
        terms = site.terms(row.plan, ignore_jobs=row.ignore_jobs)
        try:
            if dry_run:
                _print_effects(site, terms, ledger.state(campaign))
                return
            with ledger.lead(campaign, site.config.campaign.lease_s) as lead:
                Controller(terms, lead, site.around(terms)).tick()
        except LeaseTakenError as error:
            click.echo(str(error), err=True)
            sys.exit(TAKEN)
        except (LedgerError, SlurmError) as error:
            _fail(str(error))
        if ledger.state(campaign).status is Status.HALTED:
            _end(site, ledger, campaign)


def _order(before: Sequence[Status], after: Status, why: Callable[[str], str]) -> Callable[..., None]:
    @click.pass_context
    def command(context: click.Context, campaign: str, config_path: Path) -> None:
        site = _site(context, config_path)
        with closing(_ledger(site)) as ledger:
            row = _campaign(ledger, campaign)
            if not ledger.order(campaign, before, after, why(_who())):
                wanted = " or ".join(status.value for status in before)
                _fail(f"campaign {campaign} is {row.status.value}, not {wanted}: nothing changed")
            click.echo(f"campaign {campaign}: {after.value}")
            lease = ledger.lease(campaign)
            working = lease is not None and alive(lease, site.config.campaign.lease_s, site.outside.clock())
            if lease is not None and working:
                click.echo(f"carried out by {lease.who} (process {lease.owner}) at the next look")
            else:
                click.echo(f"nobody runs it: slurm-gsp run {campaign} carries that out")

    return command


pause = click.command("pause", help="Touch no new node of CAMPAIGN; nodes in hand are finished.")(
    click.argument("campaign")(
        options.CONFIG(_order([Status.RUNNING], Status.PAUSED, lambda who: f"paused by {who}"))
    )
)
resume = click.command("resume", help="Go on with a paused CAMPAIGN.")(
    click.argument("campaign")(options.CONFIG(_order([Status.PAUSED], Status.RUNNING, lambda _: "")))
)
abort = click.command(
    "abort",
    help="End CAMPAIGN: untouched nodes are let go, nodes in hand are finished, nothing else is touched.",
)(click.argument("campaign")(options.CONFIG(_order(_LIVE, Status.HALTED, lambda who: f"aborted by {who}"))))


@click.command()
@click.argument("campaign", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@options.CONFIG
@click.pass_context
def status(context: click.Context, campaign: str | None, as_json: bool, config_path: Path) -> None:
    """How CAMPAIGN stands; without it, all campaigns. Asks the ledger alone."""
    site = _site(context, config_path)
    with closing(_ledger(site)) as ledger:
        if campaign is not None and not as_json:
            _print_status(site, ledger, campaign)
            return
        rows = [_campaign(ledger, campaign)] if campaign is not None else ledger.campaigns()
        stand = [(row, ledger.state(row.name)) for row in rows]
        if as_json:
            objects = [as_object(*each) for each in stand]
            click.echo(json.dumps(objects if campaign is None else objects[0], indent=2))
        else:
            print_campaigns(stand)


@click.command()
@click.argument("name", metavar="NODE|CAMPAIGN")
@click.option("--all", "everything", is_flag=True, help="Every observation, decision and effect.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object for each line of history.")
@options.CONFIG
@click.pass_context
def history(context: click.Context, name: str, everything: bool, as_json: bool, config_path: Path) -> None:
    """What was changed on a node, or by a campaign: when, from which version to which, why, by whom."""
    site = _site(context, config_path)
    with closing(_ledger(site)) as ledger:
        rows = ledger.campaigns()
        is_campaign = any(row.name == name for row in rows)
        if everything or as_json:
            events = ledger.events(campaign=name) if is_campaign else ledger.events(node=name)
            for event in events:
                told = {
                    "at": event.at.isoformat(), "campaign": event.campaign, "node": event.node,
                    "kind": event.kind.value, "what": event.what, "by": event.by, "data": event.data,
                }  # fmt: skip
                if as_json:
                    click.echo(json.dumps(told, default=str))
                else:
                    where = event.node or "-"
                    when = f"{event.at.astimezone():%Y-%m-%d %H:%M:%S}"
                    click.echo(plain(f"{when}  {event.campaign}  {where}  {event.kind.value:8} {event.what}"))
            return
        changes = [
            (row, record)
            for row in rows
            for record in ledger.state(row.name).nodes
            if name in {row.name, record.node}
        ]
        if not changes:
            _fail(f"the ledger knows no node and no campaign {name}")
        print_changes(changes)


@click.command()
@click.argument("nodes")
@options.CONFIG
@click.pass_context
def lift(context: click.Context, nodes: str, config_path: Path) -> None:
    """Let NODES (a hostlist) that were rolled back be planned again."""
    site = _site(context, config_path)
    with closing(_ledger(site)) as ledger:
        try:
            names = expand(nodes)
            lifted = ledger.lift(names)
        except (LedgerError, SlurmError) as error:
            _fail(str(error))
        for name in lifted:
            click.echo(f"{name}: lifted")
        others = sorted(set(names) - set(lifted))
        if others:
            click.echo(f"not held: {folded(others)}")


@click.command()
@click.argument("target", metavar="CAMPAIGN|NODES")
@click.option("--out", type=click.Path(path_type=Path), help="The plan file.  [default: NAME.plan.json]")
@options.CONFIG
@click.pass_context
def rollback(context: click.Context, target: str, out: Path | None, config_path: Path) -> None:
    """Plan the way back: what a campaign returned goes onto the manifest before it, and stays there.

    A running campaign is halted first. NODES is a hostlist of nodes that one campaign returned. The plan has
    the limits of class emergency, and is scheduled and run as any other.
    """
    site = _site(context, config_path)
    with closing(_ledger(site)) as ledger:
        row, nodes = _to_roll_back(ledger, target)
        folder = Path(site.config.realign.manifest).parent
        manifest = _previous(row, folder)
        if ledger.order(row.name, _LIVE, Status.HALTED, f"rolled back by {_who()}"):
            click.echo(f"campaign {row.name} is halted: slurm-gsp run {row.name} finishes its nodes in hand")
    context.obj = PlanEffects(site.outside.run, site.outside.clock)
    context.invoke(
        plan_command,
        manifest=manifest,
        change_class="emergency",
        campaign=f"{row.name}-rollback",
        nodes=folded(nodes),
        hold=True,
        out=out,
        config_path=config_path,
    )


def _to_roll_back(ledger: Ledger, target: str) -> tuple[CampaignRow, tuple[str, ...]]:
    """The campaign that a rollback undoes, and the nodes of it."""
    row = ledger.find(target)
    if row is not None:
        nodes = tuple(one.node for one in ledger.state(target).nodes if one.phase is Phase.RETURNED)
        if not nodes:
            _fail(f"campaign {target} has returned no node: there is nothing to roll back")
        return row, nodes
    try:
        names = expand(target)
    except SlurmError as error:
        _fail(str(error))
    last: dict[str, CampaignRow] = {}
    for each in ledger.campaigns():
        for record in ledger.state(each.name).nodes:
            if record.node in names and record.phase is Phase.RETURNED:
                last[record.node] = each
    missing = sorted(set(names) - set(last))
    if missing:
        _fail(f"no campaign of the ledger has returned {folded(missing)}")
    if len({each.name for each in last.values()}) > 1:
        told = ", ".join(f"{node} by {each.name}" for node, each in sorted(last.items()))
        _fail(f"several campaigns returned them ({told}): roll them back one after the other")
    return last[names[0]], names


def _previous(row: CampaignRow, folder: Path) -> Path:
    """The file of the manifest before the campaign's, unaltered."""
    name = row.plan.heading.previous
    if name is None:
        _fail(f"manifest {row.plan.heading.manifest} names none before it: there is nothing to roll back to")
    path = folder / f"{name}.toml"
    try:
        found = digest(read_file(path))
    except FileError as error:
        _fail(f"{error}; manifest in [realign] says where manifests lie")
    if found != row.plan.heading.previous_digest:
        _fail(f"{path}: another text than when campaign {row.name} was planned: its SHA-256 is {found}")
    return path


COMMANDS: Final = (
    approve_command, schedule, run, step, pause, resume, abort, rollback, status, history, lift,
)  # fmt: skip


# -- what they share -----------------------------------------------------------------------------------------


def _site(context: click.Context, config_path: Path) -> Site:
    outside = context.obj if isinstance(context.obj, Outside) else Outside()
    try:
        return Site(load_config(config_path), outside)
    except ConfigError as error:
        _fail(*error.errors)


def _ledger(site: Site) -> Ledger:
    try:
        return site.ledger()
    except LedgerError as error:
        _fail(str(error))


def _load(plan_file: Path) -> Plan:
    try:
        return load_plan(read_file(plan_file).decode("utf-8"))
    except (FileError, PlanFileError) as error:
        told = str(error)
        _fail(told if told.startswith(str(plan_file)) else f"{plan_file}: {told}")
    except UnicodeDecodeError:
        _fail(f"{plan_file}: not a plan file: not UTF-8 text")


def _campaign(ledger: Ledger, name: str) -> CampaignRow:
    try:
        row = ledger.find(name)
        if row is None:
            known = ", ".join(one.name for one in ledger.campaigns()) or "none"
            _fail(f"the ledger knows no campaign {name}; it knows: {known}")
        return row
    except LedgerError as error:
        _fail(str(error))


def _check_runnable(site: Site, row: CampaignRow) -> None:
    if row.status is Status.SCHEDULING:
        _fail(f"campaign {row.name} is half scheduled: slurm-gsp schedule PLAN finishes that first")
    if site.config.verify.publish == "off":
        _fail(
            'publish = "off" in [verify]: nodes could not say whether they are verified; '
            'set "extra" or "comment"'
        )


def _end(site: Site, ledger: Ledger, campaign: str) -> None:
    _print_status(site, ledger, campaign)
    if ledger.state(campaign).status is Status.HALTED:
        sys.exit(HALTED)


def _who() -> str:
    """Who gives the orders: the person behind sudo, where there is one."""
    return f"{os.environ.get('SUDO_USER') or getpass.getuser()}@{socket.gethostname().partition('.')[0]}"


class _Printer:
    """In the place of processes: says what would be run, and that it went well."""

    def __call__(
        self,
        argv: Sequence[str],
        *,
        deadline_s: float,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> process.Finished:
        del deadline_s, env
        click.echo(f"  {shlex.join([Path(argv[0]).name, *argv[1:]])}" + (" <<'END'" if stdin else ""))
        if stdin:
            click.echo("".join(f"  {line}\n" for line in [*stdin.splitlines(), "END"]), nl=False)
        return process.Finished(tuple(argv), 0, "0", "")


def _print_effects(site: Site, terms: Terms, state: State) -> None:
    """The very effects that the real run would do now, by the same executor."""
    try:
        look = site.look([record.node for record in state.nodes])
    except SlurmError as error:
        _fail(str(error))
    decision = advance(terms, state, look)
    executor = site.executor(terms, _Printer())
    before = {record.node: record for record in state.nodes}
    for move in decision.moves:
        was = before[move.record.node]
        why = f": {move.record.why}" if move.record.why else ""
        click.echo(plain(f"{was.node}: {was.phase.value} -> {move.record.phase.value}{why}"))
        before[was.node] = move.record
        for effect in move.effects:
            executor.perform_many([effect])
    if decision.ask is not None:
        for argv in site.config.campaign.gates:
            click.echo(f"gate: {shlex.join(argv)}")
    if decision.gate is not None:
        told = decision.gate.told or decision.gate.state.value
        click.echo(f"gate after {wave_name(decision.gate.wave)}: {told}")
    if decision.status is not None:
        click.echo(plain(f"campaign: {decision.status.value} {decision.why}".rstrip()))
    if decision == Decision():
        click.echo("nothing to do now")
    try:
        choice = choose(site.slurm.backend, site.place, site.outside.run)
    except SlurmError as error:
        _fail(str(error))
    click.echo(f"Slurm would be changed through {choice.backend}: {choice.why}")


def _print_status(site: Site, ledger: Ledger, name: str) -> None:
    lease = ledger.lease(name)
    working = lease is not None and alive(lease, site.config.campaign.lease_s, site.outside.clock())
    print_status(_campaign(ledger, name), ledger.state(name), lease if working else None)


def _fail(*errors: str) -> NoReturn:
    for error in errors:
        click.echo(error, err=True)
    sys.exit(1)
