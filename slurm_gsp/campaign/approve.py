"""Approvals of a plan: OpenSSH signatures over its digest, one file for each person beside the plan file."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from slurm_gsp.campaign.model import Plan
from slurm_gsp.manifest.sign import (
    PLAN_NAMESPACE,
    SignatureError,
    Signed,
    Signer,
    SshKeygen,
    sign_text,
    signer_of,
)


class NotApprovedError(Exception):
    """Too few people have approved a plan; the message says how many, and what is wrong with the others."""


def approve(plan_file: Path, plan: Plan, key: Path, *, keygen: SshKeygen | None = None) -> Path:
    """Sign the plan's digest; the path of the new signature. SignatureError for a key that cannot be used."""
    numbers = itertools.count(1)
    target = next(path for number in numbers if not (path := _signature(plan_file, number)).exists())
    return sign_text(plan.digest, target, key, PLAN_NAMESPACE, keygen or SshKeygen())


def approvers(
    plan_file: Path, plan: Plan, allowed: Path | None, *, keygen: SshKeygen | None = None
) -> tuple[str, ...]:
    """Who approved the plan, each person once. NotApprovedError: fewer than its class asks for."""
    wanted = plan.heading.approvals
    if allowed is None:
        if not wanted:
            return ()
        raise NotApprovedError(
            f"{plan_file}: class {plan.heading.change_class} asks for {wanted} approval(s), and nobody may "
            "give any: set approvers in [campaign] of the configuration"
        )
    people: dict[str, Signer] = {}
    wrong: list[str] = []
    for signature in _signatures(plan_file):
        signed = Signed(str(signature), plan.digest, signature.absolute(), PLAN_NAMESPACE)
        try:
            signer = signer_of(signed, allowed, keygen=keygen)
        except SignatureError as error:
            wrong.append(str(error))
        else:
            people.setdefault(signer.principal, signer)
    if len(people) < wanted:
        by = f" (by {', '.join(sorted(people))})" if people else ""
        told = (
            f"{plan_file}: {len(people)} of {wanted} approvals{by}; "
            f"each of the others: slurm-gsp approve {plan_file} --key KEY"
        )
        raise NotApprovedError("\n".join([told, *wrong]))
    return tuple(sorted(people))


def _signature(plan_file: Path, number: int) -> Path:
    return plan_file.with_name(f"{plan_file.name}.{number}.sig")


def _signatures(plan_file: Path) -> Iterator[Path]:
    for number in itertools.count(1):
        path = _signature(plan_file, number)
        if not path.exists():
            return
        yield path
