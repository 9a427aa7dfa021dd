"""The ledger: what campaigns saw, decided and did, in any database that SQLAlchemy knows.

Every commit is one record. An effect has two: the intent before it and the outcome after it. Writes of a
controller are fenced: they fail once somebody else holds the campaign's lease.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine, make_url

from slurm_gsp.campaign.model import Plan
from slurm_gsp.campaign.planfile import dump_plan, load_plan
from slurm_gsp.campaign.state import Found, Gate, GateState, NodeRecord, Phase, State, Status
from slurm_gsp.core.operation import Kind, Operation

BUSY_S: Final = 30
"""How long SQLite waits for another writer."""

_METADATA: Final = sa.MetaData()
_CAMPAIGNS: Final = sa.Table(
    "campaigns",
    _METADATA,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("plan", sa.Text, nullable=False),
    sa.Column("digest", sa.String(80), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("why", sa.Text, nullable=False, default=""),
    sa.Column("ignore_jobs", sa.Boolean, nullable=False, default=False),
    sa.Column("approved_by", sa.Text, nullable=False, default=""),
    sa.Column("created", sa.String(40), nullable=False),
    sa.Column("created_by", sa.String(255), nullable=False),
)
_NODES: Final = sa.Table(
    "nodes",
    _METADATA,
    sa.Column("campaign", sa.String(64), primary_key=True),
    sa.Column("node", sa.String(255), primary_key=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("phase", sa.String(16), nullable=False),
    sa.Column("record", sa.Text, nullable=False),
)
_GATES: Final = sa.Table(
    "gates",
    _METADATA,
    sa.Column("campaign", sa.String(64), primary_key=True),
    sa.Column("wave", sa.Integer, primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("since", sa.String(40), nullable=False),
    sa.Column("told", sa.Text, nullable=False, default=""),
)
_EVENTS: Final = sa.Table(
    "events",
    _METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.String(40), nullable=False),
    sa.Column("campaign", sa.String(64), nullable=False, index=True),
    sa.Column("node", sa.String(255), nullable=True, index=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("what", sa.Text, nullable=False),
    sa.Column("data", sa.Text, nullable=False, default="{}"),
    sa.Column("by", sa.String(255), nullable=False),
)
_LEASES: Final = sa.Table(
    "leases",
    _METADATA,
    sa.Column("campaign", sa.String(64), primary_key=True),
    sa.Column("owner", sa.String(255), nullable=False),
    sa.Column("who", sa.String(255), nullable=False),
    sa.Column("since", sa.String(40), nullable=False),
    sa.Column("beat", sa.String(40), nullable=False),
)
_HOLDS: Final = sa.Table(
    "holds",
    _METADATA,
    sa.Column("node", sa.String(255), primary_key=True),
    sa.Column("campaign", sa.String(64), nullable=False),
    sa.Column("manifest", sa.String(80), nullable=False),
    sa.Column("since", sa.String(40), nullable=False),
    sa.Column("why", sa.Text, nullable=False),
)


class LedgerError(Exception):
    """The ledger cannot be used, or refuses; the message says what to do."""


class LeaseTakenError(LedgerError):
    """Another controller has the campaign; the message says who."""


class EventKind(StrEnum):
    """What an event is."""

    ORDER = "order"
    DECIDED = "decided"
    INTENT = "intent"
    DONE = "done"
    FAILED = "failed"
    GATE = "gate"
    STATUS = "status"


@dataclass(frozen=True, slots=True)
class Event:
    """One line of history. ``node`` None: of the campaign as a whole."""

    at: datetime
    campaign: str
    node: str | None
    kind: EventKind
    what: str
    by: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Note:
    """What is told in one line of history; time and person are the ledger's."""

    campaign: str
    kind: EventKind
    what: str
    node: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Line:
    """What a controller tells of one node, or of the campaign (None), in one line of history."""

    kind: EventKind
    node: str | None
    what: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CampaignRow:
    """A campaign without its nodes."""

    name: str
    plan: Plan
    status: Status
    why: str
    ignore_jobs: bool
    approved_by: tuple[str, ...]
    created: datetime
    created_by: str


@dataclass(frozen=True, slots=True)
class Lease:
    """Who works on a campaign, and when there was the last sign of life."""

    owner: str
    who: str
    since: datetime
    beat: datetime


@dataclass(frozen=True, slots=True)
class PinHold:
    """A node that stays on an older pin until somebody lifts that."""

    node: str
    campaign: str
    manifest: str
    since: datetime
    why: str


def owner_id() -> str:
    """This process, among all that ever ran on any host: host, process number and when it started."""
    return f"{socket.gethostname()}:{os.getpid()}:{_start_time(os.getpid())}"


