"""A real Chromium without a screen."""

from __future__ import annotations

import base64
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars", "--lang=en-GB",
    # nothing but this machine is ever asked, whatever a page or the browser may want
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1", "--no-proxy-server",
)  # fmt: skip

SCRIPT_S = 180
"""To look through the page of 500 instances for what a screen reader would miss takes a busy machine longer than the usual 30 s."""


def chromium(profile: Path, width: int = 1360, height: int = 900) -> webdriver.Chrome:
    """A browser with a profile of its own, which keeps what its console says."""
    options = Options()
    options.binary_location = shutil.which("chromium") or ""
    for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    browser.set_script_timeout(SCRIPT_S)
    return browser


def prefer(browser: webdriver.Chrome, **features: str) -> None:
    """What the system says it wants: colour_scheme="dark", reduced_motion="reduce"."""
    names = {"colour_scheme": "prefers-color-scheme", "reduced_motion": "prefers-reduced-motion"}
    told = [{"name": names[name], "value": value} for name, value in features.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": told})


def complaints(browser: webdriver.Chrome) -> list[str]:
    """What the console was told since the last call that is an error or a warning."""
    found: list[dict[str, Any]] = browser.get_log("browser")
    return [one["message"] for one in found if one["level"] in ("SEVERE", "WARNING")]


def picture(browser: webdriver.Chrome, path: Path) -> None:
    """A PNG of the whole page."""
    size = browser.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
    clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
    path.write_bytes(base64.b64decode(shot["data"]))


class Page:
    """The page in a browser, as one who uses it sees and touches it."""

    def __init__(self, browser: webdriver.Chrome, url: str) -> None:
        self.browser = browser
        browser.get(f"{url}/ui")

    def text(self, name: str) -> str:
        """What the element of that id says, as far as it is to be seen."""
        return self.browser.find_element(By.ID, name).text

    def run(self, script: str, *arguments: object) -> Any:
        """What a script gives."""
        return self.browser.execute_script(script, *arguments)

    def rows(self) -> dict[str, str]:
        """What the table says of each instance on its present page."""
        script = "return [...document.querySelectorAll('#table tbody tr')].map(r => [r.querySelector('th').innerText.trim(), r.innerText])"
        return {name: " ".join(text.split()) for name, text in self.run(script)}

    def number(self, instance: str, column: str) -> int:
        """What the table says of an instance under that head."""
        script = """
            const [name, head] = arguments, rows = [...document.querySelectorAll("#table tr")];
            const column = [...rows[0].children].findIndex(cell => cell.innerText === head);
            return rows.find(row => row.children[0].innerText.trim() === name).children[column].innerText;"""
        return int(self.run(script, instance, column))

    def until(self, seen: Callable[[], Any], what: str, limit_s: float = 90) -> Any:
        """Wait for something to be seen."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            if found := seen():
                return found
            time.sleep(0.1)
        raise AssertionError(f"never seen: {what}; the page says:\n{self.browser.find_element(By.TAG_NAME, 'body').text}")

    def until_says(self, name: str, words: str) -> None:
        """Wait for an element to say something."""
        self.until(lambda: words in self.text(name), f"{words!r} in #{name}")

    def ready(self) -> Page:
        """The page, once it shows something."""
        self.until(lambda: self.browser.find_element(By.ID, "main").is_displayed(), "anything")
        return self

    def focus(self) -> str:
        """What the keyboard is at: its label, or its text."""
        script = "const a = document.activeElement; return a.getAttribute('aria-label') || a.id || a.innerText"
        return str(self.run(script))

    def press(self, *keys: str) -> None:
        """Press keys, one after the other."""
        self.browser.switch_to.active_element.send_keys(*keys)

    def tab_to(self, label: str) -> None:
        """Press Tab until the keyboard is at something with that label."""
        seen = []
        for _ in range(80):
            self.press(Keys.TAB)
            seen.append(self.focus())
            if seen[-1] == label:
                return
        raise AssertionError(f"Tab never came to {label!r}, but to {seen}")

    def violations(self, axe: str) -> list[str]:
        """What axe-core finds wrong with the page as it is: rule and element."""
        self.run(axe)
        named = "r.violations.map(v => [v.id, v.nodes.map(n => n.html)])"
        found = self.browser.execute_async_script(f"axe.run().then(r => arguments[0]({named}))")
        return [f"{rule}: {html}" for rule, nodes in found for html in nodes]
