"""The layering: rooms import each other along listed arrows alone, and the engine needs no flow package.

`make rooms` prints rooms, arrows and circles; ``python -m tests.support.rooms --table`` prints `ROOMS` as the
code is now.
"""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

import engine
from tests.support.imports import circles, outside_packages, python_files, reached
from tests.support.paths import ROOT
from tests.support.rooms import Code, Layout, Room, problems, read_rooms, write_rooms

if TYPE_CHECKING:
    from pathlib import Path

FOLDERS = ("engine", "tasks", "flows")
ENGINE_PACKAGES = {
    "httpx",
    "llguidance",
    "numba",
    "numpy",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
    "triton",
}
"""All that is installed where the engine runs by itself; httpx comes with transformers."""
OTHER_ENGINES = {"sglang", "vllm"}
"""Imported only in the interpreter that has them, by the back ends of their names."""
FLOW_PACKAGES = {"prefect", "polars", "pyarrow", "boto3", "pydantic"}

ROOMS = read_rooms("""
engine: what every room of the engine uses: errors, compiled functions
engine/grammar: what an answer may be constrained to, and whether that is enforced exactly
engine/kernels: Triton kernels, and C for the CPU, each with its torch reference, and which of them runs
    engine
engine/models: models from their folders: configuration, weights, decoder, the schedule of a layer
    engine engine/kernels
engine/runtime/sample: tokens from logits: settings of requests, constraints, log probabilities
    engine engine/grammar engine/kernels
engine/cost: what a step costs: model shapes, devices, profiles and their fit, the optimum, metrics
    engine engine/models
engine/runtime/state: what the scheduler works on: requests, running slots, a step; the contract of a runner
    engine engine/models engine/runtime/sample
engine/plan: the order of requests: prefix tree, lengths, blend, partition
    engine engine/cost
engine/runtime/cpu: a step on the CPU, by the reference operations
    engine engine/kernels engine/models engine/runtime/sample engine/runtime/state
engine/runtime/kv: pages of KV memory, the prefix cache, pages that are read once
    engine engine/cost engine/runtime/state
engine/job: the boundary of the engine's process: the format of its folder and messages
    engine engine/cost engine/plan engine/runtime/sample
engine/runtime/schedule: what a step computes: admission, pacing, forecasts, buckets, revision
    engine engine/cost engine/plan engine/runtime/kv engine/runtime/state
engine/backends: what answers a job: the contract, and the process around it
    engine engine/cost engine/job
engine/runtime/device: a step on a GPU: graphs, staging, nano-batches, overlap
    engine engine/cost engine/kernels engine/models engine/runtime/kv engine/runtime/sample
    engine/runtime/schedule engine/runtime/state
engine/runtime: the engine itself: its loop, which runner it gets, how fast it is here
    engine engine/cost engine/models engine/plan engine/runtime/cpu engine/runtime/device engine/runtime/kv
    engine/runtime/sample engine/runtime/schedule engine/runtime/state
engine/backends/endpoint: servers with an OpenAI-compatible API as a back end
    engine engine/backends engine/job engine/plan engine/runtime/sample
engine/backends/foreign: what back ends of engines by others share: our scheduler beside them, looking at them
    engine engine/backends engine/cost engine/grammar engine/job engine/models engine/plan engine/runtime
    engine/runtime/kv engine/runtime/sample engine/runtime/schedule engine/runtime/state
engine/backends/vllm: vLLM in its own process as a back end
    engine engine/backends engine/backends/foreign engine/cost engine/job engine/models engine/runtime
    engine/runtime/sample engine/runtime/schedule
engine/backends/sglang: SGLang as a back end
    engine engine/backends engine/backends/foreign engine/cost engine/job engine/models engine/runtime
    engine/runtime/sample
engine/backends/native: our own engine as a back end
    engine engine/backends engine/cost engine/grammar engine/job engine/models engine/plan engine/runtime
    engine/runtime/sample engine/runtime/schedule
engine/simulate: the same scheduler on a modelled device
    engine engine/cost engine/plan engine/runtime engine/runtime/kv engine/runtime/schedule
    engine/runtime/state

tasks: the package itself
tasks/base: errors, accounting, schemas, identity, run date
    engine engine/cost
tasks/extract/text: bytes become lines
    tasks/base
tasks/requests: what a request asks for: body, prompt, sampling, constraints, choices
    engine/grammar tasks/base
tasks/tools: how a model writes calls of tools, what enforces them, what they are in an answer
    engine/grammar tasks/base tasks/requests
tasks/store: where bytes live: the contract, a folder, S3, opening one
    tasks/base
tasks/extract/forms: bodies of other APIs become those of OpenAI: one file an API
    tasks/requests
tasks/extract/readers: what a format says: one file a format
    tasks/base tasks/extract/forms tasks/requests
tasks/infer/backends: which back end answers a job, and what it can do
    engine engine/backends engine/backends/endpoint engine/backends/sglang engine/backends/vllm engine/grammar
    engine/job tasks/base tasks/night tasks/requests
tasks/runlog: the only memory of a run
    tasks/base tasks/store
tasks/extract/parse: lines become rows
    engine tasks/base tasks/extract/readers tasks/extract/text tasks/requests tasks/store
tasks/night: what all steps of a night share: the request, the night, the model's folder
    engine engine/backends engine/cost engine/models tasks/base tasks/requests tasks/runlog tasks/store
tasks/warehouse: the tables of a date, replaced in one commit
    engine/cost tasks/base tasks/runlog tasks/store
tasks/extract: the objects of a date become rows
    tasks/base tasks/extract/parse tasks/extract/readers tasks/extract/text tasks/requests tasks/runlog
    tasks/store tasks/warehouse
tasks/profile: rows become tokens and cost
    engine engine/cost engine/models engine/plan tasks/base tasks/night tasks/requests tasks/runlog
    tasks/tools
tasks/attempt: whose run it is; opening and ending an attempt
    engine/backends engine/models tasks/base tasks/extract tasks/infer/backends tasks/night tasks/profile
    tasks/requests tasks/runlog tasks/store tasks/warehouse
tasks/plan: cost becomes an order
    engine engine/cost engine/job engine/models engine/plan engine/runtime engine/runtime/sample
    engine/simulate tasks/base tasks/night tasks/requests tasks/runlog
tasks/report: what a run did, as a page
    engine engine/cost engine/plan engine/runtime engine/simulate tasks/base tasks/night tasks/requests
    tasks/runlog tasks/store tasks/warehouse
tasks/estimate: what a night would take, and how far to trust that
    engine engine/cost engine/models engine/plan engine/runtime engine/simulate tasks/base tasks/extract
    tasks/plan tasks/profile tasks/report tasks/requests tasks/runlog tasks/store
tasks/infer: the order becomes durable answers
    engine engine/cost engine/job engine/models engine/plan tasks/base tasks/infer/backends tasks/night
    tasks/plan tasks/requests tasks/runlog tasks/store tasks/tools
tasks/canary: a candidate beside a night: what both sides did, and whose answers differ
    tasks/base tasks/night tasks/runlog tasks/store
tasks/publish: answers become the current publication
    engine engine/cost tasks/base tasks/night tasks/report tasks/runlog tasks/store tasks/warehouse
tasks/compare: engines and orders measured against each other
    engine engine/backends tasks/attempt tasks/base tasks/infer/backends tasks/night tasks/plan tasks/profile
    tasks/report
tasks/pilot: a sample of a date in today's order and the blend, and the whole night from it
    engine engine/cost engine/models engine/plan engine/simulate tasks/attempt tasks/base tasks/compare
    tasks/estimate tasks/night tasks/plan tasks/report tasks/requests
tasks/infer/placement: where it is computed: here, or handed over
    engine engine/cost tasks/attempt tasks/base tasks/infer tasks/infer/backends tasks/night tasks/profile
    tasks/runlog tasks/store
tasks/operations: what an operator does: status, doctor, backfill, retention, forgetting
    engine engine/backends engine/cost engine/kernels engine/models engine/runtime tasks/attempt tasks/base
    tasks/canary tasks/extract tasks/infer tasks/infer/backends tasks/night tasks/profile tasks/publish
    tasks/runlog tasks/store tasks/warehouse

flows/parameters: the forms of the flows, and the night that they ask for
    engine engine/cost tasks/base tasks/canary tasks/estimate tasks/extract/readers tasks/infer/backends
    tasks/night tasks/operations tasks/requests tasks/warehouse
flows/run: the sequence of steps, its Prefect tasks, and what failures become
    engine tasks/attempt tasks/base tasks/canary tasks/infer tasks/infer/placement tasks/night tasks/plan
    tasks/profile tasks/publish tasks/runlog tasks/store
flows/views: what a person sees: console, progress, artifacts, tables
    tasks/base tasks/canary tasks/compare tasks/estimate tasks/infer tasks/operations tasks/pilot tasks/report
    tasks/store
flows/dates: many dates: backfills, those that were missed, the calendar
    flows/parameters flows/run flows/views tasks/base tasks/infer tasks/night tasks/operations tasks/store
flows/placement: step infer on another machine of Prefect's
    flows/dates flows/parameters flows/run tasks/attempt tasks/base tasks/infer tasks/infer/placement
    tasks/night tasks/runlog
flows: what a person triggers: one file a flow
    flows/dates flows/parameters flows/placement flows/run flows/views tasks/base tasks/estimate tasks/infer
    tasks/infer/placement tasks/operations tasks/plan tasks/report tasks/runlog tasks/store tasks/warehouse
flows/api: Nightblend from Python: run, estimate, inspect, read results
    engine flows flows/dates flows/parameters flows/run flows/views tasks/base tasks/canary tasks/estimate
    tasks/infer tasks/infer/placement tasks/night tasks/operations tasks/publish tasks/report
    tasks/runlog tasks/store
flows/deploy: deployments, work pools, serving, Prefect's plugin
    engine flows flows/dates flows/parameters flows/placement flows/run flows/views tasks tasks/base
    tasks/operations
flows/commands: the command line: one file a command
    engine engine/cost flows flows/api flows/dates flows/deploy flows/parameters flows/run flows/views
    tasks/base tasks/canary tasks/compare tasks/estimate tasks/extract tasks/operations tasks/pilot
    tasks/publish tasks/report tasks/store tasks/warehouse
""")
"""Ground first, as data runs. A new arrow is a decision: it is made here, and its reason is in the commit."""

