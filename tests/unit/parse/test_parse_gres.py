import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import noisy

from slurm_gsp.parse import ParseError
from slurm_gsp.parse.gres import configured_gpu_count, expand_hostlist, gpu_count


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ()),
        ("n1", ("n1",)),
        ("n1,n2", ("n1", "n2")),
        ("n[1-3]", ("n1", "n2", "n3")),
        ("n[08-11]", ("n08", "n09", "n10", "n11")),
        ("n[9-11]", ("n9", "n10", "n11")),
        ("n[001-002,7],login", ("n001", "n002", "n7", "login")),
        ("r[1-2]n[1-2]-ib", ("r1n1-ib", "r1n2-ib", "r2n1-ib", "r2n2-ib")),
        ("[1-2]", ("1", "2")),
        ("/dev/nvidia[0-3,5]", tuple(f"/dev/nvidia{number}" for number in (0, 1, 2, 3, 5))),
        ("a,,b", ("a", "b")),
    ],
)
def test_hostlists(text, names):
    assert expand_hostlist(text) == names


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("n[1-3", "brackets do not match"),
        ("n1-3]", "brackets do not match"),
        ("n[[1]]", "brackets do not match"),
        ("n[]", "not a range"),
        ("n[a-b]", "not a range"),
        ("n[1-2-3]", "not a range"),
        ("n[3-1]", "backwards"),
        ("n[1-65537]", "more than 65536"),
        ("n[1-99999999999999999]", "more than 65536"),
        ("n[1-256][1-257]", "more than 65536"),
        ("n[1-60000],m[1-60000]", "more than 65536"),
        ("x" * 2000, "too long"),
    ],
)
def test_what_is_no_hostlist(text, why):
    with pytest.raises(ParseError, match=why):
        expand_hostlist(text)


def test_the_largest_hostlist():
    assert len(expand_hostlist("n[1-65536]")) == 65_536


@pytest.mark.parametrize(
    ("conf", "count"),
    [
        ("", None),
        ("Name=gpu File=/dev/nvidia[0-7]\n", 8),
        ("NAME=GPU TYPE=h100 FILE=/dev/nvidia[0-3,5]\n", 5),
        ("NodeName=n[1-4] Name=gpu Type=h100 File=/dev/nvidia[0-7] Cores=0-55\n", 8),
        ("NodeName=n[5-9] Name=gpu File=/dev/nvidia[0-7]\n", None),
        ("NodeName=n[5-9] Name=gpu File=/dev/nvidia[0-7]\nNodeName=n2 Name=gpu File=/dev/nvidia[0-3]\n", 4),
        ("Name=gpu File=/dev/nvidia0 Cores=0-3\nName=gpu File=/dev/nvidia1 Cores=4-7\n", 2),
        ("Name=gpu File=/dev/nvidia0\nName=gpu Type=a File=/dev/nvidia0\n", 1),
        ("Name=gpu Count=4\n", 4),
        ("Name=gpu Type=h100 File=/dev/nvidia[0-7] Count=8\n", 8),
        ("Name=gpu \\\n  File=/dev/nvidia[0-1]  # two\n", 2),
        ("# Name=gpu Count=4\n", None),
        ("AutoDetect=nvml\n", None),
        ("AutoDetect=nvml\nName=gpu\n", None),
        ("AutoDetect=nvml\nName=gpu File=/dev/nvidia[0-3]\n", 4),
        ("Name=gpu File=/dev/nvidia-caps/nvidia-cap[30,39]\n", None),
        ("Name=gpu MultipleFiles=/dev/nvidia0,/dev/nvidia-caps/nvidia-cap30\n", None),
        ("Name=shard Count=32\nName=mps Count=100\n", None),
        ("Name=gpu File=/dev/dri/renderD[128-135]\n", None),
        ("include gpus.conf\nName=gpu Count=4\n", None),
        ("Name=gpu Count=lots\n", None),
        ("Name=gpu File=/run/lab/n2/nvidia[0-7]\n", 8),
    ],
)
def test_gpus_that_gres_conf_promises_to_n2(conf, count):
    assert gpu_count(conf, "n2") == count


@given(noisy(["NodeName=n[1-4] Name=gpu Type=h100 File=/dev/nvidia[0-7] Count=8\n", "Name=gpu Count=4"]))
def test_any_text_gives_a_count_or_a_parse_error(text):
    try:
        count = gpu_count(text, "n2")
    except ParseError:
        return
    assert count is None or count > 0


@given(st.text(alphabet="n01239[]-, ", max_size=40))
def test_any_hostlist_gives_names_or_a_parse_error(text):
    try:
        names = expand_hostlist(text)
    except ParseError:
        return
    assert all(name and "[" not in name for name in names)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("NodeName=n[1-4] CPUs=96 Gres=gpu:h100:8 State=UNKNOWN", 8),
        ("NodeName=n1 Gres=gpu", None),
        ("nodename=n1 gres=gpu:a100:4", 4),
        ("NodeName=n1 Gres=gpu:7", None),
        ("NodeName=n1 Gres=gpu:1g.10gb:14", None),
        ("NodeName=n1 Gres=gpu:h100:4,gpu:a30_2g.12gb:4", None),
        ("NodeName=n1 Gres=gpu:a100:3(S:0-1),gpu:t4:1,shard:64", 4),
        ("NodeName=DEFAULT Gres=gpu:t4:2\nNodeName=n[1-2] CPUs=4", 2),
        ("NodeName=DEFAULT Gres=gpu:2\nNodeName=n1 Gres=nic:1", None),
        ("NodeName=n1 \\\n Gres=gpu:h100:8", 8),
        ("NodeName=n2 Gres=gpu:8", None),
        ("NodeName=n1 CPUs=4 # Gres=gpu:8", None),
        ("include nodes.conf\nNodeName=n1 Gres=gpu:8", None),
        ("", None),
    ],
)
def test_slurm_conf_promises(text: str, count: int | None) -> None:
    assert configured_gpu_count(text, "n1") == count
