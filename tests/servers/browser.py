"""Headless Chromium (Debian): a page as a person sees it.

    python tests/servers/browser.py --install

installs the package if it is not there and this user may; else it says why not.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from html import unescape
from typing import TYPE_CHECKING, Any

from debian import install

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES = ("chromium", "fonts-dejavu-core")
LOAD_S = 40
TRIES = 4
_MEASURE = """<script>
const box = e => { const r = e.getBoundingClientRect(); return [r.x, r.width, r.height]; };
document.title = JSON.stringify({
  loaded: performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith('data:')),
  plots: [...document.querySelectorAll('figure svg')].map(box),
  overflow: document.documentElement.scrollWidth - window.innerWidth,
  empty: [...document.querySelectorAll('svg text')].filter(e => !e.getBBox().width).length,
});
</script>"""


def program() -> str | None:
    """Return the path of the browser, if it is installed."""
    found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    return next(filter(None, found), None)


def page_text(url: str, *expected: str) -> str:
    """Return the document of a page once it has been built and holds all of `expected`."""
    document = ""
    for _ in range(TRIES):
        document = _chromium("--dump-dom", url)
        if all(text in document for text in expected):
            return document
        time.sleep(2)
    missing = [text for text in expected if text not in document]
    raise AssertionError(f"{url} does not show {missing}: {document[-2000:]}")


def screenshot(url: str, path: Path, width: int = 1400, height: int = 1000) -> None:
    """Write a picture of a page as PNG."""
    _chromium(f"--screenshot={path}", f"--window-size={width},{height}", "--hide-scrollbars", url)
    assert path.read_bytes().startswith(b"\x89PNG")


def measure(page: str, folder: Path, width: int) -> dict[str, Any]:
    """Open a page in a window of a width; return what it loaded, and the boxes of its plots."""
    path = folder / "measured.html"
    path.write_text(page.replace("</body>", _MEASURE + "</body>"))
    title = re.search(
        r"<title>(.*?)</title>",
        _chromium("--dump-dom", f"--window-size={width},1000", path.as_uri()),
        re.DOTALL,
    )
    assert title is not None
    found: dict[str, Any] = json.loads(unescape(title[1]))
    return found


def _chromium(*arguments: str) -> str:
    binary = program()
    assert binary is not None
    with tempfile.TemporaryDirectory(prefix="nightblend-chromium-") as profile:
        command = [
            *(binary, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-proxy-server"),
            # Pages fade in; a picture is of the page that is there.
            "--force-prefers-reduced-motion",
            *(f"--user-data-dir={profile}", f"--virtual-time-budget={1000 * LOAD_S}", *arguments),
        ]
        environment = {**os.environ, "HOME": profile}
        done = subprocess.run(command, capture_output=True, timeout=180, check=True, env=environment)
    return done.stdout.decode(errors="replace")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--install", action="store_true", required=True)
    parser.parse_args()
    why = install(PACKAGES, 100, lambda: program() is not None)
    if why is not None:
        sys.exit(f"{why}; the browser test is skipped")
