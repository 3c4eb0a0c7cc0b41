"""The page of 500 instances, of a router that others reach, and of one whose deployment has ended."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from browser import Page, prefer
from deployment import Deployment
from free_ports import free_ports
from listening import until_listening
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

CLI = [sys.executable, "-m", "disagg_launch"]
OPEN = """\
hostname: 0.0.0.0
port: {port}
model: "<b>small</b>"
context_servers: {{urls: ["127.0.0.1:{nobody}"]}}
generation_servers: {{urls: ["127.0.0.1:{noone}"]}}
front_door: {{ui_token_file: {token}}}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_500_instances_are_no_more_work_than_a_screen(browser: webdriver.Chrome, many: str, axe: str, scheme: str) -> None:
    prefer(browser, colour_scheme=scheme)
    page = Page(browser, many).ready()
    assert page.text("sentence") == "Serving with 496 of 500 instances; ctx17 is down; ctx99, gen200 and gen201 are starting."
    assert list(page.rows())[:4] == ["ctx17", "ctx99", "gen200", "gen201"]
    assert len(page.rows()) == 15
    assert len(page.browser.find_elements(By.CSS_SELECTOR, "#map-grid .cell")) == 2000
    assert page.run("return document.querySelectorAll('*').length") < 12_000
    find = page.browser.find_element(By.ID, "find")
    find.send_keys("gen24")
    page.until(lambda: len(page.rows()) == 11, "gen24 and gen240 to gen249")
    find.clear()
    find.send_keys("loading")
    page.until(lambda: set(page.rows()) == {"gen200", "gen201"}, "those that load")
    kept = page.run("window.cell = document.querySelector('#map-grid .cell'); return performance.now()")
    page.until(lambda: page.run("return document.querySelectorAll('.tile .curve[d]').length") == 5, "curves")
    page.until(lambda: page.run("return performance.now()") > kept + 2500, "two more looks")
    assert page.run("return window.cell === document.querySelector('#map-grid .cell')"), "what has not changed is not made again"
    assert page.violations(axe) == []
    page.browser.set_window_size(500, 900)  # as narrow as it gets
    page.until(lambda: page.run("return document.documentElement.scrollWidth <= innerWidth"), "a page as wide as its window")
    page.until(lambda: page.run(APART), "doors and fields of the flow beside each other")


# whether no two parts of the picture of the flow lie over each other
APART = """
    const boxes = [...document.querySelectorAll("#flow-picture .door, #flow-picture .pit")].map(one => one.getBoundingClientRect());
    boxes.sort((a, b) => a.left - b.left);
    return boxes.length === 4 && boxes.every((one, i) => i === 0 || boxes[i - 1].right <= one.left);"""


def test_from_elsewhere_looking_takes_a_token(browser: webdriver.Chrome, tmp_path: Path, axe: str) -> None:
    """A router without a run folder, on all addresses: the token is asked for once, and the page shows what the router knows."""
    port = free_ports(3)
    token = tmp_path / "ui-token"
    config = tmp_path / "router.yaml"
    config.write_text(OPEN.format(port=port, nobody=port + 1, noone=port + 2, token=token))
    with subprocess.Popen([*CLI, "router", "--config", str(config)], stderr=subprocess.DEVNULL) as router:
        try:
            page = Page(browser, until_listening(port))
            page.until(lambda: page.browser.find_element(By.ID, "token").is_displayed(), "the question for a token")
            assert not page.browser.find_element(By.ID, "main").is_displayed()
            assert page.violations(axe) == []
            page.press("nonsense", Keys.ENTER)
            page.until_says("token-wrong", "not taken")
            page.press(token.read_text().strip(), Keys.ENTER)
            page.ready()
            assert page.text("name") == "<b>small</b>"
            assert "Starting: 0 of 2 instances ready" in page.text("sentence")
            assert "Joining" in page.rows()[f"127.0.0.1:{port + 1}"]
            assert page.browser.find_elements(By.CSS_SELECTOR, "#map:not([hidden]), #log:not([hidden]), #unlock:not([hidden])") == []
            page.browser.refresh()
            page.ready()
            assert token.read_text().strip() not in page.browser.current_url
        finally:
            router.terminate()


def test_an_end_is_said(browser: webdriver.Chrome, deployment: Deployment) -> None:
    page = Page(browser, deployment.url).ready()
    deployment.end()
    page.until_says("banner", "The router does not answer.")
    assert "What you see is of " in page.text("banner")
    browser.get_log("browser")  # that nobody answers is what its console says too
