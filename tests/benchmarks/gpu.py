"""Everything that is measured on a GPU, in one command and within 8 minutes.

    python -m tests.benchmarks.gpu            # on a GPU: prints a table, writes results/gpu-<device>.json
    python -m tests.benchmarks.gpu --dry      # the same code on the CPU with tiny sizes; measures nothing

Ceilings first, then each kernel as a share of its ceiling, then the engine. A part that fails is named and
does not keep the others from being measured; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import datetime as dt
import gc
import importlib.util
import json
import os
import platform
import re
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.profiles import DeviceProfile, write_profile

if TYPE_CHECKING:
    from collections.abc import Callable

RESULTS = Path(__file__).parent / "results"
REQUIRED = (
    "read_gb_s",
    "matmul_tflops",
    "decode_attention_share",
    "decode_attention_long_share",
    "prefill_attention_share",
    "engine_prefill_mfu",
    "engine_decode_mbu",
    "speedup_vs_transformers",
    "step_time_error_p50",
    "step_time_error_p95",
    "host_ms_per_step",
    "flip_rate",
)


class Report:
    """Collects figures and rows, part by part, and the parts that failed."""

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {}
        self.rows: list[Any] = []
        self.failed: dict[str, str] = {}
        self.seconds: dict[str, float] = {}

    def part(self, name: str, work: Callable[[], tuple[dict[str, Any], list[Any]]]) -> None:
        """Run one part and print its rows."""
        begin = time.perf_counter()
        print(f"\n{name}")
        try:
            figures, rows = work()
        except Exception as error:  # noqa: BLE001 - a failed part must not lose the others' figures
            traceback.print_exc()
            self.failed[name] = f"{type(error).__name__}: {error}"[:500]
        else:
            self.figures.update(figures)
            self.rows += rows
            for row in rows:
                share = "" if row.share is None else f"{row.share:8.1%} of its ceiling"
                wrong = "" if row.error is None else f"   error {row.error:.1e}"
                print(f"  {row.name:44}{row.value:12.4g} {row.unit:9}{share}{wrong}")
        self.seconds[name] = time.perf_counter() - begin


def measure(report: Report, dry: bool) -> None:
    """Run all parts on the first CUDA device, or tiny ones on the CPU."""
    import torch

    from tests.benchmarks import gpu_attention, gpu_engine, gpu_ops

    place = torch.device("cpu" if dry else "cuda")
    bench = gpu_ops.Bench(place, torch.float32 if dry else torch.bfloat16, dry)
    report.figures["device"] = "cpu" if dry else torch.cuda.get_device_name()
    report.part("ceilings", lambda: gpu_ops.ceilings(bench))
    if "read_gb_s" not in report.figures:
        return
    report.part("kernels", lambda: ({}, gpu_ops.operations(bench, report.figures)))
    report.part("attention", lambda: gpu_attention.attention(bench, report.figures))

    def engine(name: str) -> tuple[dict[str, Any], list[Any]]:
        found, rows, profile = gpu_engine.engine(bench, report.figures, name)
        models = report.figures.setdefault("models", {})
        models[name] = {**found, "profile": asdict(profile)}
        # The goals are those of the 8B shape; the profile of the cost model as well.
        main = name == next(iter(gpu_engine.MODELS))
        return ({**found, "profile": asdict(profile)} if main else {}), rows

    for name in gpu_engine.MODELS:
        report.part(name, lambda name=name: engine(name))
        gc.collect()
        if not dry:
            torch.cuda.empty_cache()
    report.part("transformers", lambda: gpu_engine.against_transformers(bench, report.figures))


def versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    found = {"python": platform.python_version()}
    for name in ("torch", "triton", "transformers", "numba", "numpy"):
        if importlib.util.find_spec(name):
            found[name] = importlib.import_module(name).__version__
    return found


def main() -> int:
    """Measure, print, and write the results of a GPU."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--dry", action="store_true", help="tiny sizes on the CPU: checks the command itself")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    arguments = parser.parse_args()
    if arguments.dry:
        # Before Triton is loaded.
        os.environ |= {"TRITON_INTERPRET": "1", "NIGHTBLEND_KERNELS": "triton"}
    else:
        import torch

        if not torch.cuda.is_available():
            print("unmeasured: no GPU")
            return 1
    begin, report = time.perf_counter(), Report()
    measure(report, arguments.dry)
    missing = [name for name in REQUIRED if name not in report.figures]
    print(f"\n{time.perf_counter() - begin:.0f} s; by part: ", end="")
    print(", ".join(f"{name} {seconds:.0f}" for name, seconds in report.seconds.items()))
    for name, problem in report.failed.items():
        print(f"failed: {name}: {problem}")
    if missing:
        print("missing:", ", ".join(missing))
    if arguments.dry:
        print("unmeasured: no GPU")
    else:
        write(report, arguments.out, time.perf_counter() - begin)
    return 1 if report.failed else 0


def write(report: Report, folder: Path, seconds: float) -> None:
    """Write the results, and the device profile of the cost model beside them."""
    device = re.sub(r"[^a-z0-9]+", "-", report.figures["device"].lower()).strip("-")
    about = {
        "label": "measured",
        "device": report.figures.pop("device"),
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "versions": versions(),
        "seconds": seconds,
        "seconds_by_part": report.seconds,
        "failed": report.failed,
    }
    rows = [row._asdict() for row in report.rows]
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"gpu-{device}.json"
    target.write_text(json.dumps({**about, **report.figures, "rows": rows}, indent=2) + "\n")
    print(f"wrote {target}")
    if "profile" in report.figures:
        profile = folder / f"profile-{device}.json"
        write_profile(DeviceProfile(**report.figures["profile"]), profile)
        print(f"wrote {profile}")


if __name__ == "__main__":
    raise SystemExit(main())
