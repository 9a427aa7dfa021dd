"""What is printed: text for people, JSON and CSV for programs; texts of others do nothing there."""

from __future__ import annotations

import csv
import io
import json

import pytest
from fleet_lines import NOW, judged, line, told
from hypothesis import given
from hypothesis import strategies as st

from slurm_gsp.fleet.export import CSV_COLUMNS, as_csv, as_json
from slurm_gsp.fleet.model import Beside
from slurm_gsp.fleet.text import as_text, plain
from slurm_gsp.fleet.view import NEXT_BOOT, Target, fleet_view

SKEW = told(verdict="mismatch", faults="umd-skew,pkg-split", nvidia_umd="570.172.08+580.95.05")
VIEW = fleet_view(
    judged(
        *(line(f"n{number}") for number in range(1, 5)),
        line("n5", "IDLE+DRAIN", SKEW, reason="gsp:umd-skew kmd=1", user="root"),
        line("n6", extra=""),
        line("n7", "DOWN", reason="fan, 3 of 6", user="ann"),
        line("cpu1", gres="", extra=""),
    ),
    NOW,
    target=Target("2026-11", {"h100": {"nvidia_driver": "580.95.05"}}, {"n1": "h100", "n6": "h100"}),
    beside=Beside({"n2": "at 2026-10 by c1"}, {"n3": "as pinned"}),
)
TEXT = """\
7 GPU nodes at 2026-11-26 12:00:00 UTC; 1 without GPUs left out
4 healthy and in service, 1 silent

verdict      nodes   which
─────────────────────────────
consistent   5       n[1-4,7]
mismatch     1       n5
silent       1       n6

code        nodes   which
─────────────────────────
umd-skew    1       n5
pkg-split   1       n5

silent, because     nodes   which
─────────────────────────────────
nothing published   1       n6

breaks at the next reboot                                                            nodes   which
──────────────────────────────────────────────────────────────────────────────────────────────────
pkg-split                   two driver versions, or half-installed driver packages   1       n5
"""


def test_text() -> None:
    text = as_text(VIEW, 120)
    assert text.startswith(TEXT)
    found = [row for row in text.splitlines() if row and not row.startswith((" ", "\u2500"))]
    assert [row.split("   ")[0] for row in found] == [
        "7 GPU nodes at 2026-11-26 12:00:00 UTC; 1 without GPUs left out",
        "4 healthy and in service, 1 silent",
        "verdict", "consistent", "mismatch", "silent",
        "code", "umd-skew", "pkg-split",
        "silent, because", "nothing published",
        "breaks at the next reboot", "pkg-split",
        "2 version tuples", "gpu:h100:8",
        "against 2026-11", "h100", "(no profile)",
        "held", "at 2026-10 by c1",
        "drained by the health check", "umd-skew",
        "out by others", "fan, 3 of 6",
        "out of band", "as pinned",
    ]  # fmt: skip
    assert "  odd              userspace 570.172.08+580.95.05" in text


def test_long_lists_are_cut_and_say_so() -> None:
    """What is cut is nothing that Slurm would take for a list of nodes."""
    many = fleet_view(judged(*(line(f"gpu{2 * number:05d}") for number in range(500))), NOW)
    cut, full = as_text(many, 80), as_text(many, 80, full=True)
    assert cut.count(" ...\n") == 2
    assert cut.endswith("\nLists that end in ... are cut: --full shows them whole.\n")
    assert ("gpu[00000,00002," in cut, "00998]" in cut, "00998]" in full, "..." in full) == (
        True, False, True, False,
    )  # fmt: skip
    assert max(map(len, cut.splitlines())) <= 80


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_text_keeps_to_the_width_where_it_can(width: int) -> None:
    lines = as_text(VIEW, width).splitlines()
    assert max(map(len, lines)) <= max(width, 130)
    assert width < 100 or max(map(len, lines)) <= width


def test_every_code_that_breaks_has_words() -> None:
    told_of = [line(f"n{number}", extra=told(faults=code)) for number, code in enumerate(NEXT_BOOT)]
    text = as_text(fleet_view(judged(*told_of), NOW), 120)
    assert all(f"\n{code} " in text for code in NEXT_BOOT)


EVIL = "\x1b[2J\x07\r\nNodeName=x \u202e=cmd()\x9b31m\u2028"


def test_texts_of_others_do_nothing_to_a_terminal() -> None:
    evil = fleet_view(
        judged(
            line("n1", "DOWN", reason=EVIL, user=EVIL),
            line("n2", extra=told(verdict=EVIL, faults=EVIL, nvidia_driver=EVIL)),
        ),
        NOW,
        beside=Beside({"n1": EVIL}, {"n2": EVIL}),
    )
    for shown in (as_text(evil, 120), as_csv(evil), as_json(evil)):
        assert all(char.isprintable() or char == "\n" for char in shown)
    assert as_csv(evil).count("\n") == as_json(evil).count("\n") + 2 == 3