class Ledger:
    """The ledger behind a URL. ``who`` runs this, for the history; ``owner`` names this process."""

    def __init__(
        self,
        url: str,
        who: str,
        owner: str | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.who = who
        self.owner = owner or owner_id()
        self.clock = clock
        self._engine = _open(url)
        try:
            _METADATA.create_all(self._engine)
        except sa.exc.SQLAlchemyError as error:
            raise LedgerError(f"{_shown(url)}: the ledger cannot be used: {_told(error)}") from error

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def add(
        self, plan: Plan, state: State, approved_by: Sequence[str] = (), *, ignore_jobs: bool = False
    ) -> bool:
        """Enter a campaign; False where this very plan is there. LedgerError: another one of its name."""
        known = self.find(plan.campaign)
        if known is not None:
            if known.plan.digest != plan.digest:
                raise LedgerError(
                    f"campaign {plan.campaign} is there already, with another plan ({known.plan.digest}); "
                    "give the new one another name: slurm-gsp plan --campaign NAME"
                )
            return False
        row = {
            "name": plan.campaign,
            "plan": dump_plan(plan),
            "digest": plan.digest,
            "status": state.status.value,
            "ignore_jobs": ignore_jobs,
            "approved_by": json.dumps(list(approved_by)),
            "created": _text(self.clock()),
            "created_by": self.who,
        }
        nodes = [
            {"campaign": plan.campaign, "position": position, **_node_row(record)}
            for position, record in enumerate(state.nodes)
        ]
        approvers = f", approved by {', '.join(approved_by)}" if approved_by else ""
        told = f"scheduled: class {plan.heading.change_class}, plan {plan.digest}{approvers}"
        with self.write() as connection:
            connection.execute(_CAMPAIGNS.insert().values(**row))
            connection.execute(_NODES.insert(), nodes)
            self.note(connection, Note(plan.campaign, EventKind.ORDER, told))
        return True

    def find(self, name: str) -> CampaignRow | None:
        """One campaign."""
        with self._read() as connection:
            row = connection.execute(_CAMPAIGNS.select().where(_CAMPAIGNS.c.name == name)).mappings().first()
        return None if row is None else _campaign(dict(row))

    def campaigns(self) -> tuple[CampaignRow, ...]:
        """All campaigns, the oldest first."""
        with self._read() as connection:
            rows = connection.execute(_CAMPAIGNS.select().order_by(_CAMPAIGNS.c.created)).mappings().all()
        return tuple(_campaign(dict(row)) for row in rows)

    def state(self, name: str) -> State:
        """How far a campaign is."""
        nodes = _NODES.select().where(_NODES.c.campaign == name).order_by(_NODES.c.position)
        gates = _GATES.select().where(_GATES.c.campaign == name).order_by(_GATES.c.wave)
        with self._read() as connection:
            head = connection.execute(_CAMPAIGNS.select().where(_CAMPAIGNS.c.name == name)).mappings().one()
            return State(
                status=Status(head["status"]),
                nodes=tuple(
                    _record(json.loads(row["record"])) for row in connection.execute(nodes).mappings()
                ),
                gates=tuple(_gate(dict(row)) for row in connection.execute(gates).mappings()),
                why=head["why"],
            )

    def order(self, name: str, before: Sequence[Status], after: Status, why: str) -> bool:
        """A person's word: change the status if it is one of ``before``; whether it was."""
        with self.write() as connection:
            if not set_status(connection, name, before, after, why):
                return False
            self.note(connection, Note(name, EventKind.ORDER, why or after.value))
        return True

    def holds(self) -> tuple[PinHold, ...]:
        """The nodes that are kept on an older pin."""
        with self._read() as connection:
            rows = connection.execute(_HOLDS.select().order_by(_HOLDS.c.node)).mappings().all()
        return tuple(PinHold(**{**row, "since": _time(row["since"])}) for row in rows)

    def lift(self, nodes: Sequence[str]) -> tuple[str, ...]:
        """Let these nodes be planned again; those of them that were held."""
        held = [hold for hold in self.holds() if hold.node in nodes]
        with self.write() as connection:
            for hold in held:
                connection.execute(_HOLDS.delete().where(_HOLDS.c.node == hold.node))
                told = f"hold at {hold.manifest} lifted"
                self.note(connection, Note(hold.campaign, EventKind.ORDER, told, hold.node))
        return tuple(hold.node for hold in held)

    def events(self, *, campaign: str | None = None, node: str | None = None) -> tuple[Event, ...]:
        """The history of a campaign, of a node, or of both; the oldest first."""
        query = _EVENTS.select().order_by(_EVENTS.c.id)
        if campaign is not None:
            query = query.where(_EVENTS.c.campaign == campaign)
        if node is not None:
            query = query.where(_EVENTS.c.node == node)
        with self._read() as connection:
            return tuple(_event(dict(row)) for row in connection.execute(query).mappings())

    def lease(self, name: str) -> Lease | None:
        """Who works on a campaign."""
        with self._read() as connection:
            row = connection.execute(_LEASES.select().where(_LEASES.c.campaign == name)).mappings().first()
        return None if row is None else _lease(dict(row))

    @contextmanager
    def lead(self, name: str, patience_s: int) -> Iterator[Lead]:
        """Be the one controller of a campaign. LeaseTakenError: somebody else is, and alive."""
        self._acquire(name, patience_s)
        try:
            yield Lead(self, name)
        finally:
            mine = (_LEASES.c.campaign == name) & (_LEASES.c.owner == self.owner)
            with suppress(LedgerError), self.write() as connection:
                connection.execute(_LEASES.delete().where(mine))

    def _acquire(self, name: str, patience_s: int) -> None:
        now = self.clock()
        query = _LEASES.select().where(_LEASES.c.campaign == name).with_for_update()
        with self.write() as connection:
            row = connection.execute(query).mappings().first()
            if row is not None:
                lease = _lease(dict(row))
                if lease.owner != self.owner and alive(lease, patience_s, now):
                    raise LeaseTakenError(
                        f"{name} is worked on by {lease.who} (process {lease.owner}) since "
                        f"{_text(lease.since)}, last heard of at {_text(lease.beat)}"
                    )
                connection.execute(_LEASES.delete().where(_LEASES.c.campaign == name))
            connection.execute(
                _LEASES.insert().values(
                    campaign=name, owner=self.owner, who=self.who, since=_text(now), beat=_text(now)
                )
            )

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except sa.exc.SQLAlchemyError as error:
            raise LedgerError(f"the ledger cannot be read: {_told(error)}") from error

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One record: all of it or nothing."""
        try:
            with self._engine.begin() as connection:
                yield connection
        except sa.exc.SQLAlchemyError as error:
            raise LedgerError(f"the ledger cannot be written: {_told(error)}") from error

    def note(self, connection: Connection, *notes: Note) -> None:
        """Lines of history."""
        at = _text(self.clock())
        rows = [
            {
                "at": at,
                "campaign": note.campaign,
                "node": note.node,
                "kind": note.kind.value,
                "what": note.what,
                "data": json.dumps(dict(note.data), default=str),
                "by": self.who,
            }
            for note in notes
        ]
        connection.execute(_EVENTS.insert(), rows)


class Lead:
    """What the one controller of a campaign writes."""

    def __init__(self, ledger: Ledger, name: str) -> None:
        self._ledger = ledger
        self.name = name

    def state(self) -> State:
        """How far the campaign is."""
        return self._ledger.state(self.name)

    def together(self, lines: Sequence[Line], records: Sequence[NodeRecord] = ()) -> None:
        """Several lines of history and new phases of nodes, as one record."""
        with self._fenced() as connection:
            notes = [Note(self.name, line.kind, line.what, line.node, line.data) for line in lines]
            self._ledger.note(connection, *notes)
            self._save(connection, *records)

    def gate(self, gate: Gate, what: str) -> None:
        """A gate's new state."""
        row = {"state": gate.state.value, "since": _text(gate.since), "told": gate.told}
        with self._fenced() as connection:
            where = (_GATES.c.campaign == self.name) & (_GATES.c.wave == gate.wave)
            connection.execute(_GATES.delete().where(where))
            connection.execute(_GATES.insert().values(campaign=self.name, wave=gate.wave, **row))
            self._note(connection, EventKind.GATE, what)

    def status(self, before: Status, after: Status, why: str) -> bool:
        """Change the status, unless a person has changed it meanwhile."""
        with self._fenced() as connection:
            if not set_status(connection, self.name, (before,), after, why):
                return False
            self._note(connection, EventKind.STATUS, f"{after.value}: {why}" if why else after.value)
        return True

    def beat(self) -> None:
        """A sign of life."""
        with self._fenced():
            pass

    @contextmanager
    def _fenced(self) -> Iterator[Connection]:
        """A record that holds only while the lease is ours."""
        with self._ledger.write() as connection:
            mine = (_LEASES.c.campaign == self.name) & (_LEASES.c.owner == self._ledger.owner)
            beat = _text(self._ledger.clock())
            if connection.execute(_LEASES.update().where(mine).values(beat=beat)).rowcount != 1:
                raise LeaseTakenError(f"{self.name} was taken over by another controller; this one stops")
            yield connection

    def _note(
        self,
        connection: Connection,
        kind: EventKind,
        what: str,
        node: str | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        self._ledger.note(connection, Note(self.name, kind, what, node, data or {}))

    def _save(self, connection: Connection, *records: NodeRecord) -> None:
        if not records:
            return
        where = (_NODES.c.campaign == self.name) & (_NODES.c.node == sa.bindparam("of"))
        change = _NODES.update().where(where).values(phase=sa.bindparam("to"), record=sa.bindparam("told"))
        rows = [_node_row(record) for record in records]
        connection.execute(
            change, [{"of": row["node"], "to": row["phase"], "told": row["record"]} for row in rows]
        )
        for record in records:
            if record.phase is Phase.ROLLED_BACK or (record.phase is Phase.RETURNED and record.hold):
                self._hold_pin(connection, record)

    def _hold_pin(self, connection: Connection, record: NodeRecord) -> None:
        """Keep a node that was rolled back on the older pin."""
        assert record.operation is not None
        connection.execute(_HOLDS.delete().where(_HOLDS.c.node == record.node))
        connection.execute(
            _HOLDS.insert().values(
                node=record.node,
                campaign=self.name,
                manifest=record.operation.target,
                since=_text(record.since),
                why=record.failures[-1] if record.failures else "rolled back",
            )
        )


def set_status(connection: Connection, name: str, before: Sequence[Status], after: Status, why: str) -> bool:
    """Change the status where it is one of ``before``; whether it was."""
    known = _CAMPAIGNS.c.status.in_([status.value for status in before])
    update = _CAMPAIGNS.update().where((_CAMPAIGNS.c.name == name) & known)
    return connection.execute(update.values(status=after.value, why=why)).rowcount == 1


def alive(lease: Lease, patience_s: int, at: datetime) -> bool:
    """Whether the controller behind a lease works: on this host its process says, else its last beat."""
    host, pid, started = lease.owner.rsplit(":", 2)
    if host == socket.gethostname():
        return _start_time(int(pid)) == started
    return at - lease.beat < timedelta(seconds=patience_s)


def _start_time(pid: int) -> str:
    """When a process started, in clock ticks since boot; empty where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in {"Z", "X"} else fields[19]


def _open(url: str) -> Engine:
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() != "sqlite":
            return sa.create_engine(parsed, pool_pre_ping=True)
        if parsed.database:
            Path(parsed.database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        engine = sa.create_engine(parsed, connect_args={"timeout": BUSY_S})
    except (sa.exc.SQLAlchemyError, ImportError, OSError) as error:
        raise LedgerError(f"{_shown(url)}: the ledger cannot be opened: {_told(error)}") from error

    @sa.event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.close()

    return engine


def _shown(url: str) -> str:
    """The URL without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except sa.exc.SQLAlchemyError:
        return "[campaign] ledger"


def _told(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error).splitlines()[0]


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _campaign(row: Mapping[str, Any]) -> CampaignRow:
    return CampaignRow(
        name=row["name"],
        plan=load_plan(row["plan"]),
        status=Status(row["status"]),
        why=row["why"],
        ignore_jobs=row["ignore_jobs"],
        approved_by=tuple(json.loads(row["approved_by"])),
        created=_time(row["created"]),
        created_by=row["created_by"],
    )


def _gate(row: Mapping[str, Any]) -> Gate:
    return Gate(row["wave"], GateState(row["state"]), _time(row["since"]), row["told"])


def _lease(row: Mapping[str, Any]) -> Lease:
    return Lease(row["owner"], row["who"], _time(row["since"]), _time(row["beat"]))


def _event(row: Mapping[str, Any]) -> Event:
    return Event(
        at=_time(row["at"]),
        campaign=row["campaign"],
        node=row["node"],
        kind=EventKind(row["kind"]),
        what=row["what"],
        by=row["by"],
        data=json.loads(row["data"]),
    )


def _node_row(record: NodeRecord) -> dict[str, Any]:
    data = {
        **{each.name: getattr(record, each.name) for each in fields(record)},
        "start": _text(record.start),
        "since": _text(record.since),
        "operation": asdict(record.operation) if record.operation is not None else None,
        "found": asdict(record.found),
    }
    return {"node": record.node, "phase": record.phase.value, "record": json.dumps(data)}


def _record(data: dict[str, Any]) -> NodeRecord:
    operation = data["operation"]
    return NodeRecord(**{
        **data,
        "start": _time(data["start"]),
        "since": _time(data["since"]),
        "phase": Phase(data["phase"]),
        "operation": Operation(**{**operation, "kind": Kind(operation["kind"])}) if operation else None,
        "found": Found(**data["found"]),
        "failures": tuple(data["failures"]),
    })
