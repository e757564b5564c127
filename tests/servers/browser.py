"""Headless Chromium (Debian): a page as a person sees it.

    python tests/servers/browser.py --install

installs the package if it is not there and this user may; else it says why not.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING

from debian import install

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES = ("chromium", "fonts-dejavu-core")
LOAD_S = 40
TRIES = 4


def program() -> str | None:
    """Return the path of the browser, if it is installed."""
    return shutil.which("chromium")


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
