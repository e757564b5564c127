"""How fast request logs are read: JSONL to canonical Parquet, with hashing, dedupe and accounting.

    python -m tests.benchmarks.data.logs [--quick] [--gb 5] [--ratios]

Writes `results/logs.json`: `jsonl_mb_s` (mean line 4 KB), `jsonl_small_mb_s` (400 bytes),
`gz_mb_s` (4 KB lines; text bytes per second), `peak_mb` (most resident memory of all processes together),
`log_gb`. Beside them: the same lines read by `json.loads` in one process, and the speed at a quarter of the
size, to show that time and memory do not grow faster than the log; and CPU seconds of all processes per GB,
which say more than MB/s on a machine that has other work. `tools` has the CPU seconds of logs of LiteLLM and
Langfuse beside those of OpenAI batches, in turn in one process, and `ratio_to_quick_way`; `tokenising` has
the seconds of tokenising on one core and on all, the start of processes included, and their ratio, for lines
of 400 bytes and of 4 KB. All figures are measured. A log lies on disk before it is read: its reading does not
pay for its writing.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import resource
import shutil
import tempfile
import threading
import time
from contextlib import contextmanager
from datetime import UTC, date, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Self

import psutil

from tasks.extract.extract import extract
from tasks.profile.tokenize import tokenize_requests
from tasks.profile.tokenizer import load_tokenizer
from tests.benchmarks.lib.logged_calls import FORMATS, lines
from tests.benchmarks.lib.places import RESULTS
from tests.support.tokenizers import byte_level

if TYPE_CHECKING:
    from collections.abc import Iterator

MB = 1e6
_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def write_log(path: Path, total: int, mean: int, form: str = "openai-batch") -> int:
    """Write a log of a format and return its bytes of text."""
    written = 0
    packed = path.suffix == ".gz"
    with gzip.open(path, "wb", compresslevel=1) if packed else path.open("wb") as out:
        for line in lines(total, mean, form):
            out.write(line)
            written += len(line)
    os.sync()
    return written


def cpu_seconds() -> float:
    """Return what this process and its ended children have used."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


class Memory:
    """Most resident memory of this process and its children while the block runs, in MB."""

    def __enter__(self) -> Self:
        self.peak = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        watched = [me]
        step = 0
        while not self._stop.wait(0.1):
            # Looking for children reads all of /proc.
            if step % 10 == 0:
                watched = [me, *me.children(recursive=True)]
            step += 1
            total = 0
            for process in watched:
                try:
                    total += process.memory_info().rss
                except psutil.Error:
                    continue
            self.peak = max(self.peak, total / MB)


def read(path: Path, text_bytes: int) -> dict[str, Any]:
    """Extract a log and return its figures."""
    scratch = Path(tempfile.mkdtemp(dir=path.parent))
    try:
        with Memory() as memory:
            begin, used = time.perf_counter(), cpu_seconds()
            result = extract(str(path), job="bench", run_date=date(2026, 1, 1), scratch=scratch)
            seconds, used = time.perf_counter() - begin, cpu_seconds() - used
    finally:
        shutil.rmtree(scratch)
    account = result.account
    if account.lines != account.requests or account.errors:
        raise RuntimeError(f"the log was not read whole: {account}")
    return {
        "text_mb": round(text_bytes / MB, 1),
        "requests": account.requests,
        "seconds": round(seconds, 2),
        "mb_s": round(text_bytes / MB / seconds, 1),
        "cpu_s_per_gb": round(used / text_bytes * 1e9, 2),
        "peak_mb": round(memory.peak, 1),
    }


def json_loop(path: Path, text_bytes: int) -> dict[str, Any]:
    """Parse a log line by line with the standard library, one process, nothing else done."""
    begin = time.perf_counter()
    with path.open("rb") as file:
        for line in file:
            json.loads(line)
    seconds = time.perf_counter() - begin
    return {"seconds": round(seconds, 2), "mb_s": round(text_bytes / MB / seconds, 1)}


def beside_the_quick_way(folder: Path, *, quick: bool) -> dict[str, Any]:
    """Read logs of tools beside one of OpenAI batches, each in this process, in turn; return the ratios.

    CPU seconds of the whole of `extract`; the median of each round's ratio, since a shared machine has slow
    spells, which are longer than a round.
    """
    size, rounds = (10e6, 3) if quick else (20e6, 20)
    paths = {form: folder / f"{form}.jsonl" for form in FORMATS}
    used: dict[str, list[float]] = {form: [] for form in FORMATS}
    text = {form: write_log(path, int(size), 4000, form) for form, path in paths.items()}
    for turn in range(rounds + 1):
        for form, path in paths.items():
            spent = read(path, text[form])["cpu_s_per_gb"]
            # The first turn loads what is compiled.
            if turn:
                used[form].append(spent)
    quick_way = used["openai-batch"]
    for path in paths.values():
        path.unlink()
    return {
        "cpu_s_per_gb": used,
        "ratio_to_quick_way": {
            form: round(median(a / b for a, b in zip(quick_way, values, strict=True)), 3)
            for form, values in used.items()
            if form != "openai-batch"
        },
    }


