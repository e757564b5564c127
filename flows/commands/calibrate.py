"""`nightblend calibrate`: what this machine achieves, as a device profile."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.commands.parser import CommandParser, number
from tasks.base.accounting import ExitCode
from tasks.base.errors import ConfigurationError

if TYPE_CHECKING:
    from engine.cost.profiles import DeviceProfile


def make_parser() -> CommandParser:
    """Return the options of the command."""
    parser = CommandParser(
        "calibrate",
        description="Measure what this machine achieves with a model, by running the engine on made-up "
        "requests, and write a device profile for the planner.",
    )
    parser.add_argument("--model", required=True, help="model folder or hub id")
    parser.add_argument("--out", required=True, metavar="FILE", help="where to write the profile (JSON)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1. Default: auto.")
    parser.add_argument("--dtype", default="auto", help="as for `run`. Default: auto.")
    parser.add_argument(
        "--seconds", type=number, default=60.0, help="how long to measure, loading apart. Default: 60."
    )
    return parser


def execute(options: dict[str, Any]) -> int:
    """Measure, write the profile and say how far it can be trusted."""
    from dataclasses import asdict

    from engine.cost.profiles import write_profile
    from tasks.operations.calibrate import calibrate_device

    as_json, out = options.pop("json"), Path(options.pop("out"))
    if not out.parent.is_dir():
        raise ConfigurationError("--out", f"there is no folder {out.parent}", "Make it, or name another")
    print(f"measuring for {options['seconds']:g} s", file=sys.stderr)
    found = calibrate_device(**options)
    write_profile(found.profile, out)
    if as_json:
        print(json.dumps(asdict(found)))
        return int(ExitCode.OK)
    profile = found.profile
    print(f"{profile.name}, measured on {found.steps:,} steps of the engine")
    figures = {
        "compute": f"{profile.flops / 1e9:,.0f} GFLOP/s{_by_rows(profile)}",
        "memory": f"{profile.read_bytes / 1e9:,.1f} GB/s read",
        "step": f"{1e3 * profile.step_seconds:.2f} ms beside its work",
    }
    for name, text in figures.items():
        print(f"  {name:9} {'not seen in these steps' if name in found.unseen else text}")
    print(
        f"Step times of the cost model are off by {found.error_p50:.1%} in the median and "
        f"{found.error_p95:.1%} at the 95th percentile, on steps that were not fitted; all of these together "
        f"by {found.error_total:+.1%}."
    )
    print(f"Written to {out}; plan with it by: nightblend run --device-profile {out} ...")
    return int(ExitCode.OK)


def _by_rows(profile: DeviceProfile) -> str:
    """Return what of its rate GEMMs of few rows reach, as a remark."""
    if len(profile.gemm) < 2:
        return ""
    (rows, part), best = profile.gemm[0], max(profile.gemm, key=lambda point: point[1])
    return f" with {best[0]:,.0f} tokens in a step, {part:.0%} of it with {rows:,.0f}"
