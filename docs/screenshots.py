"""The pictures in docs/page.md, taken from real runs in a real Chromium: `make screenshots`.

Starts a deployment of the embedded engine, asks it, drains one instance and kills another; then rehearses one of three hundred instances.
The letters are those of the machine; Debian's package fonts-inter makes them those of the pictures that are there.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "e2e" / "page"), str(ROOT / "tests" / "e2e")]

from browser import Page, chromium, picture, prefer  # noqa: E402
from deployment import Deployment  # noqa: E402
from free_ports import free_ports  # noqa: E402
from large import LARGE  # noqa: E402
from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

OUT = ROOT / "docs" / "page"
CLIENTS = 3
SMALL = """\
name: laptop
model: "random:7"
port: {port}
max_seq_len: 512
context_servers: {{num_instances: 3}}
generation_servers: {{num_instances: 2, tensor_parallel_size: 2}}
cache_transceiver_config: {{backend: DEFAULT, max_tokens_in_buffer: 512}}
engine: {{name: reference}}
cluster: {{nodes: 1, gpus_per_node: 8, base_port: {base}}}
restart: {{on_failure: restart, backoff_s: 5}}
"""


@contextlib.contextmanager
def asked(deployment: Deployment) -> Iterator[None]:
    """While it lasts, clients ask one request after the other."""
    over = threading.Event()

    def client() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError):
                deployment.ask(tokens=40)
            over.wait(0.3)

    clients = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for one in clients:
        one.start()
    yield
    over.set()
    for one in clients:
        one.join()


def small(browser: webdriver.Chrome, folder: pathlib.Path) -> None:
    deployment = Deployment(folder, free_ports(12), SMALL)
    with asked(deployment):
        page = Page(browser, deployment.url).ready()
        time.sleep(25)  # so that the curves have something to show
        picture(browser, OUT / "light.png")
        prefer(browser, colour_scheme="dark")
        picture(browser, OUT / "dark.png")
        prefer(browser)
        page.browser.find_element(By.ID, "unlock").click()
        page.browser.find_element(By.ID, "token-text").send_keys(deployment.token, Keys.ENTER)
        page.until_says("unlock", "Lock actions")
        page.browser.find_element(By.CSS_SELECTOR, 'button[aria-label="Drain ctx1"]').click()
        os.kill(deployment.status("gen1")["ranks"][0]["pid"], signal.SIGKILL)
        page.until(lambda: "Ended" in page.rows()["gen1"] and "Draining" in page.rows()["ctx1"], "trouble")
        picture(browser, OUT / "trouble.png")
    deployment.end()


def large(browser: webdriver.Chrome, folder: pathlib.Path) -> None:
    deployment = Deployment(folder, free_ports(400), LARGE, "rehearse", "--seconds", "40")
    with asked(deployment):
        Page(browser, deployment.url).ready()
        time.sleep(12)
        picture(browser, OUT / "large.png")
    deployment.end()


def main() -> None:
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="disagg-launch-screenshots-") as name:
        folder = pathlib.Path(name)
        browser = chromium(folder / "profile", width=1240)
        try:
            for part in (small, large):
                (folder / part.__name__).mkdir()
                part(browser, folder / part.__name__)
        finally:
            browser.quit()


if __name__ == "__main__":
    main()
