"""Which implementation is chosen, and that nothing but a kernel's launch loads Triton."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest
import torch

from engine.kernels.backend import use_triton
from tests.support.paths import ROOT


@pytest.mark.parametrize(
    ("interpret", "asked", "expected"),
    [("1", "triton", True), ("1", None, False), (None, "triton", False), ("0", "triton", False)],
)
def test_on_the_cpu_triton_is_taken_only_interpreted_and_asked_for(
    interpret: str | None, asked: str | None, expected: bool, monkeypatch
) -> None:
    for name, value in (("TRITON_INTERPRET", interpret), ("NIGHTBLEND_KERNELS", asked)):
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value)
    assert use_triton(torch.zeros(1)) is expected


def test_the_choice_decides_what_runs(monkeypatch) -> None:
    # `engine.kernels.rms_norm` names the function, not the module.
    module = import_module("engine.kernels.rms_norm")
    launched = []
    monkeypatch.setattr(module, "launch", lambda *a: launched.append(a) or a[-1])
    x, weight = torch.randn(2, 8), torch.ones(8)
    module.rms_norm(x, weight, 1e-6)
    assert len(launched) == 1
    monkeypatch.delenv("NIGHTBLEND_KERNELS")
    module.rms_norm(x, weight, 1e-6)
    assert len(launched) == 1


def test_a_machine_without_triton_runs_the_references() -> None:
    code = (
        "import sys\nsys.modules['triton'] = None\nimport torch\nfrom engine import kernels\n"
        "print(kernels.rms_norm(torch.ones(1, 4), torch.ones(4), 0.0).sum().item())"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, cwd=ROOT, env={})
    assert done.stdout.strip() == "4.0"
