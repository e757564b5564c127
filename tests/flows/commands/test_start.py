"""What a command loads before it begins: a look at seconds would measure the machine."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tasks.profile.tokenizer import load_tokenizer
from tests.support.paths import DEMO_MODEL, ROOT


def loaded(code: str) -> set[str]:
    """Return the top packages that a process has loaded after `code`."""
    asked = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}}, file=sys.stderr)"
    found = subprocess.run(
        [sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    return set(found.stderr.split())


def test_the_version_needs_the_standard_library_alone() -> None:
    # Of what installs itself into every process nothing is counted.
    found = loaded("from flows.cli import main\nmain(['--version'])")
    assert not found & {"numba", "numpy", "polars", "prefect", "pyarrow", "pydantic", "rich", "torch"}


@pytest.mark.parametrize("command", ["run", "status", "estimate"])
def test_reading_logs_begins_without_torch(command: str) -> None:
    """It takes three seconds of CPU time, and belongs to the engine's process."""
    found = loaded(f"from flows.cli import load\nload({command!r}).make_parser()\nimport flows.api")
    assert "polars" in found
    assert not found & {"torch", "transformers", "matplotlib", "httpx"}


def test_all_steps_but_the_engine_are_loaded_without_torch() -> None:
    """The tokenizer and its chat template among them: only the process that answers needs it."""
    # Which class it has is found out by the first process on a machine.
    load_tokenizer(str(DEMO_MODEL))
    found = loaded(
        "import flows.run.sequence, flows.run.prefect_tasks\n"
        "from tasks.attempt import tokenize_inputs\n"
        "from tasks.profile.tokenizer import load_tokenizer\n"
        "load_tokenizer('infra/demo/model').template.render([{'role': 'user', 'content': 'hello'}])"
    )
    assert {"transformers", "polars"} <= found
    assert not found & {"torch", "triton", "matplotlib"}


def test_a_tokenising_process_loads_what_it_needs_alone() -> None:
    found = loaded("import tasks.profile.token_worker, transformers")
    assert {"tokenizers", "pyarrow"} <= found
    assert not found & {"torch", "numba", "polars", "prefect"}
