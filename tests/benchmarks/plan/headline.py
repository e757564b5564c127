"""The figures of the planner's benchmark that are promised by name."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.benchmarks.plan import compare
from tests.benchmarks.plan.sections import REPLICAS

Figures = dict[str, Any]


def headline(sections: dict[str, list[Figures]]) -> Figures:
    """Return the figures that are promised by name; those of sections that were not run are missing."""
    found: Figures = {}
    for figures in sections.get("build", []):
        found |= {
            k: figures[k]
            for k in ("build_400k_s", "plan_400k_with_search_s", "build_400k_peak_gb")
            if figures.get(k) is not None
        }
    if sections.get("grid"):
        s = compare.summary(sections["grid"])
        found["grid_mean_vs_dfs_2048"] = s["mean_vs_dfs_2048"]
        found["grid_mean_vs_best_fixed"] = s["mean_vs_best_fixed"]
        found["grid_min_vs_best_fixed"] = s["min_vs_best_fixed"]
        found["grid_mean_vs_best_paced"] = s["mean_vs_best_paced"]
        found["optimum_share_mean"] = s["optimum_share_mean"]
        found["sharing_kept_min"] = s["sharing_kept_min"]
    if sections.get("sensitivity"):
        for key, name in (("makespan_vs_oracle", "later"), ("makespan_vs_oracle_first_night", "first")):
            rows = [f["rows"][f"{name} night, planned again"]["vs_known"] for f in sections["sensitivity"]]
            found[key] = float(np.mean(rows))
    if sections.get("size"):
        largest = max(sections["size"], key=lambda f: f["requests"])
        found["makespan_vs_oracle_largest"] = largest["later_night_vs_known"]
    found |= _of_auto(sections)
    if sections.get("partition"):
        found["partition_speedup"] = {
            str(n): float(np.mean([f["speedup"][str(n)] for f in sections["partition"]])) for n in REPLICAS
        }
    return found


def _of_auto(sections: dict[str, list[Figures]]) -> Figures:
    """Return the promised figures of the sections that were run."""
    found: Figures = {}
    for section, prefix in (("auto", "auto"), ("holdout", "holdout_auto")):
        rows = sections.get(section)
        if not rows:
            continue
        found[f"{prefix}_min_vs_best"] = min(f["vs_best"] for f in rows)
        found[f"{prefix}_mean_vs_best"] = float(np.mean([f["vs_best"] for f in rows]))
        found[f"{prefix}_min_vs_best_other"] = min(f["vs_best_other"] for f in rows)
        found[f"{prefix}_min_vs_best_peer"] = min(f["vs_best_peer"] for f in rows)
        found[f"{prefix}_search_seconds_max"] = max(f["choice"]["cpu_seconds"] for f in rows)
    for base, name in (("mooncake", "with_videos"), ("mooncake_alone", "without_videos")):
        rows = [f for f in sections.get("auto", []) if f["base"] == base and f["interference"] == 0.0]
        if rows:
            found[f"mooncake_{name}_vs_best_other"] = {f["device"]: f["vs_best_other"] for f in rows}
    if sections.get("estimated"):
        found["auto_estimated_min_vs_known"] = min(f["vs_known_choice"] for f in sections["estimated"])
    if sections.get("nights"):
        for name in sections["nights"][0]["vs_known"]:
            ratios = np.array([f["vs_known"][name] for f in sections["nights"]])
            found[f"{name}_over_seeds"] = {
                "mean": float(ratios.mean()),
                # Of a single night, and of the mean over all mixes with one sample each.
                "spread": float(ratios.std(axis=1).mean()),
                "spread_of_mean": float(ratios.mean(axis=0).std()),
                "seeds": ratios.shape[1],
            }
    return found