PLACED = {
    "flows/__main__.py": "flows/commands",
    "flows/cli.py": "flows/commands",
}
"""Entry points lie where users call them, and belong to the room that does the work."""
LAYOUT = Layout(ROOMS, PLACED)


@pytest.fixture(scope="module", name="code")
def _code() -> Code:
    return Code(ROOT, FOLDERS, PLACED)


def test_the_code_keeps_to_the_table(code: Code) -> None:
    found = problems(code, LAYOUT)
    assert not found, "\n\n".join(found)


def imports_of(folder: str) -> set[str]:
    return set(outside_packages(ROOT, python_files(ROOT, folder)))


def test_nothing_later_is_imported_by_anything_earlier() -> None:
    known = ENGINE_PACKAGES | OTHER_ENGINES | {"engine"}
    assert imports_of("engine") <= known | sys.stdlib_module_names
    assert imports_of("tasks") & {"flows", "prefect"} == set()


def test_the_engine_loads_without_the_flow_packages() -> None:
    modules = [found.name for found in pkgutil.walk_packages(engine.__path__, "engine.")]
    modules = [name for name in modules if not name.endswith(".__main__")]
    blocked = "".join(f"sys.modules[{name!r}] = None\n" for name in sorted(FLOW_PACKAGES))
    code = f"import sys\n{blocked}import {', '.join(modules)}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=ROOT)


