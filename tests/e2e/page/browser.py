"""A real Chromium without a screen."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars", "--lang=en-GB",
    # nothing but this machine is ever asked, whatever a page or the browser may want
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1", "--no-proxy-server",
)  # fmt: skip


def chromium(profile: Path, width: int = 1360, height: int = 900) -> webdriver.Chrome:
    """A browser with a profile of its own, which keeps what its console says."""
    options = Options()
    options.binary_location = shutil.which("chromium") or ""
    for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))


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
    import base64

    size = browser.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
    clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
    path.write_bytes(base64.b64decode(shot["data"]))
