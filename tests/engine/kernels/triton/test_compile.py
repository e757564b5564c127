"""Every kernel compiles for sm_80 and sm_90 with the resources of the committed table."""

from __future__ import annotations

import pytest

from engine.kernels.backend import Kernel
from tests.engine.kernels.triton.compile_only import (
    Spec,
    measure,
    problems,
    specs,
    table,
    table_versions,
    versions,
)

ALL = specs()


@pytest.mark.parametrize(
    ("spec", "architecture"), [pytest.param(s, a, id=f"{s.name}-{a}") for s in ALL for a in s.architectures]
)
def test_resources(spec: Spec, architecture: str) -> None:
    found = measure(spec, architecture)
    assert problems(spec, architecture, found) == []
    key = f"{spec.name} {architecture}"
    assert key in table(), "run tests/engine/kernels/triton/compile_only.py --write"
    if versions() == table_versions():
        assert found == table()[key], (
            "run tests/engine/kernels/triton/compile_only.py --write if this is meant"
        )


def test_the_table_has_no_rows_of_kernels_that_are_gone() -> None:
    assert set(table()) == {f"{spec.name} {a}" for spec in ALL for a in spec.architectures}


def test_a_kernel_that_spills_is_a_problem() -> None:
    figures = {"registers": 255, "spills": 8, "shared": 0}
    spec = Spec("some", Kernel(print), {}, {}, attention=True)
    assert problems(spec, "sm_80", figures) == ["some sm_80: 8 bytes spilled"]
    assert problems(spec, "sm_80", {**figures, "spills": 0, "shared": 200 * 1024}) != []
    assert problems(spec, "sm_90", {**figures, "spills": 0, "shared": 200 * 1024}) == []