@pytest.mark.parametrize(
    "start", [f"tests/benchmarks/{name}" for name in ("gpu/__main__.py", "overlap/__main__.py")]
)
def test_what_measures_a_gpu_needs_the_packages_of_the_engine_alone(start: str) -> None:
    """Nothing else is installed where these benchmarks run."""
    files = reached(ROOT, [start], *FOLDERS, "tests")
    needed = set(outside_packages(ROOT, files)) - sys.stdlib_module_names
    # One part is about vLLM, where somebody has installed it.
    assert needed <= ENGINE_PACKAGES | {"engine", "tests", "vllm"}


def written(root: Path, **files: str) -> None:
    """Write modules; two underscores of a name are a slash."""
    for name, text in files.items():
        path = root / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


TREE = {
    "engine__low__a": "import json\n",
    "engine__mid__b": "from engine.low import a\n",
    "engine__high__c": "from engine.low.a import x\nfrom engine.mid import b\n",
    "engine__main": "from engine.high.c import y\n",
}
TREE_ROOMS = {
    "engine/low": Room("ground", ()),
    "engine/mid": Room("between", ("engine/low",)),
    "engine/high": Room("on top", ("engine/low", "engine/mid")),
}
TREE_PLACED = {"engine/main.py": "engine/high"}


def found_in(root: Path, layout: Layout, **changed: str) -> list[str]:
    written(root, **{**TREE, **changed})
    return problems(Code(root, ["engine"], layout.placed), layout)


