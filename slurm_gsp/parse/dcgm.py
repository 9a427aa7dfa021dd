"""``dcgmi diag -j``: what NVIDIA's diagnostics said of each test and GPU, as DCGM 3 and DCGM 4 write it.

Read from the sources of DCGM 3.1.8, 3.3.9 and 4.0.0 to 4.6.0 (dcgmi/Diag.cpp): both print categories of tests
of results, under ``DCGM GPU Diagnostic`` or ``DCGM Diagnostic``; a GPU is ``gpu_ids``, ``gpu_id`` or an
entity. In all of these releases the JSON calls a warning ``Fail`` as well: only the errors beside it tell.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

from slurm_gsp.parse import ParseError

_ROOTS: Final = ("DCGM Diagnostic", "DCGM GPU Diagnostic")
_WARNS_ONLY: Final = frozenset({25, 28, 29})
"""error_id of what DCGM only warns of: graphics processes, odd CUDA variables, persistence mode off."""
_WARNS_ONLY_TESTS: Final = frozenset({"Graphics Processes", "Environment Variables", "Persistence Mode"})
"""The same for DCGM 3.1, which gives no error_id."""
_INTERNAL: Final = 16
"""error_category of errors of DCGM itself."""
_LONGEST: Final = 200

_Json: TypeAlias = dict[str, object]


class DcgmStatus(StrEnum):
    """How one test ended on one GPU. ``unclear``: DCGM failed itself, or said a word that is not known."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    WARN = "warn"
    SKIP = "skip"
    UNCLEAR = "unclear"


_STATUS: Final = {
    "pass": DcgmStatus.PASS,
    "fail": DcgmStatus.FAIL,
    "warn": DcgmStatus.WARN,
    "skip": DcgmStatus.SKIP,
}


@dataclass(frozen=True, slots=True)
class DcgmResult:
    """One test on one entity: ``GPU 0``, ``CPU 1``, ``GPU 0,1``; empty for the node as a whole."""

    test: str
    entity: str
    status: DcgmStatus
    text: str = ""


@dataclass(frozen=True, slots=True)
class DcgmReport:
    """One run. ``error``: why DCGM could not run at all, in its own words; empty when it ran."""

    results: tuple[DcgmResult, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class _Warning:
    text: str
    number: int | None = None
    category: int | None = None


def parse_dcgm(text: str) -> DcgmReport:
    """What a run printed. ParseError: no such JSON, with what it said instead."""
    root = _root(text)
    error = root.get("runtime_error")
    if error:
        return DcgmReport(error=_line(error))
    try:
        return DcgmReport(tuple(_results(root)))
    except (TypeError, AttributeError) as problem:
        raise ParseError(f"not the JSON of dcgmi diag: {problem}") from None


def _root(text: str) -> _Json:
    start = text.find("{")
    try:
        document = json.loads(text[start:]) if start >= 0 else None
    except (ValueError, RecursionError):
        document = None
    for name in _ROOTS:
        found = document.get(name) if isinstance(document, dict) else None
        if isinstance(found, dict):
            return found
    raise ParseError(_line(text) or "no output")


def _results(root: _Json) -> Iterator[DcgmResult]:
    for category in _list(root.get("test_categories")):
        for test in _list(category.get("tests")):
            yield from _of_test(test)


def _of_test(test: _Json) -> Iterator[DcgmResult]:
    """One result for each entity; the summary counts where none of them explains it."""
    name = str(test.get("name") or "unnamed test")
    summary = test.get("test_summary")
    summed = _warnings(summary) if isinstance(summary, dict) else ()
    results = [_result(name, entry, summed) for entry in _list(test.get("results"))]
    yield from results
    if isinstance(summary, dict):
        whole = _result(name, summary, summed)
        fine = {DcgmStatus.PASS, DcgmStatus.SKIP}
        if not results or (whole.status not in fine and {result.status for result in results} <= fine):
            yield whole


def _result(test: str, entry: _Json, summed: tuple[_Warning, ...]) -> DcgmResult:
    warnings = _warnings(entry)
    status = _STATUS.get(str(entry.get("status")).strip().lower(), DcgmStatus.UNCLEAR)
    if status is DcgmStatus.FAIL:
        warnings = warnings or summed
        status = _weighed(test, warnings)
    said = "; ".join(warning.text for warning in warnings)
    return DcgmResult(test, _entity(entry), status, _line(said))


def _weighed(test: str, warnings: tuple[_Warning, ...]) -> DcgmStatus:
    """What a ``Fail`` is worth, by the errors that came with it."""
    numbers = {warning.number for warning in warnings}
    if not numbers - {None}:
        return DcgmStatus.WARN if test in _WARNS_ONLY_TESTS else DcgmStatus.FAIL
    if numbers <= _WARNS_ONLY:
        return DcgmStatus.WARN
    if {warning.category for warning in warnings} == {_INTERNAL}:
        return DcgmStatus.UNCLEAR
    return DcgmStatus.FAIL


def _warnings(entry: _Json) -> tuple[_Warning, ...]:
    """A text (3.1), or a list of texts or of objects whose text is ``warning``, in 3.3 also ``warnings``."""
    told = entry.get("warnings")
    items = told if isinstance(told, list) else [told] if told else []
    return tuple(_warning(item) for item in items)


def _warning(item: object) -> _Warning:
    if not isinstance(item, dict):
        return _Warning(str(item))
    text = str(item.get("warning") or item.get("warnings") or "no text")
    return _Warning(text, _whole(item.get("error_id")), _whole(item.get("error_category")))


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _entity(entry: _Json) -> str:
    if "entity_id" in entry:
        return f"{entry.get('entity_group', 'entity')} {entry['entity_id']}"
    gpu = entry.get("gpu_id", entry.get("gpu_ids"))
    return "" if gpu in {None, "", -1} else f"GPU {gpu}"


def _list(value: object) -> list[_Json]:
    """Objects of a list. DCGM has left holes (null) in its lists."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise TypeError("a list was expected")
    return [item for item in value if item is not None]


def _line(text: object) -> str:
    return " ".join(str(text).split())[:_LONGEST]
