"""Realignment, staging and reload on real nodes of a real Slurm, with real apt and dpkg."""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from slurm_gsp.core.operation import DIGEST_LENGTH, Kind, Operation
from slurm_gsp.lab import faults, golden, packages
from slurm_gsp.lab.cluster import INSTALLED_AT, Lab, Node
from slurm_gsp.lab.rehearsal import manifest_text

pytestmark = pytest.mark.lab

Borrow = Callable[[Lab, str], Node]

OLD, NEW, OTHER = packages.INSTALLED, packages.UPDATE, packages.OTHER_BRANCH
COMMAND = f"{INSTALLED_AT}/.venv/bin/slurm-gsp"
FOLDER = "/etc/slurm-gsp/manifests"
"""Where every node of the lab sees the lab's manifests."""
LOGS = "/var/log/slurm-gsp"
CONFIG = f"""
[realign]
manifest = "{FOLDER}/r2.toml"
min_free_mb = 16
lock_wait_s = 5
step_s = 60.0
"""


@pytest.fixture(scope="module")
def realm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Four nodes whose health check runs at boot, and three manifests: what is installed and what may be."""
    with Lab.up(tmp_path_factory.mktemp("r") / "l", interval=3600, settings=["ResumeTimeout=30"]) as running:
        write_manifests(running)
        yield running


def write_manifest(
    lab: Lab, name: str, version: str, previous: str = "none", downloads: Mapping[str, str] | None = None
) -> None:
    """Put a manifest where the nodes look."""
    (lab.manifests / f"{name}.toml").write_text(manifest_text(name, version, previous, downloads=downloads))


def write_manifests(lab: Lab) -> None:
    write_manifest(lab, "r1", OLD)
    write_manifest(lab, "r2", NEW, "r1")
    write_manifest(lab, "r3", OTHER, "r2")


@pytest.fixture
def ready(realm: Lab, borrow: Borrow) -> Callable[..., Node]:
    """Borrow a node of it, configured, and drained unless a test wants it in service."""

    def lend(name: str = "n1", config: str = CONFIG, *, drained: bool = True) -> Node:
        node = borrow(realm, name)
        node.write("/etc/slurm-gsp/config.toml", config)
        if drained:
            drain(node)
        return node

    return lend


def drain(node: Node, reason: str = "maintenance") -> None:
    node.lab.slurm(["scontrol", "update", f"nodename={node.name}", "state=drain", f"reason={reason}"])


def operation(lab: Lab, manifest: str, campaign: str = "c1", attempt: int = 1) -> Operation:
    digest = hashlib.sha256((lab.manifests / f"{manifest}.toml").read_bytes()).hexdigest()[:DIGEST_LENGTH]
    return Operation(Kind.REALIGN, campaign, manifest, digest, attempt)


def ask(node: Node, reason: str) -> None:
    """Ask for a reboot as a campaign does."""
    node.lab.slurm(["scontrol", "reboot", "ASAP", "nextstate=DOWN", f"reason={reason}", node.name])


def is_answered(node: Node) -> bool:
    return "reboot complete" in node.reason or "realign-failed" in node.reason


def wait_for_answer(*nodes: Node) -> None:
    nodes[0].lab.wait_for(lambda: all(map(is_answered, nodes)), 60, "the nodes' answers")


def realign(node: Node, *options: str) -> subprocess.CompletedProcess[str]:
    return node.run([COMMAND, "realign", *options], check=False)


def database(node: Node) -> str:
    """What dpkg knows, without what holds the packages."""
    return node.run(["dpkg-query", "-W", "-f", "${Package} ${Version} ${db:Status-Status}\n"]).stdout


def journal(node: Node) -> dict[str, object]:
    answer = json.loads(node.read("/var/lib/slurm-gsp/realign.json"))
    assert isinstance(answer, dict)
    return answer


def log(node: Node) -> str:
    return "".join(path.read_text() for path in sorted(node.path(LOGS).glob("realign-*.log")))


def verdict(node: Node) -> str:
    out = node.run([COMMAND, "inspect", "--json"], check=False).stdout
    return str(json.loads(out)["verdict"])


def is_on(node: Node, version: str) -> None:
    """The node runs this driver, all of it, and nothing of another one."""
    assert verdict(node) == "consistent"
    assert node.layers() == {
        "kernel": node.release,
        "loaded": version,
        "module on disk": version,
        "GSP running": f"{version} {version}",
        "GSP images": version,
        "libnvidia-ml": version,
        "libcuda": version,
    }
    there = {
        line.split()[0]
        for line in database(node).splitlines()
        if "nvidia" in line.split()[0] and line.split()[2] == "installed"
    }
    assert there == set(packages.driver_package_names(version))
    assert node.run(["dpkg", "-V", *there]).stdout == ""
    assert node.run(["dpkg", "--audit"]).stdout == ""
    assert set(node.run(["apt-mark", "showhold"]).stdout.split()) >= there


def kernel_without_a_module(node: Node) -> None:
    """Rebooted into a new kernel whose headers are there, and DKMS was not asked."""
    hook = node.path("/etc/kernel/postinst.d/dkms")
    hook.chmod(0o644)
    node.run(["apt-get", "-q", "update"])
    kernel = packages.NEXT_KERNEL
    node.run(["apt-get", "-q", "-y", "install", f"linux-image-{kernel}", f"linux-headers-{kernel}"])
    node.reboot(quiet=True)
    assert not node.exists("/sys/module/nvidia")


def uvm_of_another_driver(node: Node) -> None:
    node.lab.fault(node.name, "kmd-split")


BROKEN: dict[str, str | Callable[[Node], None]] = {
    name: name
    for name in (
        "interrupted-upgrade",
        "unattended-upgrade",
        "mixed-branches",
        "hand-copied-image",
        "truncated-image",
        "missing-image",
        "kmd-split",
    )
} | {"kernel-bump-with-headers": kernel_without_a_module}


@pytest.mark.parametrize(
    ("broken", "manifest", "version"),
    [(list(BROKEN)[:4], "r1", OLD), (list(BROKEN)[4:], "r2", NEW), (list(BROKEN)[:4], "r3", OTHER)],
    ids=["back", "on", "to another branch"],
)
def test_whatever_is_broken_ends_on_the_pin(
    realm: Lab, ready: Callable[..., Node], broken: list[str], manifest: str, version: str
) -> None:
    nodes = [ready(f"n{number}", drained=False) for number in (1, 2, 3, 4)]
    for node, name in zip(nodes, broken, strict=True):
        fault = BROKEN[name]
        realm.fault(node.name, fault) if isinstance(fault, str) else fault(node)
    before = [node.boot_id for node in nodes]
    asked = operation(realm, manifest)
    for node in nodes:
        ask(node, asked.reason)
    wait_for_answer(*nodes)
    for node, boot in zip(nodes, before, strict=True):
        assert node.reason == f"{asked.reason} : reboot issued : reboot complete", log(node)
        assert node.boot_id != boot
        is_on(node, version)
        written = journal(node)
        assert (written["operation"], written["state"], written["boot"]) == ("c1/realign/1", "done", boot)
        assert json.loads(node.read("/var/lib/slurm-gsp/pin.json"))["driver"] == version
        assert node.exists(f"{LOGS}/realign-c1-realign-1.log")
        assert node.exists(f"/boot/initrd.img-{node.release}")


def test_another_reason_is_a_plain_reboot(realm: Lab, ready: Callable[..., Node]) -> None:
    node = ready()
    realm.fault("n1", "hand-copied-image")
    boots = node.boots
    ask(node, "gsp:fw-skew kmd=570.172.08")
    realm.wait_for(lambda: "reboot complete" in node.reason, 30, "the reboot")
    assert node.boots == boots + 1
    assert not node.exists(LOGS) and not node.exists("/var/lib/slurm-gsp/realign.json")


def test_a_reboot_without_a_reason_stays_what_it_was(realm: Lab, ready: Callable[..., Node]) -> None:
    node = ready(drained=False)
    boots = node.boots
    realm.slurm(["scontrol", "reboot", "n1"])
    realm.wait_for(lambda: node.boots > boots and node.state == "IDLE", 30, "n1 back in service")


# --- what is refused ---------------------------------------------------------------------------------------


def test_a_repository_that_is_gone_changes_nothing(realm: Lab, ready: Callable[..., Node]) -> None:
    node = ready(drained=False)
    before, boot = database(node), node.boot_id
    realm.fault("n1", "repository-down")
    ask(node, operation(realm, "r2").reason)
    wait_for_answer(node)
    assert node.reason.startswith("gsp:realign-failed step=1 preflight: E: "), node.reason
    assert (database(node), node.boot_id, node.layers()["loaded"]) == (before, boot, OLD)
    assert "DRAIN" in node.state
    written = journal(node)
    assert (written["state"], str(written["failed"])[:17]) == ("failed", "step=1 preflight:")
    # it is back: the same again, by hand
    node.run(["umount", golden.REPOSITORY])
    assert realign(node, "--reboot").returncode == 0
    realm.wait_for(lambda: "reboot complete" in node.reason, 30, "the reboot")
    is_on(node, NEW)


def test_without_space_nothing_is_begun(realm: Lab, ready: Callable[..., Node]) -> None:
    node = ready()
    before = database(node)
    realm.fault("n1", "disk-full")
    done = realign(node)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr or "MB free on /, min_free_mb is 16" in done.stderr
    assert (database(node), node.layers()["loaded"]) == (before, OLD)
    node.path("/var/lab-filler").unlink()
    assert realign(node).returncode == 0


def test_a_gpu_that_is_gone_is_no_matter_of_packages(realm: Lab, ready: Callable[..., Node]) -> None:
    node = ready()
    realm.fault("n1", "gpu-missing")
    before = database(node)
    done = realign(node)
    assert (done.returncode, database(node)) == (1, before)
    assert "step=1 preflight: 1 of 2 GPUs on PCI" in done.stderr


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("secure-boot", "Secure Boot is on and DKMS has no signing key"),
        ("vbios", "board firmware (VBIOS/FWSEC)"),
        ("kernel-bump", f"no headers of kernel {packages.NEXT_KERNEL}"),
    ],
)
def test_what_a_driver_package_does_not_cure(
    realm: Lab, ready: Callable[..., Node], fault: str, said: str
) -> None:
    node = ready()
    realm.fault("n1", fault)
    before = database(node)
    assert said in realign(node).stderr
    assert database(node) == before


def test_a_package_of_another_digest_is_not_installed(realm: Lab, ready: Callable[..., Node]) -> None:
    node = ready(config=CONFIG.replace("r2.toml", "digests.toml"))
    digests = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in node.path(golden.REPOSITORY).glob(f"*{NEW}-*.deb")
        if not path.name.startswith("nvidia-fabricmanager")
    }
    wrong = f"nvidia-utils-570_{packages.deb_version(NEW)}_amd64.deb"
    write_manifest(realm, "digests", NEW, downloads={**digests, wrong: "0" * 64})
    before = database(node)
    done = realign(node)
    assert f"step=2 fetch: {wrong}: its SHA-256 is {digests[wrong]}, pinned is {'0' * 64}" in done.stderr
    assert database(node) == before
    write_manifest(realm, "digests", NEW, downloads=digests)
    assert realign(node).returncode == 0
    assert realign(node).returncode == 0
    assert "all packages are as pinned and as shipped" in log(node)


def _damage_a_package(node: Node) -> None:
    path = node.path(f"{golden.REPOSITORY}/libnvidia-compute-570_{packages.deb_version(NEW)}_amd64.deb")
    path.write_bytes(path.read_bytes()[:-8] + b"tampered")


def _alter_the_index(node: Node) -> None:
    path = node.path(f"{golden.REPOSITORY}/Packages")
    path.write_text(path.read_text().replace("Priority: optional", "Priority: required"))
    node.run(["sh", "-c", "rm -rf /var/lib/apt/lists/*"])  # else apt goes on with the one that it verified


def _take_the_signature_away(node: Node) -> None:
    folder = node.path(golden.REPOSITORY)
    signed = (folder / "InRelease").read_text()
    body = signed.partition("\n\n")[2].partition("-----BEGIN PGP SIGNATURE")[0]
    (folder / "Release").write_text(body)
    (folder / "InRelease").unlink()


@pytest.mark.parametrize(
    ("tamper", "step"),
    [(_damage_a_package, 2), (_alter_the_index, 1), (_take_the_signature_away, 1)],
    ids=["package", "index", "signature"],
)
def test_a_tampered_repository_installs_nothing(
    realm: Lab, ready: Callable[..., Node], tamper: Callable[[Node], None], step: int
) -> None:
    node = ready()
    before = database(node)
    tamper(node)
    done = realign(node)
    assert done.returncode == 1
    assert f"step={step} " in done.stderr, done.stderr
    assert database(node) == before


def test_only_signed_manifests_are_obeyed(realm: Lab, ready: Callable[..., Node], tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    public = (tmp_path / "key.pub").read_text()
    config = f'{CONFIG}allowed_signers = "/etc/slurm-gsp/signers"\n'
    node = ready(config=config.replace("r2.toml", "s2.toml"))
    node.write("/etc/slurm-gsp/signers", f"alice {public}")
    node.path("/etc/slurm-gsp/signers").chmod(0o644)
    write_manifest(realm, "s1", OLD)
    write_manifest(realm, "s2", NEW, "s1")

    def sign(name: str) -> None:
        arguments = ["sign", str(realm.manifests / f"{name}.toml"), "--key", str(tmp_path / "key")]
        subprocess.run(
            [str(Path(__file__).parents[2] / ".venv/bin/slurm-gsp"), "manifest", *arguments], check=True
        )

    before = database(node)
    sign("s1")
    assert "is not signed" in realign(node).stderr
    sign("s2")
    assert realign(node, "--dry-run").returncode == 0
    (realm.manifests / "s1.toml").write_text(manifest_text("s1", OLD) + "# altered\n")
    assert "was altered after it was signed" in realign(node, "--to", "previous").stderr
    ask(node, operation(realm, "s2").reason)
    wait_for_answer(node)
    assert node.reason.startswith("gsp:realign-failed step=1 preflight: "), node.reason
    assert database(node) == before
    node.reboot()


def test_another_text_than_the_campaigns_is_refused(realm: Lab, ready: Callable[..., Node]) -> None:
    node = ready()
    ask(node, Operation(Kind.REALIGN, "c1", "r2", "0123456789ab").reason)
    wait_for_answer(node)
    told = "gsp:realign-failed step=1 preflight: manifest r2 is another text than the campaign-s: digest "
    assert node.reason.startswith(told.replace("-s", "'s")), node.reason
    node.reboot()


def test_a_package_that_needs_a_stray_one_stops_it(realm: Lab, ready: Callable[..., Node]) -> None:
    node = ready()
    realm.fault("n1", "mixed-branches")
    control = "Package: jobtool\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: x\n"
    node.write("/run/jobtool/DEBIAN/control", f"{control}Depends: libnvidia-compute-580\n")
    node.run(["dpkg-deb", "--build", "/run/jobtool", "/run/jobtool.deb"])
    node.run(["dpkg", "--install", "/run/jobtool.deb"])
    before = database(node)
    done = realign(node)
    assert (done.returncode, "step=2 fetch: E: " in done.stderr) == (1, True), done.stderr
    node.run([COMMAND, "stage"], check=False)
    assert database(node) == before


# --- what fails on the way ---------------------------------------------------------------------------------


def test_a_step_that_fails_is_told_and_can_be_repeated(realm: Lab, ready: Callable[..., Node]) -> None:
    node = ready()
    override = "/etc/slurm-gsp/templates/debian/initramfs.sh.j2"
    node.write(override, "echo dracut: out of luck >&2\nexit 3\n")
    node.path(override).chmod(0o644)
    boot = node.boot_id
    ask(node, operation(realm, "r2").reason)
    wait_for_answer(node)
    assert node.reason == "gsp:realign-failed step=10 initramfs: dracut: out of luck (exit status 3)"
    assert (node.boot_id, journal(node)["state"]) == (boot, "failed")
    node.path(override).unlink()
    assert realign(node, "--reboot").returncode == 0
    realm.wait_for(lambda: "reboot complete" in node.reason, 30, "the reboot")
    is_on(node, NEW)


def test_a_reason_of_somebody_else_stays(realm: Lab, ready: Callable[..., Node]) -> None:
    node = ready()
    override = "/etc/slurm-gsp/templates/debian/initramfs.sh.j2"
    node.write(override, "while [ ! -e /run/go ]; do sleep 0.1; done\nexit 3\n")
    node.path(override).chmod(0o644)
    ask(node, operation(realm, "r2").reason)
    realm.wait_for(lambda: node.exists(f"{LOGS}/realign-c1-realign-1.log"), 30, "the log")
    realm.wait_for(lambda: "step 10 initramfs" in log(node), 30, "step 10")
    drain(node, "do not touch")
    # a second request meets the lock
    node.run(["/usr/bin/env", "-i", "SLURM_NODE_NAME=n1", f"{INSTALLED_AT}/slurm-gsp-reboot"])
    node.write("/run/go", "")
    realm.wait_for(lambda: journal(node)["state"] == "failed", 30, "the end")
    time.sleep(1)
    assert node.reason == "do not touch"
    node.reboot()


def test_a_power_cut_in_the_middle_is_finished_by_the_next_request(
    realm: Lab, ready: Callable[..., Node]
) -> None:
    node = ready()
    node.write(packages.HOLD, "")
    ask(node, operation(realm, "r2").reason)
    realm.wait_for(lambda: node.exists(packages.HELD), 30, "the installation to reach DKMS")
    boots = node.boots
    node.reboot()
    realm.wait_for(lambda: node.boots > boots and "reboot complete" in node.reason, 30, "n1 back")
    assert journal(node)["state"] == "running"
    assert "half-configured" in database(node)
    asked = operation(realm, "r2", attempt=2)
    time.sleep(
        2
    )  # a request in the very second of the return is forgotten by slurmctld, though the node reboots
    ask(node, asked.reason)
    realm.wait_for(lambda: node.reason.startswith(asked.reason) and is_answered(node), 60, "the second try")
    assert node.reason == f"{asked.reason} : reboot issued : reboot complete", log(node)
    is_on(node, NEW)


@contextmanager
def holding(node: Node, device: str) -> Iterator[str]:
    """A process that has a device open; its pid in the node."""
    script = f"echo $$ >/run/holder; exec sleep 600 <{device}"
    with node.popen(["sh", "-c", script]) as process:
        node.lab.wait_for(lambda: node.exists("/run/holder") and node.read("/run/holder") != "", 10, "it")
        pid = node.read("/run/holder").strip()
        try:
            yield pid
            assert process.poll() is None
        finally:
            node.run(["kill", "-9", pid], check=False)
            node.path("/run/holder").unlink()


def test_holders_are_named_and_never_ended(realm: Lab, ready: Callable[..., Node]) -> None:
    node = ready()
    with holding(node, "/dev/nvidia0") as pid:
        done = realign(node)
        assert done.returncode == 0, done.stderr
        assert f"left to the reboot, the driver is open in sleep (pid {pid}, root)" in done.stdout
        assert "nvidia_drm could not be unloaded: left to the reboot" in log(node)
    assert node.layers()["loaded"] == OLD


# --- staging, and what needs no repository -----------------------------------------------------------------


def running_job(realm: Lab, node: Node) -> str:
    """The id of a job that runs on this node."""
    words = ["--parsable", "-w", node.name, "--output=/dev/null", "--wrap", "sleep 600"]
    job = realm.slurm(["sbatch", *words]).stdout.strip()
    realm.wait_for(lambda: "ALLOCATED" in node.state or "MIXED" in node.state, 30, "the job to run")
    return job


def test_staged_while_a_job_runs_then_realigned_without_a_repository(
    realm: Lab, ready: Callable[..., Node]
) -> None:
    node = ready(drained=False)
    before = database(node)
    job = running_job(realm, node)
    staged = node.run([COMMAND, "stage"])
    assert "7 packages in /var/cache/slurm-gsp/" in staged.stdout
    assert "nothing to do: everything is in" in node.run([COMMAND, "stage"]).stdout
    assert (database(node), node.layers()["loaded"]) == (before, OLD)
    assert f"n1 has jobs ({job})" in realign(node).stderr
    realm.slurm(["scancel", job])
    drain(node)
    realm.fault("n1", "repository-down")
    realm.wait_for(lambda: node.state == "IDLE+DRAIN", 30, "the job to end")
    assert realign(node).returncode == 0
    node.reboot(quiet=True)
    is_on(node, NEW)


def test_a_damaged_staged_package_is_fetched_again(realm: Lab, ready: Callable[..., Node]) -> None:
    node = ready()
    node.run([COMMAND, "stage"])
    (package,) = node.path("/var/cache/slurm-gsp").glob("*/*/nvidia-utils-570_*.deb")
    package.write_bytes(package.read_bytes()[:-1] + b"?")
    assert realign(node).returncode == 0
    assert "7 packages in" in log(node)
    node.reboot(quiet=True)
    is_on(node, NEW)


def test_back_to_the_manifest_before_and_nothing_to_fetch_for_it(
    realm: Lab, ready: Callable[..., Node]
) -> None:
    node = ready()
    assert realign(node).returncode == 0
    assert realign(node, "--to", "previous", "--reboot").returncode == 0
    realm.wait_for(lambda: node.boots == 2, 30, "the reboot")
    is_on(node, OLD)
    assert journal(node)["operation"] == "by-hand/rollback/1"
    realm.fault("n1", "repository-down")
    drain(node)
    done = realign(node, "--to", "previous")
    assert done.returncode == 0
    assert done.stdout.count("nothing to do: all packages are as pinned and as shipped") == 4
    # and the other one was fetched before
    assert realign(node).returncode == 0
    assert log(node).count("nothing to do: everything is in /var/cache/slurm-gsp/") == 2


# --- by hand -----------------------------------------------------------------------------------------------


def test_a_dry_run_changes_nothing_and_prints_the_sites_own_step(
    realm: Lab, ready: Callable[..., Node]
) -> None:
    node = ready(drained=False)
    override = "/etc/slurm-gsp/templates/debian/hold.sh.j2"
    node.write(override, "site-hold {{ names }} {{ 'a b' }}\n")
    node.path(override).chmod(0o644)
    before = database(node)
    realm.fault("n1", "mixed-branches")
    mixed = database(node)
    done = realign(node, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert f"  remove: libnvidia-compute-580 {packages.deb_version(OTHER)}" in done.stdout
    assert f"    | site-hold {' '.join(packages.driver_package_names(NEW))} 'a b'" in done.stdout
    assert [line.split()[0] for line in done.stdout.splitlines() if line[:2].strip().isdecimal()] == [
        str(number) for number in range(1, 14)
    ]
    assert database(node) == mixed != before
    assert node.layers()["loaded"] == OLD
    assert not node.exists(LOGS) and not node.exists("/var/cache/slurm-gsp")
    node.path(override).chmod(0o666)
    assert "others than root can write it" in realign(node, "--dry-run").stderr


def test_the_profile_is_what_slurm_says_unless_it_is_named(realm: Lab, ready: Callable[..., Node]) -> None:
    node = ready(drained=False)
    (realm.manifests / "far.toml").write_text(
        manifest_text("far", NEW).replace('gres = ["gpu:h100:2"]', 'nodes = "far[1-4]"')
    )
    manifest = ["--manifest", f"{FOLDER}/far.toml", "--dry-run"]
    assert "no profile of far matches n1; it has h100" in realign(node, *manifest).stderr
    assert realign(node, *manifest, "--profile", "h100").returncode == 0
    assert "far has no profile b200; it has h100" in realign(node, *manifest, "--profile", "b200").stderr
    realm.ctld_stop()
    try:
        assert "nobody can tell which profile n1 takes" in realign(node, *manifest).stderr
        assert (
            "nobody can tell whether n1 has jobs" in realign(node, *manifest[:2], "--profile", "h100").stderr
        )
    finally:
        realm.ctld_start()


def reload(node: Node, *options: str) -> subprocess.CompletedProcess[str]:
    return node.run([COMMAND, "reload", *options], check=False)


def test_reload(realm: Lab, ready: Callable[..., Node]) -> None:
    node = ready(drained=False)
    assert "n1 is in service" in reload(node).stderr
    job = running_job(realm, node)
    assert f"n1 has jobs ({job})" in reload(node).stderr
    realm.slurm(["scancel", job])
    drain(node)
    realm.wait_for(lambda: node.state == "IDLE+DRAIN", 30, "the job to end")
    with holding(node, "/dev/nvidiactl") as pid:
        assert f"the driver is open in sleep (pid {pid}, root): end it first" in reload(node).stderr
        assert reload(node, "--dry-run").returncode == 1
    realm.fault("n1", "xid-119")
    assert verdict(node) == "elsewhere"
    boot = node.boot_id
    done = reload(node)
    assert done.returncode == 0, done.stderr
    assert (verdict(node), node.boot_id, node.layers()["loaded"]) == ("consistent", boot, OLD)
    assert reload(node, "--dry-run").returncode == 0


def test_a_reload_that_does_not_help_says_what_is_wrong(realm: Lab, ready: Callable[..., Node]) -> None:
    node = ready()
    node.path(faults.IMAGE).unlink()
    done = reload(node)
    assert done.returncode == 1
    assert "step=7 look: mismatch: fw-missing" in done.stderr
