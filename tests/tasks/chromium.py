"""Headless Chromium, where it is installed (Debian: `chromium`)."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

BINARY = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_MEASURE = """<script>
const box = e => { const r = e.getBoundingClientRect(); return [r.x, r.width, r.height]; };
document.title = JSON.stringify({
  loaded: performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith('data:')),
  plots: [...document.querySelectorAll('figure svg')].map(box),
  overflow: document.documentElement.scrollWidth - window.innerWidth,
  empty: [...document.querySelectorAll('svg text')].filter(e => !e.getBBox().width).length,
});
</script>"""


def measure(page: str, folder: Path, width: int) -> dict[str, Any]:
    """Open a page in a window of a width; return what it loaded, and the boxes of its plots."""
    assert BINARY
    path = folder / "measured.html"
    path.write_text(page.replace("</body>", _MEASURE + "</body>"))
    done = subprocess.run(
        [
            *(BINARY, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"),
            *(f"--user-data-dir={folder / 'profile'}", f"--window-size={width},1000", path.as_uri()),
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title is not None
    found: dict[str, Any] = json.loads(unescape(title[1]))
    return found
