"""The README and the docs say what is true of the code."""

import re
import shlex
import tomllib
from dataclasses import fields
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from slurm_gsp import config
from slurm_gsp.cli import main
from slurm_gsp.core.finding import EXIT_CODES, FAULTS, Remedy
from slurm_gsp.lab import faults
from slurm_gsp.lab.cluster import DEFAULT_DIR, INSTALLED_AT, Lab, slurm_conf

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
TABLES = {field.name: getattr(config.Config(), field.name) for field in fields(config.Config)}
KEYS = {
    "drain": set(config.DRAIN_DEFAULTS),
    **{name: {field.name for field in fields(table)} for name, table in TABLES.items() if name != "drain"},
}


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path) -> list[str]:
    """Fenced blocks of a page."""
    return re.findall(r"^```\w*\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


def commands(path: Path) -> list[str]:
    """What follows `slurm-gsp` in blocks and in code spans."""
    text = path.read_text()
    spans = re.findall(r"`(slurm-gsp[^`\n]*)`", text)
    lines = [line for block in blocks(path) for line in block.replace("\\\n", " ").splitlines()]
    found = [*spans, *(line.removeprefix("$ ") for line in lines)]
    pattern = re.compile(r"^(?:\S*/bin/)?slurm-gsp\b(?!-)(.*)")
    return [match[1].strip() for line in found if (match := pattern.match(line))]


def resolve(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that these words name, and what is left of them."""
    command: click.Command = main
    while words and isinstance(command, click.Group):
        if words[0].startswith("-"):
            break
        name, *words = words
        assert name in command.commands, f"there is no command {name}"
        command = command.commands[name]
    return command, words


COMMANDS = sorted({(short(path), command) for path in DOCS for command in commands(path)})


@pytest.mark.parametrize(("page", "text"), COMMANDS)
def test_commands_of_the_docs_exist(page: str, text: str) -> None:
    words = shlex.split(text.partition(" | ")[0], comments=True)
    command, rest = resolve(words)
    known = {option for param in command.params for option in (*param.opts, *param.secondary_opts)}
    free = command.name in {"exec", "slurm"}
    for word in rest if not free else []:
        if word.startswith("--"):
            assert word.partition("=")[0] in known | {"--help"}, f"{page}: no option {word}"
    if command.name == "fault" and "lab" in words and rest:
        assert rest[-1] in faults.FAULTS


def test_every_command_is_told() -> None:
    told = "\n".join(f" {text} " for _, text in COMMANDS)
    names = [name for name in main.commands if name != "lab"]
    group = main.commands["lab"]
    assert isinstance(group, click.Group)
    names += [f"lab {name}" for name in group.commands]
    assert {name for name in names if f" {name} " not in told} == set()


def table(path: Path, header: str) -> list[list[str]]:
    """The rows of the table whose header line starts so."""
    lines = path.read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {header} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


@pytest.mark.parametrize("page", [README, ROOT / "docs/faults.md"], ids=short)
def test_fault_table_is_the_catalogue(page: Path) -> None:
    rows = [tuple(row[:3]) for row in table(page, "code | verdict")]
    catalogue = [
        (f"`{fault.code}`", fault.verdict.value, "yes" if fault.drains else "no") for fault in FAULTS.values()
    ]
    assert rows == catalogue
    assert {fault.code: fault.drains for fault in FAULTS.values()} == config.DRAIN_DEFAULTS


def test_verdicts_and_exit_codes() -> None:
    rows = [(row[0], row[2]) for row in table(ROOT / "docs/faults.md", "verdict")]
    assert rows == [(f"`{verdict.value}`", str(code)) for verdict, code in EXIT_CODES.items()]


def test_next_steps() -> None:
    told = {
        code.strip(" `"): step
        for codes, step in table(ROOT / "docs/faults.md", "codes")
        for code in codes.split(",")
    }
    assert told == {fault.code: fault.step for fault in FAULTS.values()}


def test_remedies_of_the_fault_table_exist() -> None:
    cells = " ".join(row[5] for row in table(ROOT / "docs/faults.md", "code"))
    assert set(re.findall(r"`([^`]+)`", cells)) <= {remedy.value for remedy in Remedy}


def test_number_of_codes_in_the_changelog() -> None:
    assert f"- {len(FAULTS)} fault codes" in (ROOT / "CHANGELOG.md").read_text()


def test_configuration_page_names_every_key_and_no_other() -> None:
    text = (ROOT / "docs/configuration.md").read_text()
    sections = re.split(r"^## \[(\w+)\]$", text, flags=re.MULTILINE)[1:]
    told = {
        name: {
            key
            for line in re.findall(r"^- (.*?):", body, re.MULTILINE)
            for key in re.findall(r"`([^`]+)`", line)
        }
        for name, body in zip(sections[::2], sections[1::2], strict=True)
    }
    assert list(told) == list(TABLES)
    assert {name: keys for name, keys in told.items() if name != "drain"} == {
        name: keys for name, keys in KEYS.items() if name != "drain"
    }


@pytest.mark.parametrize("path", DOCS, ids=short)
def test_configuration_in_the_docs_is_valid(path: Path) -> None:
    for block in blocks(path):
        if re.match(r"\[\w+\]\n", block):
            config.parse_config(block, short(path))
            tomllib.loads(block)


@pytest.mark.parametrize("path", DOCS, ids=short)
def test_settings_named_in_the_docs_exist(path: Path) -> None:
    """`key` in `[table]`, and `key = value`."""
    text = path.read_text()
    for key, name in re.findall(r"`(\w+)` in `\[(\w+)\]`", text):
        assert key in KEYS[name]
    keys = {key for names in KEYS.values() for key in names}
    assert set(re.findall(r"`([a-z_]+) = [^`]*`", text)) <= keys
    assert set(re.findall(r"`([a-z]+_(?:s|runs|share|jobs|gpus|interval_s))`", text)) <= keys


def lab_conf(tmp_path: Path) -> dict[str, str]:
    """The lab's own slurm.conf."""
    (tmp_path / "lab.json").write_text(
        '{"port": 1, "nodes": ["n1"], "hooks": true, "interval": 5, "settings": []}'
    )
    lines = slurm_conf(Lab(tmp_path)).splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_slurm_conf_lines_are_those_of_the_lab(tmp_path: Path) -> None:
    lab = lab_conf(tmp_path)
    block = next(block for block in blocks(README) if block.startswith("HealthCheckProgram="))
    lines = dict(line.split("=", 1) for line in block.splitlines())
    for key, value in lines.items():
        if key == "SchedulerParameters":
            assert value in lab[key].split(",")
        elif key != "HealthCheckInterval":
            assert value == lab[key]
    asked = [key for key in lab if key.startswith(("HealthCheck", "Prolog", "Epilog"))]
    assert set(lines) == {*asked, "SchedulerParameters"}
    explained = " ".join(row[0] for row in table(README, "line"))
    assert all(key in explained for key in lines if key != "HealthCheckProgram")
    assert lines["HealthCheckProgram"].startswith(f"{INSTALLED_AT}/")


@pytest.mark.parametrize("path", DOCS, ids=short)
def test_links_lead_to_something(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = path if not name else path.parent / name
        assert file.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", DOCS, ids=short)
def test_files_named_in_the_docs_exist(path: Path) -> None:
    pattern = r"`((?:slurm_gsp|tests|docs|bench)/[\w./-]*\w)`"
    named = re.findall(pattern, path.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_state_files_of_the_hooks_are_those_of_the_code() -> None:
    places = [ROOT / name for name in ("healthcheck", "prolog", "epilog")]
    places += [path for path in (ROOT / "slurm_gsp/hook").iterdir() if path.suffix in {".py", ".sh"}]
    code = "\n".join(path.read_text() for path in places)
    cells = " ".join(row[0] for row in table(ROOT / "docs/hooks.md", "file"))
    names = [name.rpartition("/")[2].partition("<")[0] for name in re.findall(r"`([^`]+)`", cells)]
    assert len(names) == 13
    assert [name for name in names if not re.search(rf"""["/]{re.escape(name)}(?:["{{/]|$)""", code)] == []


def test_every_page_is_reachable_from_the_readme() -> None:
    seen: set[Path] = set()
    ahead = [README]
    while ahead:
        page = ahead.pop().resolve()
        if page.is_dir():
            page /= "README.md"
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        ahead += [page.parent / name for name in re.findall(r"\]\(([^)#\s:]+)", page.read_text())]
    assert sorted(seen) == sorted(path.resolve() for path in DOCS)


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    for path in DOCS:
        named = re.findall(r"(?:^|`)make ([a-z-]+)\b", path.read_text(), re.MULTILINE)
        assert set(named) <= targets, short(path)
    assert set(re.findall(r"@echo 'make ([\w-]+)", makefile)) == targets - {
        "help",
        "tools",
        "lint",
        "test-setup",
    }


def test_help_texts_name_where_things_are() -> None:
    said = CliRunner().invoke(main, ["inspect", "--help"]).output
    told = next(line for line in README.read_text().splitlines() if line.startswith("`inspect` exits with"))
    for verdict, code in EXIT_CODES.items():
        if verdict.value != "no-gpu":
            assert f"{code} {verdict.value}" in told
            assert f"{code} {verdict.value}" in " ".join(said.split())
    assert config.DEFAULT_PATH in said
    assert str(DEFAULT_DIR) in README.read_text()


@pytest.mark.parametrize("path", DOCS, ids=short)
def test_pages_are_plain(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("# ") and text.endswith("\n")
    assert not re.search(r"[ \t]$", text, re.MULTILINE)
    assert text.count("```") % 2 == 0
