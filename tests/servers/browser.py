"""Headless Chromium (Debian): a page as a person sees it.

    python -m tests.servers.browser --install

installs the package if it is not there and this user may; else it says why not.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from websockets.sync.client import connect

from tests.servers.debian import install

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from websockets.sync.client import ClientConnection

PACKAGES = ("chromium", "fonts-dejavu-core")
START_S = 60.0
LOAD_S = 60.0
FADE_S = 3.0
"""How long the UI of Prefect takes to fade a page in once it is there."""
_MEASURE = """
(() => {
  const box = e => { const r = e.getBoundingClientRect(); return [r.x, r.width, r.height]; };
  const loaded = performance.getEntriesByType('resource').map(e => e.name);
  return {
    loaded: loaded.filter(n => !n.startsWith('data:')),
    plots: [...document.querySelectorAll('figure svg')].map(box),
    overflow: document.documentElement.scrollWidth - window.innerWidth,
    empty: [...document.querySelectorAll('svg text')].filter(e => !e.getBBox().width).length,
  };
})()"""


def program() -> str | None:
    """Return the path of the browser, if it is installed."""
    found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    return next(filter(None, found), None)


class Page:
    """A page that is open in a browser, spoken to in the Chrome DevTools protocol."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._asked = 0

    def open(self, url: str, *expected: str) -> None:
        """Open a page and wait until it is loaded, its document holds all of `expected`, and it is seen."""
        self.ask("Page.navigate", url=url)
        _wait(lambda: self.evaluate("document.readyState") == "complete", f"{url} does not load")
        end = time.monotonic() + LOAD_S
        while missing := [text for text in expected if text not in (document := self.document())]:
            assert time.monotonic() < end, f"{url} does not show {missing}: {document[-2000:]}"
            time.sleep(0.5)
        if expected:
            time.sleep(FADE_S)

    def document(self) -> str:
        """Return the document as it is now."""
        return self.evaluate("document.documentElement.outerHTML") or ""

    def screenshot(self, path: Path) -> None:
        """Write a picture of the page as PNG."""
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot")["data"]))

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression in JavaScript; None between two pages."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        return found["result"].get("value")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self._asked += 1
        self._socket.send(json.dumps({"id": self._asked, "method": method, "params": parameters}))
        while (answer := json.loads(self._socket.recv(timeout=LOAD_S))).get("id") != self._asked:
            pass
        assert "error" not in answer, answer
        return answer["result"]


@contextmanager
def open_page(width: int = 1400, height: int = 1000) -> Iterator[Page]:
    """Run a browser with one page of a size in pixels for the length of the block."""
    binary = program()
    assert binary is not None
    with tempfile.TemporaryDirectory(prefix="nightblend-chromium-", ignore_cleanup_errors=True) as profile:
        command = [
            *(binary, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-proxy-server"),
            *("--hide-scrollbars", "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"),
        ]
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": profile},
        )
        try:
            with connect(_page_address(Path(profile)), max_size=None, proxy=None) as socket:
                page = Page(socket)
                # The window of a headless browser would lose some of its height to a title bar.
                size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
                page.ask("Emulation.setDeviceMetricsOverride", **size)
                yield page
        finally:
            process.terminate()
            process.wait(START_S)


def measure(page: str, folder: Path, width: int) -> dict[str, Any]:
    """Open a page in a window of a width; return what it loaded, and the boxes of its plots."""
    path = folder / "measured.html"
    path.write_text(page)
    with open_page(width) as opened:
        opened.open(path.as_uri())
        found: dict[str, Any] = opened.evaluate(_MEASURE)
    return found


def _page_address(profile: Path) -> str:
    """Return the address of the browser's page, once the browser has written its port down and made one."""
    noted = profile / "DevToolsActivePort"
    _wait(lambda: noted.exists() and noted.read_text().count("\n"), "Chromium does not start")
    port = noted.read_text().splitlines()[0]
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def pages() -> list[str]:
        with opener.open(f"http://127.0.0.1:{port}/json/list", timeout=START_S) as answer:
            return [found["webSocketDebuggerUrl"] for found in json.load(answer) if found["type"] == "page"]

    return _wait(pages, "Chromium opens no page")[0]


def _wait(found: Callable[[], Any], problem: str) -> Any:
    end = time.monotonic() + START_S
    while not (result := found()):
        assert time.monotonic() < end, problem
        time.sleep(0.1)
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--install", action="store_true", required=True)
    parser.parse_args()
    why = install(PACKAGES, 100, lambda: program() is not None)
    if why is not None:
        sys.exit(f"{why}; the browser test is skipped")
