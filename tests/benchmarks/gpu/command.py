"""Everything that is measured on a GPU, in one command and within 8 minutes.

    python -m tests.benchmarks.gpu                  # prints a table, writes results/gpu-<device>.json
    python -m tests.benchmarks.gpu --only vLLM      # one part again, into the same file
    python -m tests.benchmarks.gpu --dry            # tiny, on the CPU: tries the command, measures nothing

Ceilings first, then each kernel as a share of its ceiling, then the engine. The parts run in other processes:
one that fails, crashes or takes too long is named, with its traceback, and does not keep the others from
being measured. The results are written after every part. The exit code is 1 if anything failed or is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import importlib.metadata
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.cost.profiles import DeviceProfile, write_profile
from tests.benchmarks.gpu_worker import Part, command, merge, parts_of, result_file

if TYPE_CHECKING:
    from collections.abc import Sequence

RESULTS = Path(__file__).parent / "results"
PARTS = "tests.benchmarks.gpu_parts:PARTS"
LIMIT, START = 480.0, 60.0
"""Seconds of all together; seconds that a process may take until its first part begins."""
PATIENCE = 10.0
"""How much longer each part may take in a dry run, whose times mean nothing."""
REQUIRED = (
    "read_gb_s",
    "matmul_tflops",
    "decode_attention_share",
    "decode_attention_long_share",
    "prefill_attention_share",
    "engine_prefill_mfu",
    "engine_decode_mbu",
    "speedup_vs_transformers",
    "speedup_vs_vllm",
    "step_time_error_p50",
    "step_time_error_p95",
    "host_ms_per_step",
    "flip_rate",
    "float32_answers_equal",
    "bf16_logprob_error",
)


class Report:
    """Figures and rows, part by part; parts that failed or could not be measured, with the reason."""

    def __init__(self, required: Sequence[str] = REQUIRED) -> None:
        self.required = required
        self.figures: dict[str, Any] = {}
        self.rows: list[dict[str, Any]] = []
        self.failed: dict[str, dict[str, str]] = {}
        self.unmeasured: dict[str, str] = {}
        self.seconds: dict[str, float] = {}

    def load(self, path: Path) -> None:
        """Take over what an earlier command measured."""
        held = json.loads(path.read_text())
        self.rows, self.failed, self.unmeasured = held["rows"], held["failed"], held["unmeasured"]
        self.seconds, self.figures = held["seconds_by_part"], held["figures"] | {"device": held["device"]}

    def add(self, result: dict[str, Any]) -> None:
        """Put in the result of a part, in place of an earlier one."""
        name = result["name"]
        self.rows = [row for row in self.rows if row["part"] != name] + result["rows"]
        self.seconds[name] = result["seconds"]
        for kept, key in ((self.failed, "failed"), (self.unmeasured, "unmeasured")):
            kept.pop(name, None)
            if key in result:
                kept[name] = result[key]
        merge(self.figures, result["figures"])

    def wrong(self) -> list[str]:
        """Return the rows whose error against float32 is above their limit, or is no number."""
        checked = [row for row in self.rows if row["error"] is not None]
        return [row["name"] for row in checked if not row["error"] <= row["limit"]]

    def missing(self) -> list[str]:
        """Return the required figures that are not there, with the reason where it is known."""
        reason = self.unmeasured.get("vLLM")
        known = {"speedup_vs_vllm"} if reason else set()
        return [name for name in self.required if name not in self.figures and name not in known]


def supervise(
    report: Report, parts: list[Part], place: str, folder: Path, *, dry: bool, limit: float, done
) -> None:
    """Run `parts` of the list at `place` in worker processes and call `done` after each.

    A worker that dies, hangs or loses its device is replaced by another one for the parts that are left.
    """
    left, begin = list(parts), time.monotonic()
    while left:
        group = [left[0]] if left[0].alone else []
        for part in left if not group else ():
            if part.alone:
                break
            group.append(part)
        (folder / "figures.json").write_text(json.dumps(report.figures))
        names = [part.name for part in group]
        # A session of its own, so that the processes that it starts can be ended with it.
        worker = subprocess.Popen(command(place, folder, names, dry=dry), start_new_session=True)
        try:
            grace = START
            for part in group:
                allowed = part.seconds * (PATIENCE if dry else 1.0) + grace
                allowed = min(allowed, limit * (PATIENCE if dry else 1.0) - (time.monotonic() - begin))
                result, alive = await_result(worker, result_file(folder, part.name), part, allowed)
                left.pop(0)
                report.add(result)
                done()
                if not alive:
                    break
                grace = 0.0
            else:
                # The interpreter's end, in which a device gives back its memory, belongs to the last part.
                worker.wait(timeout=30)
        except subprocess.TimeoutExpired:
            print("the process did not end and was ended")
        finally:
            end(worker)


def await_result(
    worker: subprocess.Popen[bytes], path: Path, part: Part, allowed: float
) -> tuple[dict[str, Any], bool]:
    """Return the result of a part, and whether its worker may go on with the next one."""
    begin = time.monotonic()
    while True:
        ended = worker.poll()
        if path.exists():
            result = json.loads(path.read_text())
            return result, result["healthy"]
        seconds = time.monotonic() - begin
        if ended is not None:
            problem = f"the process ended with code {ended}"
        elif seconds > allowed:
            problem = f"took longer than the {max(allowed, 0.0):.0f} s that were left for it"
        else:
            time.sleep(0.05)
            continue
        print(f"  {part.name}: {problem}")
        nothing: dict[str, Any] = {"figures": {}, "rows": []}
        return {**nothing, "name": part.name, "seconds": seconds, "failed": {"error": problem}}, False


def end(worker: subprocess.Popen[bytes]) -> None:
    """End a worker and every process that it has started."""
    # It may have ended by itself, with all of its own.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()


def versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    found = {"python": platform.python_version()}
    for name in ("torch", "triton", "transformers", "numba", "numpy", "vllm"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def driver() -> str | None:
    """Return what the driver says of its version, clocks and power limit, None where it cannot be asked."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    fields = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu"
    asked = [tool, f"--query-gpu={fields}", "--format=csv", "--id=0"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout.strip() or None


def write(report: Report, folder: Path, seconds: float, kind: str = "gpu") -> Path:
    """Write the results, and the device profile of the cost model beside them."""
    name = report.figures.get("device", "unknown")
    about = {
        "label": "measured",
        "device": name,
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "versions": versions(),
        "driver": driver(),
        "seconds": seconds,
        "seconds_by_part": report.seconds,
        "complete": not report.missing(),
        "missing": report.missing(),
        "wrong": report.wrong(),
        "failed": report.failed,
        "unmeasured": report.unmeasured,
    }
    top = {name: report.figures[name] for name in report.required if name in report.figures}
    figures = {name: value for name, value in report.figures.items() if name != "device"}
    folder.mkdir(parents=True, exist_ok=True)
    target = results_file(folder, name, kind)
    scratch = target.with_suffix(".tmp")
    scratch.write_text(json.dumps({**about, **top, "figures": figures, "rows": report.rows}, indent=2) + "\n")
    scratch.replace(target)
    if "profile" in figures:
        write_profile(
            DeviceProfile(**figures["profile"]),
            results_file(folder, name, "profile" if kind == "gpu" else f"profile-{kind}"),
        )
    return target


def main(
    place: str = PARTS, kind: str = "gpu", required: Sequence[str] = REQUIRED, about: str = __doc__ or ""
) -> int:
    """Measure the parts of the list at `place`, print, and write the results of a GPU."""
    parser = argparse.ArgumentParser(description=about.split("\n", 1)[0])
    parser.add_argument("--dry", action="store_true", help="tiny sizes on the CPU: checks the command itself")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--only", action="append", help="a part to measure again; may be repeated")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds that all may take")
    arguments = parser.parse_args()
    if arguments.dry:
        # Before Triton is loaded.
        os.environ |= {"TRITON_INTERPRET": "1", "NIGHTBLEND_KERNELS": "triton"}
    else:
        import torch

        if not torch.cuda.is_available():
            print("unmeasured: no GPU")
            return 1
    # So that the workers, which are in sessions of their own, are ended with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return measure(arguments, Report(required), place, kind)