@given(st.text())
def test_plain_text_prints_as_one_line(text: str) -> None:
    assert plain(text).isprintable()
    assert len(plain(text)) == len(text)


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_csv() -> None:
    found = rows(as_csv(VIEW))
    assert list(found[0]) == list(CSV_COLUMNS)
    assert [row["node"] for row in found] == [f"n{number}" for number in range(1, 8)]
    assert [row["healthy"] for row in found] == ["yes"] * 4 + ["no"] * 3
    assert found[4] == {
        "node": "n5", "partitions": "main", "gpus": "gpu:h100:8", "state": "IDLE+DRAIN", "healthy": "no",
        "silent": "", "verdict": "mismatch", "faults": "umd-skew,pkg-split", "nvidia_driver": "580.95.05",
        "nvidia_flavour": "open", "nvidia_gsp": "580.95.05", "nvidia_umd": "570.172.08+580.95.05",
        "nvidia_fabric": "", "nvidia_vbios": "96.00.A5.00.01", "gsp_nics": "28.39.3004",
        "gsp_kernel": "5.15.0-161-generic", "gsp_manifest": "2026-10@0123456789ab", "out": "us",
        "reason": "gsp:umd-skew kmd=1", "user": "root", "campaign": "", "phase": "", "profile": "",
        "drift": "", "held": "", "out_of_band": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", 'a "b", c', "caf\N{LATIN SMALL LETTER E WITH ACUTE}; x"]
)
def test_a_spreadsheet_takes_no_text_for_a_formula(text: str) -> None:
    found = rows(as_csv(fleet_view(judged(line("n1", "DOWN", reason=text)), NOW)))
    assert found[0]["reason"] == (f"'{text}" if text[0] in "=+-@" else text)


def test_json() -> None:
    found = json.loads(as_json(VIEW))
    assert (found["nodes"], found["healthy"], found["left_out"]) == (7, 4, 1)
    assert found["at"] == "2026-11-26T12:00:00+00:00"
    assert found["verdicts"][0] == {"what": "consistent", "count": 5, "which": "n[1-4,7]"}
    assert found["breaks_at_next_reboot"] == [{"what": "pkg-split", "count": 1, "which": "n5"}]
    assert found["out_by_others"] == [{"reason": "fan, 3 of 6", "user": "ann", "count": 1, "which": "n7"}]
    assert found["profiles"][0]["right"] == {"count": 1, "which": "n1"}
    assert [version["odd"] for version in found["versions"]] == [[], ["nvidia_umd"]]
    each = {node["node"]: node for node in found["each"]}
    assert (each["n6"]["silent"], each["n6"]["healthy"]) == ("nothing published", False)
    assert each["n5"]["faults"] == ["umd-skew", "pkg-split"]
    assert each["n5"]["versions"]["nvidia_umd"] == "570.172.08+580.95.05"


def test_json_and_csv_tell_the_same_of_each_node() -> None:
    by_json = json.loads(as_json(VIEW))["each"]
    for one, row in zip(by_json, rows(as_csv(VIEW)), strict=True):
        assert {**one, **one.pop("versions")}.keys() - {"versions"} == row.keys()
        assert row["faults"] == ",".join(one["faults"])
        assert row["healthy"] == ("yes" if one["healthy"] else "no")


@pytest.mark.parametrize("name", ["n1", 'n"1,2', "=n1", "caf\N{LATIN SMALL LETTER E WITH ACUTE}"])
def test_nodes_that_differ_in_their_name_alone_are_written_as_any_other(name: str) -> None:
    """What is behind the names is written once for all of them, apart from the names."""
    view = fleet_view(judged(line(name), line("n2"), line("n3", "DOWN", reason=EVIL)), NOW)
    text, sheet = as_json(view), as_csv(view)
    assert json.dumps(json.loads(text), separators=(",", ":")) + "\n" == text
    again = io.StringIO()
    csv.writer(again, lineterminator="\n").writerows(csv.reader(io.StringIO(sheet)))
    assert again.getvalue() == sheet
    assert [node["node"] for node in json.loads(text)["each"]] == [name, "n2", "n3"]
    assert [row["node"] for row in rows(sheet)] == [f"'{name}" if name[0] == "=" else name, "n2", "n3"]
    assert [node["state"] for node in json.loads(text)["each"]] == ["IDLE", "IDLE", "DOWN"]
