"""What the child of vLLM needs of this project where it runs: numpy, numba and the package itself."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

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


def test_it_needs_numpy_and_numba_at_most(tmp_path: Path) -> None:
    folder = ROOT / "engine" / "backends" / "vllm"
    names = [f"engine.backends.vllm.{path.stem}" for path in folder.glob("[a-z]*.py")]
    assert len(names) >= 8
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
