"""The proof that a node owes after a realignment, and its memory of having given it.

The health check gives it after the boot, so only the standard library is imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from slurm_gsp.core.evidence import Evidence
from slurm_gsp.core.finding import Diagnosis
from slurm_gsp.core.published import Level, Proof, Result
from slurm_gsp.core.reading import value_of
from slurm_gsp.core.verification import proof_of, quick_checks
from slurm_gsp.node.journal import Journal, Places, State, load_journal, save_journal
from slurm_gsp.node.publish import values_of
from slurm_gsp.slurm.client import ControllerAway, SlurmError, SlurmTimeout

SOON_S: Final = 15.0
"""When to look again while a campaign waits."""
LATER_S: Final = 300.0
"""When to try again what asking soon does not mend."""
SETTLED_S: Final = 180.0
"""After that much of a boot nothing is on its way any more: a fabric manager takes a minute or two."""


@dataclass(frozen=True, slots=True)
class Given:
    """A proof that was due; ``again_s``: when to look again because it was not told, None: it was."""

    proof: Proof
    again_s: float | None
    why: str = ""

    @property
    def doubtful(self) -> bool:
        """Whether one look found nothing good: daemons and devices may still be on their way after a boot."""
        return self.proof.result in {Result.FAIL, Result.UNKNOWN}

    def __str__(self) -> str:
        words = (f"{self.proof.operation}:", self.proof.result.value, self.proof.why)
        return " ".join(filter(None, words)) + (f"; {self.why}" if self.why else "")


def give_proof(  # noqa: PLR0913 - a look, and what is known of it
    places: Places,
    boot: str,
    evidence: Evidence,
    diagnosis: Diagnosis,
    tell: Callable[[Mapping[str, str]], object],
    *,
    doubted: bool,
    uptime: float,
) -> Given | None:
    """Tell once for each boot what it proves of the last realignment; None: nothing is due.

    What is not good is told by the second look that finds it (``doubted``: there was one), and not before
    the boot has settled (``uptime`` in seconds).
    """
    journal = load_journal(places)
    if journal is None or not booted_since(journal, boot) or journal.proven == boot:
        return None
    proof = replace(quick_proof(journal, boot, evidence, diagnosis), before=journal.before)
    first = Given(proof, SOON_S, "will look again")
    if first.doubtful and not (doubted and uptime >= SETTLED_S):
        return first
    try:
        tell(values_of(proof, value_of(evidence.loaded)))
    except (ControllerAway, SlurmTimeout) as error:
        return Given(proof, SOON_S, f"not published, will try again: {error}")
    except (SlurmError, ValueError) as error:
        return Given(proof, LATER_S, f"not published: {error}")
    try:
        mark_proven(places, journal, boot)
    except OSError as error:
        return Given(proof, None, f"{places.journal} not written: {error}")
    return Given(proof, None)


def booted_since(journal: Journal, boot: str) -> bool:
    """Whether the reboot that a realignment ends in has taken place: before it there is nothing to prove."""
    return journal.boot != boot


def quick_proof(journal: Journal, boot: str, evidence: Evidence, diagnosis: Diagnosis) -> Proof:
    """What one look proves of the last realignment; that it never ended, where it never did."""
    if journal.state is not State.DONE:
        return unfinished(journal, boot, Level.QUICK)
    return proof_of(
        quick_checks(evidence, diagnosis, journal.pinned),
        diagnosis,
        level=Level.QUICK,
        boot=boot,
        operation=journal.operation,
        pinned=journal.pinned,
    )


def unfinished(journal: Journal, boot: str, level: Level, job: str = "") -> Proof:
    """The node booted in the middle of a realignment: whatever it runs now, it is not what was asked for."""
    last = journal.steps[-1] if journal.steps else None
    where = f"in step {last.number} {last.name}" if last is not None else "before its first step"
    why = journal.failed or f"cut off {where}"
    target = journal.pinned.target
    return Proof(journal.operation, level, Result.UNFINISHED, boot, target, why=why, job=job)


def mark_proven(places: Places, journal: Journal, boot: str) -> None:
    """Remember it, unless another realignment began meanwhile. Raises OSError."""
    if load_journal(places) == journal:
        save_journal(places, replace(journal, proven=boot))
