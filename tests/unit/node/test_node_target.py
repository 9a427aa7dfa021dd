"""Which manifest, which profile, and whether it may be obeyed."""

import hashlib
import os
import shutil
import subprocess
from functools import partial

import pytest
from fake_host import make_config

from slurm_gsp.core.operation import Kind, Operation
from slurm_gsp.manifest.match import NodeFacts
from slurm_gsp.manifest.sign import sign
from slurm_gsp.node.failing import RefusedError
from slurm_gsp.node.target import Choice
from slurm_gsp.node.target import by_hand as by_hand_as
from slurm_gsp.node.target import of_operation as of_operation_as

N1 = NodeFacts("n1", ("main",), (), ("gpu:h100:4",))
TEXT = """\
name = "{name}"
previous = "{previous}"
created = 2026-11-21T09:00:00Z
[profile.h100]
gres = ["gpu:h100"]
driver = "580.95.05"
flavour = "open"
gpus = 4
fabric_manager = false
vbios = "96.00.89.00.01"
packages.apt = {{ "nvidia-dkms-580-open" = "580.95.05-0ubuntu1" }}
[profile.other]
nodes = "{others}"
driver = "580.95.05"
flavour = "open"
gpus = 2
fabric_manager = false
packages.apt = {{ "nvidia-dkms-580-open" = "580.95.05-0ubuntu1" }}
"""


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "manifests"
    made.mkdir()
    write(made, "2026-11", "2026-10")
    write(made, "2026-10", "none")
    return made


by_hand = partial(by_hand_as, owner_uid=os.geteuid())
of_operation = partial(of_operation_as, owner_uid=os.geteuid())


def write(folder, name, previous, others="far[1-2]"):
    path = folder / f"{name}.toml"
    path.write_text(TEXT.format(name=name, previous=previous, others=others))
    path.chmod(0o644)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digest(folder, name):
    return hashlib.sha256((folder / f"{name}.toml").read_bytes()).hexdigest()


def refusal(call, *arguments):
    with pytest.raises(RefusedError) as error:
        call(*arguments)
    return error.value.why


def test_a_campaigns_manifest(folder, tmp_path):
    for name, kind in (("2026-11", Kind.REALIGN), ("2026-10", Kind.ROLLBACK)):
        whole = digest(folder, name)
        asked = Operation(kind, "c1", name, whole[:12], 2)
        target = of_operation(asked, make_config(tmp_path), N1)
        assert (target.manifest, target.digest, target.operation) == (name, whole, asked)
        assert target.profile.name == "h100"
        pinned = target.pinned
        assert (pinned.target, pinned.profile, pinned.gpus) == (f"{name}@{whole[:12]}", "h100", 4)
        assert (pinned.driver, pinned.vbios, pinned.images) == ("580.95.05", "96.00.89.00.01", ())


def test_asked_for_with_a_reason_alone(folder, tmp_path):
    config = make_config(tmp_path)
    assert of_operation(Operation(Kind.REALIGN, "c1"), config, N1).manifest == "2026-11"
    assert of_operation(Operation(Kind.ROLLBACK, "c1"), config, N1).manifest == "2026-10"


def test_another_text_than_the_campaigns(folder, tmp_path):
    asked = Operation(Kind.REALIGN, "c1", "2026-11", "0" * 12)
    (why,) = refusal(of_operation, asked, make_config(tmp_path), N1)
    told = f"digest {digest(folder, '2026-11')[:12]}, planned 000000000000: {folder}/2026-11.toml"
    assert why == f"manifest 2026-11 is another text than the campaign's: {told}"


@pytest.mark.parametrize("name", ["../2026-11", "a/b", ".hidden", "x" * 65, "a b"])
def test_a_name_leads_nowhere_else(folder, tmp_path, name):
    (why,) = refusal(of_operation, Operation(Kind.REALIGN, "c1", name, "0" * 12), make_config(tmp_path), N1)
    assert why.endswith("is no name of a manifest")


def test_a_manifest_in_the_file_of_another(folder, tmp_path):
    shutil.copy(folder / "2026-11.toml", folder / "2026-12.toml")
    asked = Operation(Kind.REALIGN, "c1", "2026-12", digest(folder, "2026-12")[:12])
    (why,) = refusal(of_operation, asked, make_config(tmp_path), N1)
    assert why == f'{folder}/2026-12.toml says name = "2026-11", the campaign 2026-12'


def test_by_hand(folder, tmp_path):
    config, path = make_config(tmp_path), folder / "2026-11.toml"
    assert by_hand(Choice(path), config, N1).operation.key == "by-hand/realign/1"
    back = by_hand(Choice(path, Kind.ROLLBACK), config, N1)
    assert (back.manifest, back.operation.key) == ("2026-10", "by-hand/rollback/1")
    assert by_hand(Choice(path, profile="other"), config, None).profile.gpus == 2


