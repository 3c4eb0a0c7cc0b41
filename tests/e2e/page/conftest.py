"""A real Chromium, a real deployment of the reference engine, and routers by hand, each for all tests of this room."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import chromium, complaints
from crowd import crowd
from deployment import Deployment
from free_ports import free_ports
from listening import until_listening
from selenium import webdriver

CLI = [sys.executable, "-m", "disagg_launch"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """They share one deployment, so one process runs them all."""
    for one in items:
        if Path(__file__).parent in one.path.parents:
            one.add_marker(pytest.mark.xdist_group("page"))


@pytest.fixture(scope="session")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """One browser for all."""
    missing = [name for name in ("chromium", "chromedriver") if not shutil.which(name)]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: run `python3 slurm/testcluster/cluster.py install`")
    made = chromium(tmp_path_factory.mktemp("chromium"))
    yield made
    made.quit()


@pytest.fixture
def browser(chrome: webdriver.Chrome) -> Iterator[webdriver.Chrome]:
    """The browser with an empty page and no memory; whatever its console complained of in the meantime fails the test."""
    chrome.get("about:blank")
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    chrome.execute_cdp_cmd("Storage.clearDataForOrigin", {"origin": "*", "storageTypes": "all"})
    chrome.set_window_size(1360, 1000)
    complaints(chrome)
    yield chrome
    said = [one for one in complaints(chrome) if "status of 4" not in one]  # Chromium's own line for a refused request
    chrome.get("about:blank")
    assert said == []


@pytest.fixture(scope="session")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Two context instances, one generation instance and a router, up and ready; everything has ended afterwards."""
    made = Deployment(tmp_path_factory.mktemp("deployment"), free_ports(4))
    yield made
    made.end()


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a router whose run folder has 500 instances."""
    port = free_ports(1)
    _, config = crowd(tmp_path_factory.mktemp("many"), port)
    with subprocess.Popen([*CLI, "router", "--config", str(config)], stderr=subprocess.DEVNULL) as router:
        yield until_listening(port)
        router.terminate()