def test_a_table_is_read_as_it_is_written() -> None:
    assert read_rooms(write_rooms(ROOMS)) == ROOMS
    assert write_rooms(TREE_ROOMS) == (
        "engine/low: ground\nengine/mid: between\n    engine/low\n"
        "engine/high: on top\n    engine/low engine/mid\n"
    )


def test_a_tree_that_keeps_to_its_table_has_no_problems(tmp_path: Path) -> None:
    assert found_in(tmp_path, Layout(TREE_ROOMS, TREE_PLACED)) == []


@pytest.mark.parametrize(
    "text",
    [
        "import engine.high.c\n",
        "from engine.high import c\n",
        "from engine.high.c import x\n",
        "from ..high.c import x\n",
        "from .. import high\nfrom ..high import c\n",
        "def f():\n    from engine.high.c import x\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from engine.high.c import X\n",
    ],
)
def test_an_arrow_that_is_not_in_the_table_is_found(tmp_path: Path, text: str) -> None:
    rooms = {**TREE_ROOMS, "engine/mid": Room("between", ())}
    found = found_in(tmp_path, Layout(rooms, TREE_PLACED), engine__mid__b=text)
    (arrow,) = (problem for problem in found if "may not import" in problem)
    assert arrow.startswith("engine/mid may not import engine/high: engine/mid/b.py:")
    assert "imports engine/high/c.py" in arrow
    assert 'add "engine/high" to the line of "engine/mid" in ROOMS of tests/test_layers.py' in arrow


def test_what_the_table_has_and_the_code_has_not_is_found(tmp_path: Path) -> None:
    rooms = {**TREE_ROOMS, "engine/low": Room("ground", ("engine/mid",)), "engine/gone": Room("nothing", ())}
    del rooms["engine/high"]
    placed = {**TREE_PLACED, "engine/lost.py": "engine/low"}
    found = found_in(tmp_path, Layout(rooms, placed))
    assert [problem.split(".")[0] for problem in found] == [
        "engine/high/ is not in ROOMS of tests/test_layers",
        "engine/gone/ is in ROOMS of tests/test_layers",
        "engine/lost",
        "engine/low no longer imports engine/mid",
    ]


def test_circles_of_rooms_and_of_files_are_found(tmp_path: Path) -> None:
    rooms = {**TREE_ROOMS, "engine/low": Room("ground", ("engine/high",))}
    layout = Layout(rooms, TREE_PLACED)
    back = {"engine__low__a": "def f():\n    from engine.high.c import x\n"}
    found = found_in(tmp_path, layout, **back)
    assert [problem.partition(". ")[0] for problem in found] == [
        "3 rooms import each other in a circle: engine/high, engine/low, engine/mid",
        "3 files import each other in a circle: engine/high/c.py, engine/low/a.py, engine/mid/b.py",
    ]


@given(st.lists(st.tuples(st.sampled_from("abcdefg"), st.sampled_from("abcdefg")), max_size=20))
def test_circles_are_the_nodes_that_reach_each_other(arrows: list[tuple[str, str]]) -> None:
    reach = {node: {target for source, target in arrows if source == node} for node in "abcdefg"}
    for middle in "abcdefg":
        for node in "abcdefg":
            if middle in reach[node]:
                reach[node] |= reach[middle]
    groups = {tuple(sorted(o for o in reach[n] if n in reach[o])) for n in "abcdefg" if n in reach[n]}
    assert circles(arrows) == sorted(group for group in groups if len(group) > 1)
