"""What is compiled ahead of time is all that a night compiles."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from engine.jit_cache import compiled_modules
from engine.warm import Warmed
from tasks.base.errors import ConfigurationError
from tasks.operations import warm
from tests.support.paths import ROOT

PACKAGES = ("engine", "tasks")
NIGHT = """
import io
from datetime import date
from pathlib import Path
import numpy as np
import pytest
from engine.arrays import frozen
from engine.jit import ENTRIES, Part
from engine.plan.policies import make_plan
from engine.runtime.core import EngineSettings
from engine.simulate.simulate import simulate
from tasks.extract.parse.drafts import Drafts
from tasks.extract.parse.record_parser import ParseSettings, Place, RecordParser
from tasks.extract.parse.repeats import RepeatCounter
from tasks.extract.readers.registry import DEFAULT
from tasks.extract.text import decompress
from tasks.extract.text.lines import BlockReader
from tasks.requests.sampling import SamplingDefaults
from tests.engine.runtime.test_replan_engine import test_answers_are_the_same_and_the_order_is_not as night
from tests.support.simulated_nights import COST, SHAPE, random_night
from engine.cost.step import NOMINAL
import sys
from tests.engine.simulate import test_simulate

line = '{"custom_id":"%d","url":"/v1/chat/completions","method":"POST","body":{"model":"m","messages":' \\
    '[{"role":"user","content":"Question %d"}]}}\\n'
data = "".join(line % (i // 2, i) for i in range(64)).encode()
blocks = BlockReader(decompress.TextStream(io.BytesIO(data), "plain"), 1 << 16, decompress.CHUNK_BYTES)
parser = RecordParser(Place("j", date(2026, 1, 2), "file:///x"), ParseSettings(SamplingDefaults()), DEFAULT)
repeats = RepeatCounter()
for block in blocks:
    drafts = Drafts()
    parser.add_block(block, 1 << 16, drafts)
    parser.settle(drafts, repeats.resolve(*drafts.digests()))
night("blend", 1, Path(sys.argv[1]))
tokens, start, output, estimate = random_night(1, 40, 30, 0.7)
sizes = EngineSettings(1024, 8, 64, 8, pacing=True)
for given in (tokens, frozen(tokens)):
    for policy in ("fcfs", "dfs", "blend"):
        plan = make_plan(policy, given, start, estimate, SHAPE, NOMINAL["a100"], seed=3)
        simulate(plan, given, start, output, sizes, COST, record=True)
others = {name: set(one.signatures) - {one.types} for name, one in ENTRIES.items()}
others = {name: forms for name, forms in others.items() if forms}
assert not others, others
parts = [p for m in list(sys.modules.values()) for p in vars(m).values() if isinstance(p, Part)]
assert parts
called = [p.__qualname__ for p in parts if p._from_python is not None]
assert not called, called
print(sum(bool(one.signatures) for one in ENTRIES.values()))
"""


def test_a_night_uses_declared_forms_alone(tmp_path: Path) -> None:
    """Arrays that are read-only and those that are not, orders of all kinds, planning again."""
    command = [sys.executable, "-c", NIGHT, str(tmp_path)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert found.returncode == 0, found.stderr[-3000:]
    assert int(found.stdout) > 40


def decorated(source: str) -> tuple[set[str], set[str]]:
    """Return the functions that are parts of entries, and all names that uncompiled code of a module uses."""
    parts, used = set(), set()
    for top in ast.parse(source).body:
        kinds = [ast.unparse(one) for one in getattr(top, "decorator_list", [])]
        if isinstance(top, ast.FunctionDef) and any(kind.startswith("njit") for kind in kinds):
            parts.add(top.name)
        elif not any(kind.startswith("entry(") for kind in kinds):
            used |= {node.id for node in ast.walk(top) if isinstance(node, ast.Name)}
    return parts, used


def test_what_python_calls_is_an_entry() -> None:
    """Else it is left out of what is compiled ahead of time."""
    parts: dict[str, set[str]] = {}
    for package in PACKAGES:
        for name, source in compiled_modules(ROOT / package, package):
            parts[name], used = decorated(source.decode())
            assert not parts[name] & used, f"{name}: {parts[name] & used} are called from Python"
    assert sum(map(len, parts.values())) > 50
    for path in [path for package in (*PACKAGES, "flows") for path in (ROOT / package).rglob("*.py")]:
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        _, used = decorated(source)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module in parts:
                names = {one.name for one in node.names} & parts[node.module] & used
                assert not names, f"{path}: {names} of {node.module} are called from Python"


def test_it_says_what_it_did_in_a_line() -> None:
    done = Warmed(70, 67, 60.04, 58.31, Path("/cache"))
    assert warm.told(done) == "Compiled 67 of 70 functions in 60.0 s (58.3 s of CPU): /cache."
    assert (
        warm.told(Warmed(0, 0, 0.1, 0.1, Path("/cache")))
        == "Nothing to compile: all functions are in /cache."
    )


def test_a_folder_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from engine import jit_cache
    from engine import warm as engine_warm

    (tmp_path / "file").write_text("")
    monkeypatch.setattr(engine_warm, "folders", lambda: (tmp_path / "file" / "below",))
    with pytest.raises(ConfigurationError, match=r"NUMBA_CACHE_DIR: .*file"):
        warm.warm_everything(lambda _: None)
    assert jit_cache.folders()
