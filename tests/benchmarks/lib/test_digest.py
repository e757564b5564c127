"""Kept cells are named after all the code that their figures depend on, and after no other."""

from __future__ import annotations

import pytest

from tests.benchmarks.estimate import cells as estimate_cells
from tests.benchmarks.lib import digest
from tests.benchmarks.plan import cells as plan_cells

SIMULATED = {
    "engine/simulate/simulate.py",
    "engine/cost/step.py",
    "engine/cost/optimum.py",
    "engine/plan/tree.py",
    "engine/runtime/kv/pages.py",
    "tests/benchmarks/lib/workloads.py",
    "tests/benchmarks/lib/sources.py",
    *(f"engine/plan/{name}.py" for name in ("policies", "scan", "splitting", "partition", "lengths")),
    *(
        f"engine/runtime/schedule/{name}.py"
        for name in ("admission", "pacing", "forecast", "revision", "step")
    ),
}


def test_cells_depend_on_the_scheduler_and_the_mixes() -> None:
    found = set(digest.dependencies("tests/benchmarks/plan/cells.py"))
    assert {*SIMULATED, "tests/benchmarks/plan/cells.py", "tests/benchmarks/plan/orders.py"} <= found
    # A mix has pictures, of as many tokens as the models' processors make them.
    pictures = {"tasks/profile/image_tokens.py", "tasks/base/errors.py"}
    others = [file for file in found - pictures if not file.endswith("/__init__.py")]
    assert not [file for file in others if file.startswith(("engine/kernels", "engine/models", "tasks/"))]


def test_estimates_depend_on_what_makes_them_but_not_on_the_readers_of_logs() -> None:
    found = set(digest.dependencies("tests/benchmarks/estimate/cells.py", estimate_cells.READING))
    mine = {"tasks/estimate/report.py", "tasks/estimate/gainmap.py", "tests/benchmarks/estimate/published.py"}
    assert SIMULATED - {"engine/plan/partition.py"} | mine <= found
    assert not [file for file in found if file.startswith(estimate_cells.READING)]


@pytest.mark.parametrize("cells", [plan_cells, estimate_cells])
def test_another_byte_in_a_dependency_is_another_digest(cells, tmp_path, monkeypatch) -> None:
    before = cells.code_digest()
    assert before == cells.code_digest()
    changed, other = "engine/runtime/schedule/pacing.py", "engine/kernels/silu.py"
    for folder in digest.FOLDERS:
        (tmp_path / folder).parent.mkdir(exist_ok=True)
        if folder != "engine":
            (tmp_path / folder).symlink_to(digest.ROOT / folder)
    for file in (digest.ROOT / "engine").rglob("*.py"):
        copy = tmp_path / file.relative_to(digest.ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    monkeypatch.setattr(digest, "ROOT", tmp_path)
    assert cells.code_digest() == before
    (tmp_path / other).write_text((tmp_path / other).read_text() + "# more\n")
    assert cells.code_digest() == before
    (tmp_path / changed).write_text((tmp_path / changed).read_text() + "# more\n")
    assert cells.code_digest() != before
