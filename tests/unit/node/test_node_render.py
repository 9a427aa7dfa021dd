"""Templates: what is put in stays what it was, and a site's own step takes the place of ours."""

import subprocess
from pathlib import Path, PurePosixPath

import pytest

from slurm_gsp.node.failing import StepError
from slurm_gsp.node.render import OURS, Scripts

HOSTILE = "a b'; touch /tmp/owned; echo \"$(id)`id`\\ \n* ?"


def scripts(folder: Path, family: str = "debian", **texts: str) -> Scripts:
    for name, text in texts.items():
        path = folder / family / f"{name}.sh.j2"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o644)
        path.parent.chmod(0o755)
    folder.chmod(0o755)
    return Scripts(family, folder, owner_uid=folder.stat().st_uid)


def shell(script: str) -> str:
    return subprocess.run(["/bin/sh", "-euc", script], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("value", [HOSTILE, "", "-n", "$HOME", "'", "\\", "ü", "\t", "*"])
def test_a_value_stays_one_word(tmp_path: Path, value: str) -> None:
    script = scripts(tmp_path, step="printf '<%s>' {{ value }} {{ [value, value] }} {{ value | upper }}")
    assert shell(script.render("step", {"value": value})) == f"<{value}>" * 3 + f"<{value.upper()}>"


def test_numbers_and_paths(tmp_path: Path) -> None:
    script = scripts(tmp_path, step="printf '%s|' {{ number }} {{ path }} {{ number * 2 }}")
    assert shell(script.render("step", {"number": 21, "path": PurePosixPath("/a b")})) == "21|/a b|42|"


def test_the_text_of_a_template_is_not_quoted(tmp_path: Path) -> None:
    script = scripts(tmp_path, step='echo "$HOME" \'x y\' | tr -d "\\n"\n')
    assert script.render("step", {}) == 'echo "$HOME" \'x y\' | tr -d "\\n"\n'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("echo {{ nothing }}", "'nothing' is undefined"),
        ("echo {{ pin.nothing }}", "has no attribute 'nothing'"),
        ("{% for one in nothing %}{% endfor %}", "'nothing' is undefined"),
        ("\n{% if %}", "line 2"),
        ("{{ pin }}", "no word of a shell"),
        ("{{ true }}", "no word of a shell"),
        ('{% include "other" %}', "cannot be read"),
    ],
)
def test_what_a_template_cannot_be(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(StepError, match=f"debian/step.sh.j2|other.sh.j2.*{told}") as error:
        scripts(tmp_path, step=text).render("step", {"pin": {}})
    assert told in str(error.value)


def test_the_sites_own_step_takes_the_place_of_ours(tmp_path: Path) -> None:
    own = scripts(tmp_path, hold="site {{ names }}\n")
    assert own.render("hold", {"names": ["a", "b c"]}) == "site a 'b c'\n"
    assert own.path("unload") == OURS / "common/unload.sh.j2"
    assert own.path("purge") == OURS / "debian/purge.sh.j2"
    # of this family only
    assert Scripts("rhel", tmp_path).path("hold") == OURS / "rhel/hold.sh.j2"


@pytest.mark.parametrize("place", ["debian/hold.sh.j2", "debian", "."])
def test_nobody_else_may_write_the_sites_own_step(tmp_path: Path, place: str) -> None:
    own = scripts(tmp_path, hold="echo\n")
    (tmp_path / place).chmod(0o777)
    with pytest.raises(StepError, match="others than root can write it; chown root: and chmod go-w"):
        own.render("hold", {})


def test_it_must_belong_to_root(tmp_path: Path) -> None:
    scripts(tmp_path, hold="echo\n")
    with pytest.raises(StepError, match="others than root can write it"):
        Scripts("debian", tmp_path, owner_uid=tmp_path.stat().st_uid + 1).render("hold", {})


def test_a_link_that_leads_nowhere_is_told(tmp_path: Path) -> None:
    own = scripts(tmp_path, other="")
    (tmp_path / "debian/hold.sh.j2").symlink_to("nowhere")
    with pytest.raises(StepError, match=r"debian/hold\.sh\.j2: cannot be read"):
        own.render("hold", {})


@pytest.mark.parametrize("path", sorted(OURS.rglob("*.j2")), ids=lambda path: str(path.relative_to(OURS)))
def test_no_value_stands_in_a_comment_or_in_quotes(path: Path) -> None:
    """There a newline, or a quote, would end what it stands in."""
    for line in path.read_text().splitlines():
        before = line.partition("{{")[0]
        assert "{{" not in line or not before.lstrip().startswith("#"), line
        assert "{{" not in line or (before.count('"') % 2 == 0 and before.count("'") % 2 == 0), line


def test_the_families_have_the_same_steps() -> None:
    steps = {
        family: {path.name for path in (OURS / family).iterdir()} for family in ("debian", "rhel", "suse")
    }
    assert steps["debian"] == steps["rhel"] == steps["suse"]
