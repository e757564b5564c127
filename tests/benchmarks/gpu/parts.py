"""The parts of the GPU benchmark in the order in which they run, with the most time that each may take."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.benchmarks.gpu import attention, check, engine, ops, others
from tests.benchmarks.gpu.worker import Part

if TYPE_CHECKING:
    from tests.benchmarks.gpu.bench import Bench, Row

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

MAIN = next(iter(engine.MODELS))
"""The goals are those of this shape; the profile of the cost model as well."""


def run_model(bench: Bench, figures: dict[str, Any], name: str) -> tuple[dict[str, Any], list[Row]]:
    """Run one model; every figure is kept under its name, those of the first one also by themselves."""
    found, rows, profile = engine.engine(bench, figures, name)
    found["profile"] = asdict(profile)
    return {**(found if name == MAIN else {}), "models": {name: found}}, rows


PARTS = [
    Part("ceilings", 45, ops.ceilings),
    Part("kernels", 60, ops.operations),
    Part("attention", 75, attention.attention),
    Part(MAIN, 170, partial(run_model, name=MAIN)),
    Part("answers", 45, check.answers),
    Part("transformers", 90, others.against_transformers),
    *(Part(name, 90, partial(run_model, name=name)) for name in engine.MODELS if name != MAIN),
    Part("vLLM", 240, others.against_vllm, alone=True),
]
