"""Host time per step for the masks of 256 constrained sequences, with a vocabulary of 128k, on the CPU.

    python -m tests.benchmarks.engine.constraints            # prints and writes results/constraints.json
    python -m tests.benchmarks.engine.constraints --quick    # 20 steps, writes nothing

Every sequence is held to one of the JSON schemas of the tests; one that is complete begins anew with the
next schema. A token is drawn among those allowed, each as likely: that is not timed. Timed are taking in the
last tokens and working out the masks, in as many threads as there are cores; and before that making the
vocabulary's table and compiling each grammar. The vocabulary is that of Mistral's tokenizer where
mistral-common is installed beside vLLM (`make test-vllm`) or `--vocabulary` names its file, else one made up
of letters. Beside it stands how long a step of 256 decoding sequences of an 8B model in bfloat16 takes on a
GPU by the cost model: masks are worked out meanwhile, and what is longer than the step is waited for.
"""

from __future__ import annotations

import argparse
import base64
import datetime as dt
import itertools
import json
import os
import platform
import statistics
import string
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from engine.cost.step import NOMINAL, ModelShape, step_cost, step_seconds
from engine.grammar.constraint import constraint
from engine.runtime.sample.constraints import Constraints
from engine.runtime.sample.settings import Sampling
from tests.benchmarks.gpu.engine import LLAMA_8B
from tests.benchmarks.lib import places
from tests.support.paths import ROOT
from tests.support.schemas import SCHEMAS

RESULT = places.RESULTS / "constraints.json"
SEQUENCES: Final = 256
CONTEXT: Final = 1000
"""Tokens that each sequence attends to, for the step beside it."""
MOST_TOKENS: Final = 200
_END: Final = 2
_FOUND: Final = ".venv-vllm/lib/python3*/site-packages/mistral_common/data/tekken_*.json"


def vocabulary(path: Path | None) -> tuple[str, PreTrainedTokenizerFast]:
    """Return the name of a vocabulary and a tokenizer that has it; it needs no merges to tell its bytes."""
    if path is None:
        path = next(iter(sorted(ROOT.glob(_FOUND), reverse=True)), None)
    if path is None:
        name, special, tokens = "made up", 3, _made_up(131_069)
    else:
        told = json.loads(path.read_text())
        special = told["config"]["default_num_special_tokens"]
        count = told["config"]["default_vocab_size"] - special
        name, tokens = path.name, [base64.b64decode(one["token_bytes"]) for one in told["vocab"][:count]]
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    names = {byte: chr(byte) for byte in printable} | {b: chr(0x100 + i) for i, b in enumerate(others)}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    ids = {"".join(names[byte] for byte in token): special + i for i, token in enumerate(tokens)}
    added = [{"id": i, "content": f"<|{i}|>", "special": True, **flags} for i in range(special)]
    made = {
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": level,
        "decoder": level,
        "model": {"type": "BPE", "vocab": ids, "merges": []},
    }
    return name, PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(made)))


def _made_up(count: int) -> list[bytes]:
    words = itertools.chain.from_iterable(
        itertools.product(string.ascii_lowercase, repeat=length) for length in (2, 3, 4)
    )
    spelled = (start + "".join(word) for word in words for start in ("", " "))
    return [
        *(bytes([byte]) for byte in range(256)),
        *(word.encode() for word in itertools.islice(spelled, count - 256)),
    ]


def measure(tokenizer: PreTrainedTokenizerFast, steps: int) -> tuple[dict[str, Any], list[float]]:
    """Return how long it takes to begin, and the seconds of each step."""
    size = len(tokenizer)
    texts = [constraint("json", schema) for schema in SCHEMAS.values()]
    settings = [Sampling(MOST_TOKENS, constraint=texts[i % len(texts)]) for i in range(SEQUENCES * steps)]
    begin = time.perf_counter()
    constraints = Constraints(settings, tokenizer, size, [_END])
    made = time.perf_counter() - begin
    begin = time.perf_counter()
    out = np.empty((len(texts), constraints.words), np.int32)
    constraints.fill(range(len(texts)), [np.zeros(0, np.int32)] * len(texts), out)
    for request in range(len(texts)):
        constraints.forget(request)
    compiled = (time.perf_counter() - begin) / len(texts)
    rng = np.random.default_rng(0)
    running = list(range(SEQUENCES))
    following = iter(range(SEQUENCES, len(settings)))
    answers: list[list[int]] = [[] for _ in running]
    seconds: list[float] = []
    for _ in range(steps):
        arrays = [np.array(answer, np.int32) for answer in answers]
        begin = time.perf_counter()
        constraints.fill(running, arrays, out)
        seconds.append(time.perf_counter() - begin)
        for row in range(SEQUENCES):
            allowed = np.flatnonzero(np.unpackbits(out[row].view(np.uint8), bitorder="little")[:size])
            answers[row].append(int(rng.choice(allowed)))
            done = answers[row][-1] == _END or constraints.ended(
                running[row], np.array(answers[row], np.int32)
            )
            if done or len(answers[row]) >= MOST_TOKENS:
                constraints.forget(running[row])
                running[row], answers[row] = next(following), []
    if constraints.failures:
        raise RuntimeError(f"constraints failed: {constraints.failures}")
    begun = {
        "vocabulary_seconds": made,
        "compile_ms": 1e3 * compiled,
        "schemas": len(texts),
        "requests": running[-1] + 1,
    }
    return begun, seconds


def main() -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="20 steps: a trial, not a result")
    parser.add_argument("--vocabulary", type=Path, help="tekken_*.json of mistral-common")
    options = parser.parse_args()
    steps = 20 if options.quick else 200
    name, tokenizer = vocabulary(options.vocabulary)
    begun, seconds = measure(tokenizer, steps)
    times = [1e3 * one for one in seconds[steps // 10 :]]
    found: dict[str, Any] = {
        "label": "measured on the host: masks alone; the step beside them is by the cost model",
        "device": f"{places.processor()}, {os.cpu_count()} threads",
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "load_at_end": os.getloadavg()[0],
        "versions": {"python": platform.python_version(), "llguidance": version("llguidance")},
        "vocabulary": {"name": name, "tokens": len(tokenizer)},
        "sequences": SEQUENCES,
        "steps": steps,
        **begun,
        "ms_p50": statistics.median(times),
        "ms_mean": statistics.mean(times),
        "ms_p95": float(np.quantile(times, 0.95)),
        "us_per_sequence_and_thread": 1e3
        * statistics.median(times)
        / SEQUENCES
        * len(os.sched_getaffinity(0)),
        "step_beside": {},
    }
    for device in ("a100", "h200"):
        cost = step_cost(ModelShape.of(LLAMA_8B, 2), NOMINAL[device])
        step = 1e3 * step_seconds(cost, SEQUENCES, SEQUENCES, SEQUENCES * CONTEXT, SEQUENCES * CONTEXT)
        ratio = statistics.mean(max(step, one) for one in times) / step
        found["step_beside"][device] = {"step_ms": step, "ratio_if_hidden_else_waited_for": ratio}
    print(json.dumps(found, indent=2))
    if not options.quick:
        RESULT.write_text(json.dumps(found, indent=2) + "\n")
        print(f"wrote {RESULT}")


if __name__ == "__main__":
    main()
