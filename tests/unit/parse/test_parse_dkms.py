# ruff: noqa: E501 - log lines and commands' output stand here as they are

import pytest
from hypothesis import given
from strategies import noisy

from slurm_gsp.parse import ParseError
from slurm_gsp.parse.dkms import DkmsEntry, parse_dkms

LINES = [
    (
        "nvidia, 510.47.03, 5.4.0-109-generic, x86_64: installed",
        DkmsEntry("nvidia", "510.47.03", "5.4.0-109-generic", "x86_64", "installed", ""),
    ),
    (
        "nvidia/510.47.03, 5.15.0-27-generic, x86_64: installed",
        DkmsEntry("nvidia", "510.47.03", "5.15.0-27-generic", "x86_64", "installed", ""),
    ),
    (
        "nvidia/580.95.05, 6.8.0-50-generic, x86_64: built",
        DkmsEntry("nvidia", "580.95.05", "6.8.0-50-generic", "x86_64", "built", ""),
    ),
    ("nvidia/580.95.05: added", DkmsEntry("nvidia", "580.95.05", None, None, "added", "")),
    ("nvidia, 580.95.05: added", DkmsEntry("nvidia", "580.95.05", None, None, "added", "")),
    ("nvidia/580.95.05: broken", DkmsEntry("nvidia", "580.95.05", None, None, "broken", "")),
    (
        "nvidia/580.95.05, 6.8.0-50-generic, x86_64: broken",
        DkmsEntry("nvidia", "580.95.05", "6.8.0-50-generic", "x86_64", "broken", ""),
    ),
    (
        "nvidia-current/550.163.01, 6.12.9+bpo-amd64, x86_64: installed",
        DkmsEntry("nvidia-current", "550.163.01", "6.12.9+bpo-amd64", "x86_64", "installed", ""),
    ),
    (
        "nvidia/580.95.05, 5.14.0-503.el9.x86_64, x86_64: installed-weak from 5.14.0-427.el9.x86_64",
        DkmsEntry(
            "nvidia",
            "580.95.05",
            "5.14.0-503.el9.x86_64",
            "x86_64",
            "installed-weak",
            "from 5.14.0-427.el9.x86_64",
        ),
    ),
    (
        "nvidia, 510.47.03, 5.4.0-109-generic, x86_64: installed-weak from 5.4.0-99-generic",
        DkmsEntry(
            "nvidia", "510.47.03", "5.4.0-109-generic", "x86_64", "installed-weak", "from 5.4.0-99-generic"
        ),
    ),
    (
        "nvidia/580.95.05, 6.8.0-50-generic, x86_64: installed (WARNING! Diff between built and installed module!)",
        DkmsEntry(
            "nvidia",
            "580.95.05",
            "6.8.0-50-generic",
            "x86_64",
            "installed",
            "(WARNING! Diff between built and installed module!)",
        ),
    ),
    (
        "nvidia/580.95.05, 6.8.0-50-generic, x86_64: installed (Differences between built and installed modules)",
        DkmsEntry(
            "nvidia",
            "580.95.05",
            "6.8.0-50-generic",
            "x86_64",
            "installed",
            "(Differences between built and installed modules)",
        ),
    ),
    (
        "nvidia/580.95.05, 6.8.0-50-generic, x86_64: installed (Original modules exist)",
        DkmsEntry(
            "nvidia", "580.95.05", "6.8.0-50-generic", "x86_64", "installed", "(Original modules exist)"
        ),
    ),
    (
        "nvidia/580.95.05, 6.8.0-50-generic, aarch64: built (Built modules are missing in the kernel modules folder)",
        DkmsEntry(
            "nvidia",
            "580.95.05",
            "6.8.0-50-generic",
            "aarch64",
            "built",
            "(Built modules are missing in the kernel modules folder)",
        ),
    ),
]


@pytest.mark.parametrize(("line", "entry"), LINES)
def test_one_line(line, entry):
    assert parse_dkms(line + "\n") == (entry,)


def test_all_lines_in_order_and_others_skipped():
    text = "Error! Could not locate dkms.conf file.\n" + "\n\n".join(line for line, _entry in LINES)
    assert parse_dkms(text) == tuple(entry for _line, entry in LINES)


def test_nothing_is_not_an_error_but_something_else_is():
    assert parse_dkms("") == parse_dkms("\n \n") == ()
    with pytest.raises(ParseError, match="not dkms status: 'dkms: command not found'"):
        parse_dkms("dkms: command not found\n")


@given(noisy([line for line, _entry in LINES]))
def test_any_text_gives_entries_or_a_parse_error(text):
    try:
        entries = parse_dkms(text)
    except ParseError:
        return
    assert all(
        entry.state in {"added", "built", "broken", "installed", "installed-weak"} for entry in entries
    )
