"""What the children of vLLM and SGLang need of this project: numpy, numba and the package itself."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from engine.backends.interpreter import command_for, environment_for
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = """
import sys
from importlib import import_module
from importlib.abc import MetaPathFinder

KNOWN = {"engine", "numpy", "numba", "llvmlite"} | set(sys.stdlib_module_names)

class Refused(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        # What numba and numpy look for of their own accord is theirs to do without.
        if name.partition(".")[0] not in KNOWN:
            raise ModuleNotFoundError(f"refused {name}", name=name)

sys.meta_path.insert(0, Refused())
for name in sys.argv[1:]:
    import_module(name)
print("imported", sorted(n for n in sys.modules if n.partition(".")[0] in {"torch", "transformers", "tasks"}))
"""


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_it_needs_numpy_and_numba_at_most(tmp_path: Path, engine: str) -> None:
    folder = ROOT / "engine" / "backends"
    names = [
        f"engine.backends.{room}.{path.stem}"
        for room in (engine, "foreign")
        for path in (folder / room).glob("[a-z]*.py")
    ]
    assert len(names) >= 12
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [*command_for(sys.executable, "")[:1], str(script), *names]
    done = subprocess.run(
        command,
        env=environment_for(sys.executable, tmp_path),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "imported []"