def tokenising(folder: Path, *, quick: bool) -> dict[str, Any]:
    """Tokenise a log on one core and on all, in turn; return seconds and ratios.

    Wall time, the least of some rounds; the tokenizer is made on the spot. With `quick` there is so little
    text that no process is started.
    """
    model = folder / "tokenizer"
    fast = byte_level()
    fast.chat_template = _TEMPLATE
    fast.save_pretrained(model)
    tokenizer = load_tokenizer(str(model))
    found = {}
    for mean, size in ((400, 160e6), (4000, 128e6)):
        path = folder / f"chats-{mean}.jsonl"
        write_log(path, int(size / 60 if quick else size), mean)
        rows = extract(str(path), job="bench", run_date=date(2026, 1, 1), scratch=folder / path.stem)
        seconds: dict[str, list[float]] = {"one": [], "all": []}
        for _ in range(2):
            for name, times in seconds.items():
                with cores(1 if name == "one" else None):
                    begin = time.perf_counter()
                    tokenize_requests(
                        rows.files("requests"), tokenizer, context_length=1 << 20, out=folder / "tokens"
                    )
                    times.append(round(time.perf_counter() - begin, 3))
        ratio = round(min(seconds["one"]) / min(seconds["all"]), 2)
        found[f"{mean} bytes"] = {"seconds": seconds, "ratio": ratio}
    return found


@contextmanager
def cores(count: int | None) -> Iterator[None]:
    """Keep all threads of this process to some cores; None leaves them all."""
    allowed = os.sched_getaffinity(0)
    for which in (set(sorted(allowed)[:count]), allowed):
        for thread in Path("/proc/self/task").iterdir():
            os.sched_setaffinity(int(thread.name), which)
        if which is not allowed:
            yield


def measure(gb: float, folder: Path) -> dict[str, Any]:
    """Make the logs one after the other, read them, and return all figures."""
    cases = {
        "jsonl": (gb, 4000, "log.jsonl"),
        "jsonl_quarter": (gb / 4, 4000, "quarter.jsonl"),
        "jsonl_small": (gb / 5, 400, "small.jsonl"),
        "gz": (gb / 5, 4000, "log.jsonl.gz"),
    }
    found: dict[str, Any] = {}
    for name, (size, mean, file) in cases.items():
        path = folder / file
        text_bytes = write_log(path, int(size * 1e9), mean)
        found[name] = {"stored_mb": round(path.stat().st_size / MB, 1), **read(path, text_bytes)}
        if name in {"jsonl_quarter", "jsonl_small"}:
            found[f"{name}_json_loop"] = json_loop(path, text_bytes)
        path.unlink()
        print(name, json.dumps(found[name]), flush=True)
    return found


def where() -> dict[str, Any]:
    """Return what ran where."""
    return {
        "label": "measured",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_at_end": [round(value, 2) for value in os.getloadavg()],
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("numba", "numpy", "orjson", "pyarrow")},
        "machine": platform.platform(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a log of 0.2 GB instead of 5")
    parser.add_argument("--gb", type=float, default=5.0, help="size of the largest log")
    parser.add_argument("--ratios", action="store_true", help="only logs of tools beside OpenAI batches")
    options = parser.parse_args()
    gb = 0.2 if options.quick else options.gb
    folder = Path(tempfile.mkdtemp(prefix="nightblend-logs-"))
    try:
        tools = beside_the_quick_way(folder, quick=options.quick)
        print("tools", json.dumps(tools), flush=True)
        tokens = tokenising(folder, quick=options.quick)
        print("tokenising", json.dumps(tokens), flush=True)
        cases = {} if options.ratios else measure(gb, folder)
    finally:
        shutil.rmtree(folder)
    name = "logs-quick.json" if options.quick else "logs.json"
    if options.ratios:
        results = json.loads((RESULTS / name).read_text()) | {
            "tools": {**tools, "where": where()},
            "tokenising": {**tokens, "where": where()},
        }
        (RESULTS / name).write_text(json.dumps(results, indent=2) + "\n")
        return
    loop = cases["jsonl_quarter_json_loop"]["mb_s"]
    results = {
        "jsonl_mb_s": cases["jsonl"]["mb_s"],
        "jsonl_small_mb_s": cases["jsonl_small"]["mb_s"],
        "gz_mb_s": cases["gz"]["mb_s"],
        "cpu_s_per_gb": cases["jsonl"]["cpu_s_per_gb"],
        "peak_mb": max(case["peak_mb"] for case in cases.values() if "peak_mb" in case),
        "log_gb": round(cases["jsonl"]["text_mb"] / 1000, 3),
        "json_loop_mb_s": loop,
        "json_loop_small_mb_s": cases["jsonl_small_json_loop"]["mb_s"],
        "ratio_to_json_loop": round(cases["jsonl"]["mb_s"] / loop, 2),
        "tools": tools,
        "tokenising": tokens,
        "cases": cases,
        "where": where(),
    }
    (RESULTS / name).write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps({key: value for key, value in results.items() if key != "cases"}, indent=2))


if __name__ == "__main__":
    main()
