"""What the parts of a GPU benchmark found, and the files that it is written to."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import platform
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

from engine.cost.profiles import DeviceProfile, write_profile

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Report:
    """Figures and rows, part by part; parts that failed or could not be measured, with the reason."""

    def __init__(self, required: Sequence[str]) -> None:
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


def merge(figures: dict[str, Any], found: dict[str, Any]) -> None:
    """Put what a part found among the figures; those of models stay apart by the model's name."""
    models = {**figures.get("models", {}), **found.get("models", {})}
    figures.update(found)
    if models:
        figures["models"] = models


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
