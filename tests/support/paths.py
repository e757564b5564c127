"""Places that tests read from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEMO_MODEL = ROOT / "infra" / "demo" / "model"
TRACES = Path(os.environ.get("NIGHTBLEND_TRACES", ROOT.parent / "shared" / "traces"))
"""Real traces; tests that need them are skipped where the folder does not exist."""


def trace(name: str) -> Path:
    """Return a real trace; the test is skipped where there is none, and fails in CI."""
    path = TRACES / name
    if not path.exists():
        message = f"no {name} in {TRACES}; set NIGHTBLEND_TRACES to the folder of the traces"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    return path
