"""Build time and peak memory of the prefix tree and the order, by number of requests.

Every size runs in a process of its own, so that its peak memory is its own. The prompts are synthetic: four
workloads with a system prompt each, one of them with 300 subjects below it, and random ids behind that.

    python -m tests.benchmarks.plan.build            10k to 1M requests of 1,000 tokens, and 4M of 100
    python -m tests.benchmarks.plan.build --quick    10k and 100k
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np

from tests.benchmarks.lib.places import ROOT

LONG, SHORT = 1000, 100
SIZES = ((10_000, LONG), (100_000, LONG), (400_000, LONG), (1_000_000, LONG), (4_000_000, SHORT))
QUICK = SIZES[:2]
MAIN = 400_000
PLAIN = 10_000
"""Requests of the plain Python radix tree."""
SYSTEM, SUBJECT, SUBJECTS, WORKLOADS = 100, 300, 300, 4


def make_prompts(requests: int, length: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens int32 [requests * length] and start int64 [requests + 1]."""
    rng = np.random.default_rng(seed)
    tokens = np.empty((requests, length), np.int32)
    rows = 1 << 14
    systems = rng.integers(0, 128_000, (WORKLOADS, length), dtype=np.int32)[:, : min(SYSTEM, length // 4)]
    subjects = rng.integers(0, 128_000, (SUBJECTS, length), dtype=np.int32)[:, : min(SUBJECT, length // 2)]
    a, b = systems.shape[1], systems.shape[1] + subjects.shape[1]
    for lo in range(0, requests, rows):
        part = tokens[lo : lo + rows]
        part[:] = rng.integers(0, 128_000, part.shape, dtype=np.int32)
        workload, subject = rng.integers(0, WORKLOADS, len(part)), rng.integers(0, SUBJECTS, len(part))
        part[:, :a] = systems[workload]
        part[workload == 0, a:b] = subjects[subject[workload == 0]]
    return tokens.reshape(-1), np.arange(requests + 1, dtype=np.int64) * length


def plain_radix_tree(prompts: list[list[int]]) -> dict[int, list[Any]]:
    """Insert every prompt into nested dicts: first token of an edge -> [edge, children, ending prompts]."""
    root: dict[int, list[Any]] = {}
    for i, prompt in enumerate(prompts):
        level, at = root, 0
        while True:
            edge = level.get(prompt[at])
            if edge is None:
                level[prompt[at]] = [prompt[at:], {}, [i]]
                break
            same, most = 0, min(len(edge[0]), len(prompt) - at)
            while same < most and edge[0][same] == prompt[at + same]:
                same += 1
            if same < len(edge[0]):
                rest = edge[0][same:]
                edge[:] = [edge[0][:same], {rest[0]: [rest, edge[1], edge[2]]}, []]
            at += same
            if at == len(prompt):
                edge[2].append(i)
                break
            level = edge[1]
    return root


def measure(requests: int, length: int) -> dict[str, float]:
    """Return the seconds of tree and plan, compiled before, and this process's peak memory."""
    from engine.cost.step import NOMINAL, ModelShape
    from engine.plan.policies import plan_tree
    from engine.plan.tree import build_tree
    from engine.runtime.settings import EngineSettings
    from engine.simulate.schedules import candidates
    from engine.simulate.search import Work, search

    # Llama-3.1-8B.
    shape = ModelShape(6_979_321_856, 525_336_576, 32, 4096, 131_072, 15_009_316_864)
    rng = np.random.default_rng(1)

    most = EngineSettings(426_788, 16, 2048, 512)

    def run(tokens: np.ndarray, start: np.ndarray) -> tuple[float, float, float]:
        estimate = rng.lognormal(5, 1.5, len(start) - 1) + 1
        begin = time.perf_counter()
        tree = build_tree(tokens, start)
        built = time.perf_counter()
        plan_tree("blend", tree, estimate, shape, NOMINAL["a100"])
        ordered = time.perf_counter()
        work = Work(tree, tokens, start, estimate)
        search(work, candidates(most), shape, NOMINAL["a100"], most, overlap=True)
        return built - begin, ordered - begin, time.perf_counter() - begin

    run(*make_prompts(30_000, 40))
    prompts = make_prompts(requests, length)
    tree_s, total_s, search_s = run(*prompts)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {
        "requests": requests,
        "tokens": requests * length,
        "tree_s": tree_s,
        "build_s": total_s,
        "with_search_s": search_s,
        "peak_gb": peak,
        "buffer_gb": prompts[0].nbytes / 1e9,
    }


def measure_plain() -> dict[str, float]:
    """Return the seconds of the plain Python tree, beside ours on the same prompts."""
    tokens, _ = make_prompts(PLAIN, LONG)
    prompts = tokens.reshape(PLAIN, LONG).tolist()
    begin = time.perf_counter()
    plain_radix_tree(prompts)
    plain_s = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {"requests": PLAIN, "tokens": len(tokens), "build_s": plain_s, "peak_gb": peak}


def _in_child(name: str, *numbers: int) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.plan.build", "--child", name, *map(str, numbers)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def bench_build(sizes: tuple[tuple[int, int], ...] = SIZES) -> dict[str, Any]:
    """Measure every (requests, tokens per prompt) in a child process.

    Returns
    -------
    dict
        `sizes`: for each the seconds of the tree (`tree_s`), of tree, sums and blended order (`build_s`), and
        of these and the search for the best order (`with_search_s`), and the peak resident memory in GB with
        the token buffer (`peak_gb`); `plain`: the plain Python radix tree at 10k; `cores`; and the figures of
        400k by name, None if 400k was not asked for.
    """
    from engine.plan.sort import usable_cores

    found = [_in_child("ours", *size) for size in sizes]
    main = next((x for x in found if x["requests"] == MAIN), None)
    return {
        "label": "measured",
        "cores": usable_cores(),
        "sizes": found,
        "plain": _in_child("plain"),
        "build_400k_s": main["build_s"] if main else None,
        "plan_400k_with_search_s": main["with_search_s"] if main else None,
        "build_400k_peak_gb": main["peak_gb"] if main else None,
    }


def print_build(result: dict[str, Any]) -> None:
    """Print the result of `bench_build` as a table."""
    print(f"Prefix tree and blended order, measured on {result['cores']} cores, token buffer included")
    print(
        f"{'requests':>12}{'tokens':>16}{'tree s':>10}{'all s':>10}{'+search s':>10}{'peak GB':>10}"
        f"{'ns/token':>10}"
    )
    for row in result["sizes"]:
        each = row["build_s"] / row["tokens"] * 1e9
        print(
            f"{row['requests']:>12,}{row['tokens']:>16,}{row['tree_s']:>10.2f}{row['build_s']:>10.2f}"
            f"{row['with_search_s']:>10.2f}"
            f"{row['peak_gb']:>10.2f}{each:>10.2f}"
        )
    plain = result["plain"]
    same = next((x for x in result["sizes"] if x["requests"] == plain["requests"]), None)
    ratio = f", {plain['build_s'] / same['tree_s']:.0f} times ours" if same else ""
    print(f"plain Python radix tree at {plain['requests']:,}: {plain['build_s']:.2f} s{ratio}")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="10k and 100k requests only")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        name, *numbers = options.child
        print(json.dumps(measure(*map(int, numbers)) if name == "ours" else measure_plain()))
        return
    result = bench_build(QUICK if options.quick else SIZES)
    if options.json:
        print(json.dumps(result))
    else:
        print_build(result)


if __name__ == "__main__":
    main()
