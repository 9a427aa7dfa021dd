"""The plan as a file: JSON, sorted, with a digest over everything else in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, date, datetime
from typing import Any, Final, TypeVar

from slurm_gsp.campaign.model import (
    Heading,
    LeftOut,
    Limits,
    Plan,
    PlannedProfile,
    Slot,
    Wave,
    WaveKind,
    Window,
)
from slurm_gsp.campaign.windows import parse_window, window_text

FORMAT: Final = "slurm-gsp plan 2"
_DIGEST: Final = "sha256:"
T = TypeVar("T")


class PlanFileError(ValueError):
    """What was read is no plan that could be trusted; the message says why."""


def seal(plan: Plan) -> Plan:
    """The plan with its digest."""
    return replace(plan, digest=digest_of(_content(plan)))


def dump_plan(plan: Plan) -> str:
    """The plan as the text of its file; it must be sealed."""
    content = _content(plan)
    if digest_of(content) != plan.digest:
        raise ValueError("the plan was changed after it was made: its digest is another")
    whole = {**content, "digest": plan.digest}
    lines = [f" {json.dumps(key)}: {_laid_out(key, whole[key])}" for key in sorted(whole)]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def load_plan(text: str) -> Plan:
    """The plan in a file; PlanFileError for what ``dump_plan`` did not write, or was changed since."""
    try:
        whole = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise PlanFileError(f"not a plan file: {error}") from error
    if not isinstance(whole, dict) or whole.get("format") != FORMAT:
        said = whole.get("format") if isinstance(whole, dict) else None
        raise PlanFileError(f"not a plan file: its format is {said!r}, wanted {FORMAT!r}")
    digest = whole.pop("digest", None)
    actual = digest_of(whole)
    if digest != actual:
        raise PlanFileError(
            f"the plan was altered after it was made: it says {digest}, its content is {actual}; plan again"
        )
    try:
        return _plan(whole, actual)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise PlanFileError(f"not a plan file: {type(error).__name__}: {error}") from error


def digest_of(content: Mapping[str, object]) -> str:
    """``sha256:`` and the digest of the content in canonical form (keys sorted, no blanks, ASCII)."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return _DIGEST + hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _content(plan: Plan) -> dict[str, object]:
    return {
        "format": FORMAT,
        **_heading_object(plan.heading),
        "made": _time(plan.made),
        "realign_s": plan.realign_s,
        "limits": _limits_object(plan.limits),
        "waves": [
            {
                "number": wave.number,
                "kind": wave.kind.value,
                "slots": [_slot_object(slot) for slot in wave.slots],
            }
            for wave in plan.waves
        ],
        "left_out": [{"node": item.node, "why": item.why} for item in plan.left_out],
        "unknown_driver": list(plan.unknown_driver),
    }


def _heading_object(heading: Heading) -> dict[str, object]:
    return {
        "campaign": heading.campaign,
        "manifest": heading.manifest,
        "manifest_digest": heading.manifest_digest,
        "change_class": heading.change_class,
        "approvals": heading.approvals,
        "previous": heading.previous,
        "previous_digest": heading.previous_digest,
        "profiles": [asdict(profile) for profile in heading.profiles],
        **({"hold": True} if heading.hold else {}),
    }


def _slot_object(slot: Slot) -> dict[str, object]:
    return {
        "node": slot.node,
        "variant": slot.variant,
        "start": _time(slot.start),
        "profile": slot.profile,
        **({"block": slot.block} if slot.block is not None else {}),
        **({"take": True} if slot.take else {}),
    }


def _limits_object(limits: Limits) -> dict[str, object]:
    return {
        "max_out_count": limits.max_out_count,
        "max_out_percent": limits.max_out_percent,
        "per_block": limits.per_block,
        "canary_per_variant": limits.canary_per_variant,
        "growth": limits.growth,
        "soak_s": limits.soak_s,
        "deadline": None if limits.deadline is None else _time(limits.deadline),
        "windows": [window_text(window) for window in limits.windows],
        "time_zone": limits.time_zone,
        "exceptions": [day.isoformat() for day in limits.exceptions],
        "ahead": limits.ahead,
    }


