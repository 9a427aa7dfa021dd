"""What nodes publish and `slurm-gsp fleet` shows, on every Slurm release that the lab can start."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import test_fleet_in_lab as in_lab
from test_matrix import release

from slurm_gsp.lab.cluster import Lab
from slurm_gsp.lab.releases import Release

pytestmark = [pytest.mark.lab, pytest.mark.matrix]

__all__ = ["release"]

ALIKE = (
    in_lab.test_nodes_that_booted_say_what_they_run,
    in_lab.test_what_the_site_keeps_in_extra_stays,
    in_lab.test_a_fleet_against_two_manifests,
    in_lab.test_with_nothing_changed_nothing_is_sent,
    in_lab.test_what_breaks_is_told_once_and_shown_in_its_place,
)
"""In this order: the last one leaves the lab broken."""


@pytest.fixture(scope="module")
def told_lab(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab.up(tmp_path_factory.mktemp("mfl") / "l", interval=3600, suite=release.suite) as lab:
        in_lab.let_tell(lab)
        yield lab


@pytest.mark.parametrize("alike", ALIKE, ids=lambda test: test.__name__.removeprefix("test_"))
def test_alike(told_lab: Lab, alike: Callable[[Lab], None]) -> None:
    alike(told_lab)