@pytest.mark.parametrize(
    ("choice", "node", "told"),
    [
        (("2026-11", Kind.REALIGN, "b200"), N1, "2026-11 has no profile b200; it has h100, other"),
        (
            ("2026-11", Kind.REALIGN, None),
            NodeFacts("cpu1"),
            "no profile of 2026-11 matches cpu1; it has h100, other",
        ),
        (("2026-10", Kind.ROLLBACK, None), N1, "2026-10 is the first manifest: there is none before it"),
        (("2026-01", Kind.REALIGN, None), N1, "2026-01.toml: there is no such file"),
    ],
)
def test_what_cannot_be_chosen(folder, tmp_path, choice, node, told):
    name, kind, profile = choice
    (why,) = refusal(by_hand, Choice(folder / f"{name}.toml", kind, profile), make_config(tmp_path), node)
    assert why.endswith(told)


def test_a_node_that_two_profiles_are_for(folder, tmp_path):
    write(folder, "2026-11", "2026-10", others="n1")
    (why,) = refusal(by_hand, Choice(folder / "2026-11.toml"), make_config(tmp_path), N1)
    assert why == "h100 and other of 2026-11 match n1: a node takes one profile only"


def test_every_mistake_of_a_manifest_is_told(folder, tmp_path):
    path = folder / "2026-11.toml"
    path.write_text(path.read_text().replace("gpus = 4", "gpus = 0").replace('"open"', '"closed"'))
    assert len(refusal(by_hand, Choice(path), make_config(tmp_path), N1)) == 3


@pytest.mark.parametrize("name", ["2026-11.toml", "2026-10.toml", "."])
def test_without_signatures_nobody_else_may_write_it(folder, tmp_path, name):
    """Whatever is installed: the manifest, the one before it, or another that is put in its place."""
    place, config = folder / name, make_config(tmp_path)
    place.chmod(0o775)
    way = Kind.ROLLBACK if "10" in name else Kind.REALIGN
    told = f"{place}: others than root can write it; chown root: and chmod go-w {place}"
    assert refusal(by_hand, Choice(folder / "2026-11.toml", way), config, N1) == (told,)
    assert refusal(of_operation, Operation(way, "c1"), config, N1) == (told,)
    asked = Operation(Kind.REALIGN, "c1", "2026-10", digest(folder, "2026-10")[:12])
    assert name == "2026-11.toml" or refusal(of_operation, asked, config, N1) == (told,)


def test_in_a_sticky_folder_nobody_else_replaces_it(folder, tmp_path):
    folder.chmod(0o1777)
    assert by_hand(Choice(folder / "2026-11.toml"), make_config(tmp_path), N1).manifest == "2026-11"


def test_without_signatures_it_must_be_roots(folder, tmp_path):
    path = folder / "2026-11.toml"
    (why,) = refusal(partial(by_hand, owner_uid=os.geteuid() + 1), Choice(path), make_config(tmp_path), N1)
    assert why == f"{path}: others than root can write it; chown root: and chmod go-w {path}"


def test_a_link_is_as_good_as_what_it_leads_to(folder, tmp_path):
    current, elsewhere = folder / "current.toml", tmp_path / "elsewhere"
    current.symlink_to("2026-11.toml")
    assert by_hand(Choice(current), make_config(tmp_path), N1).manifest == "2026-11"
    elsewhere.mkdir()
    (folder / "2026-11.toml").rename(elsewhere / "2026-11.toml")
    (folder / "2026-11.toml").symlink_to(elsewhere / "2026-11.toml")
    elsewhere.chmod(0o777)
    (why,) = refusal(by_hand, Choice(current), make_config(tmp_path), N1)
    assert why.startswith(f"{elsewhere}: others than root can write it")


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")
def test_with_signers_both_must_be_signed(folder, tmp_path):
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    signers = tmp_path / "signers"
    signers.write_text(f"alice {key.with_suffix('.pub').read_text()}")
    signers.chmod(0o644)
    config = make_config(tmp_path, allowed_signers=str(signers))
    choice = Choice(folder / "2026-11.toml")
    assert "is not signed" in refusal(by_hand, choice, config, N1)[0]
    sign(folder / "2026-11.toml", key)
    assert "is not signed" in " ".join(refusal(by_hand, choice, config, N1))
    sign(folder / "2026-10.toml", key)
    assert by_hand(choice, config, N1).manifest == "2026-11"
    write(folder, "2026-10", "none", others="far[1-3]")
    assert "was altered after it was signed" in " ".join(refusal(by_hand, choice, config, N1))
    revoked = make_config(tmp_path, allowed_signers=str(signers), revoked=str(key.with_suffix(".pub")))
    assert "is revoked" in " ".join(refusal(by_hand, choice, revoked, N1))
