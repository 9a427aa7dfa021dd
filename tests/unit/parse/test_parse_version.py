import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_gsp.core.version import (
    branch,
    find_driver_version,
    kernel_sort_key,
    parse_driver_version,
    version_key,
)


@pytest.mark.parametrize(
    "text",
    [
        "580.159.04",
        "580.95.05",
        "550.163",
        "550.163.01",
        "535.179",
        "525.53",
        "515.43.04",
        "595.45.04",
        "390.157",
    ],
)
def test_a_driver_version_is_recognised(text):
    assert parse_driver_version(text) == text
    assert find_driver_version(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "580",
        "12.4.1",
        "13.580.159.04",
        "580.95.5",
        "580.95.05-1",
        " 580.95.05",
        "580.95.05\n",
        "v580.95.05",
        "299.10",
        "1021.23",
        "580.95.05.01",
        "٥٨٠.95.05",
    ],
)
def test_other_text_is_no_driver_version(text):
    assert parse_driver_version(text) is None


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("13.580.159.04", "580.159.04"),
        ("12.550.163", "550.163"),
        ("580.159.04-0ubuntu0.24.04.1", "580.159.04"),
        ("3:580.95.05-1.el9", "580.95.05"),
        ("535.54.03-1~deb12u1", "535.54.03"),
        ("libnvidia-ml.so.580.159.04", "580.159.04"),
        ("libcuda.so.1", None),
        ("libnvidia-ml.so.550.163.01", "550.163.01"),
        ("580.95.05_k6.4.0_150600.21-150600.3.35.1", "580.95.05"),
        ("12.4.1", None),
        ("12.4.131", None),
        ("6.8.0-1021.23+1", None),
        ("5.14.0-427.18.1.el9_4.x86_64", None),
        ("20220217+3~deb12u1", None),
        ("", None),
    ],
)
def test_a_driver_version_is_found_inside_other_text(text, version):
    assert find_driver_version(text) == version


def test_branch_and_order():
    assert [branch(text) for text in ("580.95.05", "550.163", "", "x")] == [580, 550, 0, 0]
    assert version_key("580.95.05") == (580, 95, 5)
    assert version_key("580.95.05") < version_key("580.159.04") < version_key("595.45.04")


@pytest.mark.parametrize(
    "releases",
    [
        ["6.8.0-9-generic", "6.8.0-50-generic", "6.11.0-1-generic"],
        ["5.14.0-427.el9.x86_64", "5.14.0-427.13.1.el9_4.x86_64", "5.14.0-503.el9.x86_64"],
        ["6.1.0-9-amd64", "6.1.0-28-amd64", "6.12.9+bpo-amd64"],
        ["6.8.0-rc1", "6.8.0", "6.8.1"],
        ["4.18.0-80.el8", "4.18.0-553.el8_10", "5.4.0-1"],
    ],
)
def test_kernel_releases_sort_as_people_do(releases):
    assert sorted([*releases[1:], releases[0]], key=kernel_sort_key) == releases


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_two_strings_compare(one, other):
    assert (kernel_sort_key(one) < kernel_sort_key(other)) in {True, False}
    assert (version_key(one) < version_key(other)) in {True, False}
    assert isinstance(branch(one), int)


def test_absurdly_long_numbers_are_no_trouble():
    kernel_sort_key("9" * 10_000)
    version_key("9" * 10_000)
    assert find_driver_version("9" * 10_000) is None
