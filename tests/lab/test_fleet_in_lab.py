"""What nodes publish by themselves on a real Slurm, and what `slurm-gsp fleet` makes of it."""

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from test_detect import calls, check, reset_calls, split

from slurm_gsp.cli import main
from slurm_gsp.core.published import read_published
from slurm_gsp.lab.cluster import Lab, Node
from slurm_gsp.slurm.scontrol import parse_node

pytestmark = pytest.mark.lab

CONFIG = "[verify]\npublish_spread_s = 0\n[health]\njitter = 0.0\n"
NAMES = ("n1", "n2", "n3", "n4")


def extra(node: Node) -> str:
    return parse_node(node.lab.slurm(["scontrol", "-o", "show", "node", node.name]).stdout.strip()).extra


def annotate(lab: Lab, name: str, text: str) -> None:
    lab.slurm(["scontrol", "update", f"nodename={name}", f"extra={text}"])


def until(node: Node, holds: Callable[[dict[str, str]], bool]) -> None:
    """Health checks, as slurmd would start them, until what the node says of itself is so."""
    for _ in range(10):
        check(node)
        if holds(read_published(extra(node))):
            return
        time.sleep(0.5)
    raise AssertionError(f"{node.name} says {extra(node)}")


@pytest.fixture(scope="module")
def told_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Four nodes that have told what they run. Slurm starts one health check, at boot, the tests others."""
    with Lab.up(tmp_path_factory.mktemp("fleet") / "l", interval=3600) as lab:
        let_tell(lab)
        yield lab


def let_tell(lab: Lab) -> None:
    """Every node tells what it runs; the site keeps something of its own on two of them."""
    annotate(lab, "n2", '{"rack":"r7"}')
    annotate(lab, "n3", "rack r8, do not power off")
    for node in lab.nodes:
        lab.wait_for(lambda node=node: node.exists("/run/slurm-gsp/watch"), 30, "the first health check")
        node.run(["/bin/mkdir", "-p", "/etc/slurm-gsp"])
        node.write("/etc/slurm-gsp/config.toml", CONFIG)
        node.run(["/bin/sh", "-c", "rm -f /run/slurm-gsp/state-*.json /run/slurm-gsp/watch"])
        until(node, lambda values: "gsp_seen" in values)


def site_of(lab: Lab) -> Path:
    """The site's configuration; a suite's own scontrol is started in the lab's control machine."""
    config = lab.site / "config.toml"
    if not lab.suite:
        return config
    command = lab.site / "scontrol"
    command.write_text(f'#!/bin/sh\nexec {shlex.join(lab.slurm_command(["scontrol"]))} "$@"\n')
    command.chmod(0o755)
    own = config.with_name("fleet.toml")
    own.write_text(config.read_text().replace("[slurm]\n", f'[slurm]\nscontrol = "{command}"\n'))
    own.chmod(0o644)
    return own


def fleet(lab: Lab, *words: str) -> Any:
    """What the command says, as JSON."""
    argv = ["fleet", "--json", "--config", str(site_of(lab)), *words]
    result = CliRunner().invoke(main, argv, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def groups(found: Any) -> dict[str, str]:
    return {group["what"]: group["which"] for group in found}


def test_nodes_that_booted_say_what_they_run(told_lab: Lab) -> None:
    found = fleet(told_lab)
    assert (found["nodes"], found["healthy"], found["silent"]) == (4, 4, [])
    assert groups(found["verdicts"]) == {"consistent": "n[1-4]"}
    (version,) = found["versions"]
    assert (version["gpus"], version["which"], version["odd"]) == ("gpu:h100:2", "n[1-4]", [])
    values = version["values"]
    assert (values["nvidia_driver"], values["nvidia_gsp"], values["nvidia_umd"]) == ("570.172.08",) * 3
    assert (values["nvidia_flavour"], values["gsp_kernel"]) == ("open", "6.8.0-50-generic")
    assert found["out_by_others"] == []


def test_what_the_site_keeps_in_extra_stays(told_lab: Lab) -> None:
    assert json.loads(extra(told_lab.node("n2")))["rack"] == "r7"
    assert extra(told_lab.node("n3")).startswith('rack r8, do not power off gsp:{"nvidia_driver":')


def test_a_fleet_against_two_manifests(told_lab: Lab) -> None:
    for name, right, drift in (("2026-10", "n[1-4]", {}), ("2026-11", "", {"n[1-4]"})):
        (profile,) = fleet(told_lab, "--manifest", str(told_lab.manifests / f"{name}.toml"))["profiles"]
        assert (profile["right"]["which"], {group["which"] for group in profile["drift"]}) == (
            right,
            set(drift),
        )


def test_with_nothing_changed_nothing_is_sent(told_lab: Lab) -> None:
    before = [extra(node) for node in told_lab.nodes]
    reset_calls(told_lab)
    for node in told_lab.nodes:
        assert [check(node).returncode for _ in range(5)] == [0] * 5
        node.run(["/bin/rm", "-f", "/run/slurm-gsp/watch"])  # a full look, and nothing new in it
        assert check(node).returncode == 0
    assert calls(told_lab) == {}
    assert [extra(node) for node in told_lab.nodes] == before


def test_the_command_as_it_is_installed(told_lab: Lab) -> None:
    command = Path(sys.executable).with_name("slurm-gsp")
    done = told_lab.slurm([command, "fleet", "--config", told_lab.site / "config.toml"])
    assert done.stdout.startswith("4 GPU nodes at ")
    assert "\nconsistent   4       n[1-4]\n" in done.stdout


def test_what_breaks_is_told_once_and_shown_in_its_place(told_lab: Lab) -> None:
    """n1 would lose its driver at its next boot, n2 is broken, an admin drained n3, n4 says nothing.

    The last test: it leaves the lab like that.
    """
    n1, n2 = told_lab.node("n1"), told_lab.node("n2")
    told_lab.fault("n1", "kernel-staged")
    split(n2)
    told_lab.slurm([
        "scontrol",
        "update",
        "nodename=n3",
        "state=drain",
        "reason=fan 3, caf\N{LATIN SMALL LETTER E WITH ACUTE}",
    ])
    annotate(told_lab, "n4", "")
    reset_calls(told_lab)
    until(n1, lambda values: values["gsp_faults"] == "next-kernel")
    until(n2, lambda values: values["gsp_faults"] == "kmd-split")
    changed = calls(told_lab)["REQUEST_UPDATE_NODE"]
    assert changed == 3  # what each publishes, and the drain of n2
    for node in (n1, n2):
        for _ in range(3):
            check(node)
    assert calls(told_lab)["REQUEST_UPDATE_NODE"] == changed

    found = fleet(told_lab)
    assert (found["nodes"], found["healthy"]) == (4, 0)
    assert groups(found["verdicts"]) == {"consistent": "n3", "latent": "n1", "mismatch": "n2"}
    assert groups(found["silent"]) == {"nothing published": "n4"}
    assert groups(found["breaks_at_next_reboot"]) == {"next-kernel": "n1"}
    assert groups(found["drained_by_health_check"]) == {"kmd-split": "n2"}
    assert [(one["reason"], one["user"], one["which"]) for one in found["out_by_others"]] == [
        ("fan 3, caf\N{LATIN SMALL LETTER E WITH ACUTE}", "root", "n3")
    ]
    assert [node["node"] for node in fleet(told_lab, "--code", "kmd-split")["each"]] == ["n2"]
    assert json.loads(extra(n2))["rack"] == "r7"
