"""SGLang on the CPU as a real engine of the tests, in an environment of its own.

Its package is installed alone, beside what it imports for text: its other requirements are for CUDA.
"""

from __future__ import annotations

from tests.support.paths import ROOT

PYTHON = ROOT / ".venv-sglang" / "bin" / "python"
"""`make test-sglang` makes it."""
INSTALLED = PYTHON.parents[1] / ".installed"
WHY = "SGLang is not installed (make test-sglang installs it)"
