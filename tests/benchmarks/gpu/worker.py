"""Runs parts of the GPU benchmark one after the other, for `supervise.py`, in a process that may be killed.

Each part leaves one file in the folder as soon as it is done, so that what was measured survives whatever
comes after it: an exception, a crash, a corrupted CUDA context (after which nothing works in its process).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from tests.benchmarks.gpu.bench import Bench, Unmeasured
from tests.benchmarks.gpu.report import merge

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.benchmarks.gpu.bench import Row

UNHEALTHY = 3
"""Exit code of a worker whose device no longer answers."""


class Part(NamedTuple):
    """A part of the benchmark.

    Attributes
    ----------
    name
        Of the part, in the results.
    seconds
        Most time that it may take.
    work
        Returns figures and rows; it is given the figures of all parts before.
    alone
        Whether it needs all of the device's memory, hence a process of its own.
    """

    name: str
    seconds: float
    work: Callable[[Bench, dict[str, Any]], tuple[dict[str, Any], list[Row]]]
    alone: bool = False


def parts_of(place: str) -> list[Part]:
    """Return the list that `place` names, as ``module:NAME``."""
    module, _, name = place.partition(":")
    found: list[Part] = getattr(import_module(module), name)
    return found


def result_file(folder: Path, name: str) -> Path:
    """Return where the result of a part is."""
    return folder / f"part-{''.join(c if c.isalnum() else '-' for c in name)}.json"


def run_part(part: Part, bench: Bench, figures: dict[str, Any]) -> dict[str, Any]:
    """Run one part, print its rows, and return its result."""
    print(f"\n{part.name}", flush=True)
    result: dict[str, Any] = {"name": part.name, "figures": {}, "rows": []}
    begin = time.perf_counter()
    try:
        found, rows = part.work(bench, figures)
    except Unmeasured as reason:
        print(f"  unmeasured: {reason}")
        result["unmeasured"] = str(reason)
    except Exception as error:  # noqa: BLE001 - a failed part must not lose the others' figures
        traceback.print_exc()
        result["failed"] = {
            "error": f"{type(error).__name__}: {error}"[:500],
            "traceback": traceback.format_exc(),
        }
    else:
        result["figures"] = found
        result["rows"] = [row._asdict() | {"part": part.name} for row in rows]
        for row in rows:
            print(f"  {row}", flush=True)
    result["seconds"] = time.perf_counter() - begin
    return result


def healthy(device: torch.device) -> bool:
    """Return whether the device still computes: after an illegal access it never does in this process."""
    try:
        return float(torch.ones(8, device=device).sum()) == 8.0
    except RuntimeError:
        traceback.print_exc()
        return False


def warm_host(bench: Bench) -> None:
    """Compile the scheduler, whose machine code is kept on disk: most of a minute on a new machine."""
    from tests.benchmarks.gpu.engine import warm_host

    warm_host(bench)


def main() -> int:
    """Run the parts that are named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--parts", default="tests.benchmarks.gpu.parts:PARTS", help="module:NAME of the list")
    parser.add_argument("--folder", type=Path, required=True, help="where results go, and figures.json is")
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--warm", action="store_true", help="only compile what the host runs")
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    if arguments.warm:
        warm_host(Bench(torch.device("cpu"), torch.float32, dry=True))
        return 0
    device = torch.device("cpu" if arguments.dry else "cuda")
    bench = Bench(device, torch.float32 if arguments.dry else torch.bfloat16, arguments.dry)
    parts = {part.name: part for part in parts_of(arguments.parts)}
    figures = json.loads((arguments.folder / "figures.json").read_text())
    for name in arguments.names:
        result = run_part(parts[name], bench, figures)
        if not parts[name].alone:
            result["figures"]["device"] = "cpu" if arguments.dry else torch.cuda.get_device_name()
        merge(figures, result["figures"])
        # Said with the result, so that nobody waits for the next part of a process that cannot go on.
        result["healthy"] = "failed" not in result or healthy(device)
        target = result_file(arguments.folder, name)
        scratch = target.with_suffix(".tmp")
        scratch.write_text(json.dumps(result))
        scratch.replace(target)
        if not result["healthy"]:
            return UNHEALTHY
        gc.collect()
        if not arguments.dry and not parts[name].alone:
            torch.cuda.empty_cache()
    return 0


def command(parts: str, folder: Path, names: Sequence[str], *, dry: bool, warm: bool = False) -> list[str]:
    """Return the command that starts a worker."""
    flags = ["--dry"] * dry + ["--warm"] * warm
    module = [sys.executable, "-m", "tests.benchmarks.gpu.worker"]
    return [*module, "--parts", parts, "--folder", os.fspath(folder), *flags, *names]


if __name__ == "__main__":
    raise SystemExit(main())
