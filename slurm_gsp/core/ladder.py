"""The repair ladder: the same fault after a remedy asks for the next one, and never for the same again."""

from __future__ import annotations

from collections.abc import Collection

from slurm_gsp.core.finding import Remedy

_RUNGS = (Remedy.RELOAD, Remedy.REBOOT, Remedy.REALIGN, Remedy.ROLLBACK, Remedy.ESCALATE)


def climb(remedy: Remedy, tried: Collection[str]) -> Remedy:
    """The remedy to ask for, given what was tried for this fault since it first appeared.

    A remedy off the ladder (a route, an escalation, none) stays as it is. What was tried counts only
    from the asked rung upwards: a reload before a realignment does not make the realignment needless.
    """
    if remedy not in _RUNGS:
        return remedy
    rung = _RUNGS.index(remedy)
    highest = max((_RUNGS.index(done) for done in _RUNGS if done.value in tried), default=-1)
    if highest < rung:
        return remedy
    return _RUNGS[min(highest + 1, len(_RUNGS) - 1)]
