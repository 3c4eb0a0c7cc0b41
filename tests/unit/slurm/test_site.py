"""Site profiles: what comes with the program is sound, and a wrong one is refused with every complaint."""

from pathlib import Path

import pytest

from disagg_launch.backends.slurm import site as sites
from disagg_launch.errors import BadInput


def test_every_profile_that_comes_along_loads_and_says_what_it_is() -> None:
    found = sites.names()
    assert {"generic", "pyxis", "testcluster"} <= set(found)
    assert all(found.values())
    assert all(sites.load(name).name == name for name in found)


def test_a_written_profile_is_read_back(tmp_path: Path) -> None:
    for name in sites.names():
        site = sites.load(name)
        path = tmp_path / "mine.yaml"
        path.write_text(sites.to_yaml(site))
        assert sites.load(str(path)) == site


def test_all_complaints_about_a_profile_come_at_once() -> None:
    with pytest.raises(BadInput) as refused:
        sites.parse("name: x\ngpu_flag: gres\ncontainer: docker\n", "x.yaml")
    assert "x.yaml: gpu_flag" in str(refused.value)
    assert "x.yaml: container" in str(refused.value)


def test_an_unknown_profile_is_refused_with_those_there_are() -> None:
    with pytest.raises(BadInput, match="generic"):
        sites.load("nowhere")
