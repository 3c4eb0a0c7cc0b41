"""The page at /ui before a real deployment, in a real browser."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import requests
from browser import Page, prefer
from deployment import Deployment
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

HOSTILE = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"


@pytest.fixture
def page(browser: webdriver.Chrome, deployment: Deployment) -> Page:
    return Page(browser, deployment.url).ready()


def unlock(page: Page, token: str) -> None:
    page.browser.find_element(By.ID, "unlock").click()
    page.browser.find_element(By.ID, "token-text").send_keys(token, Keys.ENTER)


def press(page: Page, label: str) -> None:
    page.browser.find_element(By.CSS_SELECTOR, f'button[aria-label="{label}"]').click()


def test_up_says_where_it_is(deployment: Deployment) -> None:
    assert f"watch it: {deployment.url}/ui\n" in deployment.said


def test_ten_seconds_suffice(page: Page, deployment: Deployment) -> None:
    """Name, state, roles, GPUs with their coordinates, start-up and log: all there without a click."""
    assert (page.text("name"), page.text("sentence")) == ("laptop", "Serving. All 3 instances are ready.")
    assert set(page.rows()) == {"ctx0", "ctx1", "gen0"}
    assert all("Ready" in row for row in page.rows().values())
    cells = [cell.text.split("\n") for cell in page.browser.find_elements(By.CSS_SELECTOR, "#map-grid .cell")]
    assert cells == [["ctx0", "TP0 PP0"], ["ctx1", "TP0 PP0"], ["gen0", "TP0 PP0"], [""]]
    for word in ("router", "Context", "reads the prompt", "Generation", "writes the answer", "KV cache", "clients", "ctx1", "idle"):
        assert word in page.text("flow"), word
    assert "until the router opened" in page.text("startup-caption")
    page.until_says("log-lines", "ready: ")
    page.until_says("happenings", "The router is open")


def test_requests_are_seen_to_flow(page: Page, deployment: Deployment) -> None:
    before = page.number("gen0", "Requests")
    deployment.ask(6)
    page.until(lambda: page.browser.find_elements(By.CSS_SELECTOR, "#flow-picture .dot"), "a dot on its way")
    page.until(lambda: float(page.run("return document.querySelector('.tile .value span').innerText")) > 0, "requests per second")
    page.until(lambda: page.number("gen0", "Requests") == before + 6, "six more requests in the table")
    page.until(lambda: "ms" in page.text("tiles"), "a time to first token")


def test_who_wants_no_motion_sees_none(browser: webdriver.Chrome, deployment: Deployment) -> None:
    prefer(browser, reduced_motion="reduce")
    page = Page(browser, deployment.url).ready()
    before = page.number("gen0", "Requests")
    deployment.ask(3)
    page.until(lambda: page.number("gen0", "Requests") == before + 3, "three more requests")
    assert page.browser.find_elements(By.CSS_SELECTOR, "#flow-picture .dot") == []


def test_draining_takes_the_token_and_nothing_but_keys(page: Page, deployment: Deployment) -> None:
    page.press(Keys.TAB)
    assert page.focus().startswith("Skip to")
    page.press(Keys.ENTER)
    assert page.focus() == "instances"
    page.tab_to("Drain ctx1")
    page.press(Keys.ENTER)
    assert page.focus() == "token-text"
    page.press("not-the-token", Keys.ENTER)
    page.until_says("token-wrong", "not taken")
    assert "Draining" not in page.rows()["ctx1"]
    page.press(Keys.ESCAPE)
    assert page.focus() == "Drain ctx1"
    page.press(Keys.ENTER)
    page.press(deployment.token, Keys.ENTER)
    page.until(lambda: "Draining" in page.rows()["ctx1"], "ctx1 draining")
    page.until_says("sentence", "ctx1 is draining")
    workers = requests.get(f"{deployment.url}/admin/workers", headers={"Authorization": f"Bearer {deployment.token}"}, timeout=30).json()
    assert [one["state"] for one in workers] == ["ready", "draining", "ready"]
    assert deployment.token not in page.browser.current_url
    press(page, "Put back ctx1")
    page.until_says("sentence", "All 3 instances are ready")


def test_a_killed_worker_is_seen_and_seen_to_come_back(page: Page, deployment: Deployment) -> None:
    os.kill(deployment.status("ctx1")["ranks"][0]["pid"], signal.SIGKILL)
    page.until(lambda: any(word in page.rows()["ctx1"] for word in ("Ended", "Gone")), "ctx1 down")
    page.until_says("happenings", "ctx1 ended: ")
    page.until(lambda: "ctx1" in page.run("return document.getElementById('news').textContent"), "ctx1 read out")
    page.until_says("sentence", "All 3 instances are ready")
    assert page.number("ctx1", "Restarts") == 1


def test_a_restart_is_asked_back_and_done(page: Page, deployment: Deployment) -> None:
    pid = deployment.status("ctx0")["ranks"][0]["pid"]
    unlock(page, deployment.token)
    page.until_says("unlock", "Lock actions")
    press(page, "Restart ctx0")
    assert "The others go on serving" in page.text("sure-why")
    page.press(Keys.ESCAPE)
    press(page, "Restart ctx0")
    page.browser.find_element(By.ID, "sure-go").click()
    page.until(lambda: deployment.status("ctx0")["ranks"][0].get("pid") not in (None, pid), "another process")
    page.until_says("happenings", "ctx0 is to be restarted")
    page.until_says("sentence", "All 3 instances are ready")


def test_what_workers_write_stays_text(page: Page, deployment: Deployment) -> None:
    with (deployment.run / "logs" / "gen0.log").open("a") as log:
        log.write(f"[0] 2026-01-02T03:04:05.678Z {HOSTILE}\n")
    page.browser.find_element(By.CSS_SELECTOR, "#table tbody tr:last-child th button").click()
    page.until_says("log-lines", HOSTILE)
    assert page.browser.find_elements(By.CSS_SELECTOR, "#log-lines img, #log-lines script") == []
    assert "taken" not in page.browser.title


def test_choosing_follows_one_everywhere(page: Page) -> None:
    cell = page.browser.find_elements(By.CSS_SELECTOR, "#map-grid .cell")[0]
    page.run("arguments[0].focus()", cell)
    page.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert page.focus().startswith("gen0, rank 2, TP 0, PP 0, on ")
    page.press(Keys.ENTER)
    assert page.browser.find_element(By.CSS_SELECTOR, "tr.is-chosen th").text == "gen0"
    assert page.run("return document.getElementById('log-of').value") == "gen0"
    page.press(Keys.ESCAPE)
    assert page.browser.find_elements(By.CSS_SELECTOR, ".is-chosen") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: webdriver.Chrome, deployment: Deployment, axe: str, scheme: str) -> None:
    prefer(browser, colour_scheme=scheme)
    page = Page(browser, deployment.url).ready()
    page.until_says("log-lines", "ready: ")
    assert page.run("return getComputedStyle(document.documentElement).backgroundColor") == {
        "light": "rgb(245, 246, 248)", "dark": "rgb(15, 18, 21)"
    }[scheme]  # fmt: skip
    assert page.violations(axe) == []
    browser.find_element(By.ID, "unlock").click()
    assert page.violations(axe) == []


def test_a_narrow_window_needs_no_scrolling_aside(page: Page) -> None:
    page.browser.set_window_size(500, 900)
    page.until(lambda: page.run("return document.documentElement.scrollWidth <= innerWidth"), "a page as wide as its window")


def test_over_http(deployment: Deployment) -> None:
    """What a browser is told, and what is refused to whom."""
    url = f"{deployment.url}/ui"
    for path in ("/", "/main.js", "/data/now", "/data/layout", "/nothing", "/data/nothing"):
        head = requests.get(url + path, timeout=30).headers
        assert "default-src 'self'" in head["content-security-policy"], path
        assert (head["x-content-type-options"], head["cache-control"]) == ("nosniff", "no-store"), path
    assert requests.get(f"{url}/data/now", headers={"Host": "evil.example"}, timeout=30).status_code == 401
    secret = Path(deployment.run / "state" / "token").name
    assert requests.get(f"{url}/data/log?of=../state/{secret}", timeout=30).json() == {"lines": [], "next": 0}
    assert deployment.token not in requests.get(f"{url}/data/now", timeout=30).text

    def act(instance: str = "gen0", what: str = "drain", **headers: str) -> int:
        return requests.post(f"{url}/do", json={"what": what, "instance": instance}, headers=headers, timeout=60).status_code

    bearer = f"Bearer {deployment.token}"
    assert act() == 401
    assert act(Authorization="Bearer x") == 401
    assert act(Authorization=bearer, Origin="http://evil.example") == 403
    assert act(Authorization=bearer, **{"Sec-Fetch-Site": "cross-site"}) == 403
    assert act("nobody", Authorization=bearer) == 404
    assert act(what="dance", Authorization=bearer) == 400
    assert act(what="nothing", Authorization=bearer) == 200
    assert requests.get(f"{url}/do", timeout=30).status_code == 405
