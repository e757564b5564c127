"""vLLM on the CPU as a real engine of the tests, in an environment of its own."""

from __future__ import annotations

from tests.support.paths import ROOT

PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
"""`make test-vllm` makes it."""
INSTALLED = PYTHON.parents[1] / ".installed"
WHY = "vLLM is not installed (make test-vllm installs it)"