def measure(arguments: argparse.Namespace, report: Report, place: str, kind: str) -> int:
    """Run the parts and return the exit code."""
    begin, dry = time.monotonic(), arguments.dry
    parts = parts_of(place)
    if arguments.only:
        unknown = set(arguments.only) - {part.name for part in parts}
        if unknown:
            print(f"--only: {sorted(unknown)} is unknown; parts are {[part.name for part in parts]}")
            return 2
        parts = [part for part in parts if part.name in arguments.only]
        if not dry:
            import torch

            held = results_file(arguments.out, torch.cuda.get_device_name(), kind)
            if held.exists():
                report.load(held)

    def done() -> None:
        if not dry:
            write(report, arguments.out, time.monotonic() - begin, kind)

    warming = None
    with tempfile.TemporaryDirectory() as folder:
        try:
            if not dry:
                warming = subprocess.Popen(
                    command(place, Path(folder), (), dry=False, warm=True), start_new_session=True
                )
            supervise(report, parts, place, Path(folder), dry=dry, limit=arguments.limit, done=done)
        finally:
            if warming is not None:
                end(warming)
    conclude(report, time.monotonic() - begin)
    if dry:
        print("unmeasured: no GPU")
    else:
        print(f"wrote {write(report, arguments.out, time.monotonic() - begin, kind)}")
    return 1 if report.failed or report.wrong() else 0


def results_file(folder: Path, device: str, kind: str) -> Path:
    """Return the file of a device's results, or of its profile."""
    return folder / f"{kind}-{re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-')}.json"


def conclude(report: Report, seconds: float) -> None:
    """Print what the parts took, and what failed, is wrong, missing or unmeasured."""
    by_part = ", ".join(f"{name} {taken:.0f}" for name, taken in report.seconds.items())
    print(f"\n{seconds:.0f} s; by part: {by_part}")
    for name, problem in report.failed.items():
        print(f"failed: {name}: {problem['error']}")
    for name in report.wrong():
        print(f"wrong: {name}")
    for name, reason in report.unmeasured.items():
        print(f"unmeasured: {name}: {reason}")
    if report.missing():
        print("missing:", ", ".join(report.missing()))


if __name__ == "__main__":
    raise SystemExit(main())