def _laid_out(key: str, value: Any) -> str:
    """One slot, and one node that was left out, on a line of its own: so that plans can be compared."""
    if key == "left_out" and value:
        return "[\n" + ",\n".join(f"  {_line(item)}" for item in value) + "\n ]"
    if key == "waves" and value:
        waves = []
        for wave in value:
            slots = ",\n".join(f"    {_line(slot)}" for slot in wave["slots"])
            head = f'  {{"kind": {_line(wave["kind"])}, "number": {_line(wave["number"])}, "slots": ['
            waves.append(f"{head}\n{slots}\n  ]}}")
        return "[\n" + ",\n".join(waves) + "\n ]"
    return _line(value)


def _line(value: object) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False)


def _plan(data: Mapping[str, Any], digest: str) -> Plan:
    plan = Plan(
        heading=_heading(data),
        made=_read_time(data["made"]),
        realign_s=_is(int, data["realign_s"]),
        limits=_limits(_is(dict, data["limits"])),
        waves=_each(data["waves"], _wave),
        left_out=_each(data["left_out"], lambda item: LeftOut(_is(str, item["node"]), _is(str, item["why"]))),
        unknown_driver=_each(data["unknown_driver"], lambda name: _is(str, name)),
        digest=digest,
    )
    if digest_of(_content(plan)) != digest:
        raise ValueError("it holds what no plan holds")
    names = [slot.node for wave in plan.waves for slot in wave.slots]
    names += [item.node for item in plan.left_out]
    if len(set(names)) != len(names):
        raise ValueError("a node is in it twice")
    return plan


def _wave(data: Mapping[str, Any]) -> Wave:
    return Wave(
        _is(int, data["number"]),
        WaveKind(data["kind"]),
        _each(
            data["slots"],
            _slot,
        ),
    )


def _slot(data: Mapping[str, Any]) -> Slot:
    return Slot(
        _is(str, data["node"]),
        _is(str, data["variant"]),
        _read_time(data["start"]),
        _is(str, data["profile"]),
        _maybe(str, data.get("block")),
        bool(data.get("take", False)),
    )


def _heading(data: Mapping[str, Any]) -> Heading:
    return Heading(
        campaign=_is(str, data["campaign"]),
        manifest=_is(str, data["manifest"]),
        manifest_digest=_is(str, data["manifest_digest"]),
        change_class=_is(str, data["change_class"]),
        approvals=_is(int, data["approvals"]),
        previous=_maybe(str, data["previous"]),
        previous_digest=_is(str, data["previous_digest"]),
        profiles=_each(data["profiles"], _profile),
        hold=bool(data.get("hold", False)),
    )


def _profile(data: Mapping[str, Any]) -> PlannedProfile:
    return PlannedProfile(
        _is(str, data["name"]),
        _is(str, data["driver"]),
        _is(int, data["gpus"]),
        _maybe(str, data["previous_driver"]),
    )


def _limits(data: Mapping[str, Any]) -> Limits:
    deadline = data["deadline"]
    return Limits(
        max_out_count=_maybe(int, data["max_out_count"]),
        max_out_percent=_maybe(float, data["max_out_percent"]),
        per_block=_maybe(int, data["per_block"]),
        canary_per_variant=_is(int, data["canary_per_variant"]),
        growth=_is(float, data["growth"]),
        soak_s=_is(int, data["soak_s"]),
        deadline=None if deadline is None else _read_time(deadline),
        windows=_each(data["windows"], _read_window),
        time_zone=_is(str, data["time_zone"]),
        exceptions=_each(data["exceptions"], lambda day: date.fromisoformat(_is(str, day))),
        ahead=bool(data["ahead"]),
    )


def _read_window(text: object) -> Window:
    return parse_window(_is(str, text))


def _each(data: object, read: Callable[[Any], T]) -> tuple[T, ...]:
    return tuple(read(item) for item in _is(list, data))


def _is(kind: type[T], value: object) -> T:
    if isinstance(value, bool) or not isinstance(value, kind):
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value


def _maybe(kind: type[T], value: object) -> T | None:
    return None if value is None else _is(kind, value)


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _read_time(text: object) -> datetime:
    moment = datetime.fromisoformat(_is(str, text))
    if moment.utcoffset() is None:
        raise ValueError(f"{text!r} has no time zone")
    return moment.astimezone(UTC)


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no number")
