"""The project's root, where results are written, and the machine they are of."""

from __future__ import annotations

import platform
from pathlib import Path

ROOT = Path(__file__).parents[3]
RESULTS = Path(__file__).parents[1] / "results"


def processor() -> str:
    """Return the processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
