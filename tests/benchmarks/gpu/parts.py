"""The parts of the GPU benchmark in the order in which they run, with the most time that each may take."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.benchmarks import gpu_attention, gpu_check, gpu_engine, gpu_ops, gpu_others
from tests.benchmarks.gpu_worker import Part

if TYPE_CHECKING:
    from tests.benchmarks.gpu_ops import Bench, Row

MAIN = next(iter(gpu_engine.MODELS))
"""The goals are those of this shape; the profile of the cost model as well."""


def engine(bench: Bench, figures: dict[str, Any], name: str) -> tuple[dict[str, Any], list[Row]]:
    """Run one model; every figure is kept under its name, those of the first one also by themselves."""
    found, rows, profile = gpu_engine.engine(bench, figures, name)
    found["profile"] = asdict(profile)
    return {**(found if name == MAIN else {}), "models": {name: found}}, rows


PARTS = [
    Part("ceilings", 45, gpu_ops.ceilings),
    Part("kernels", 60, gpu_ops.operations),
    Part("attention", 75, gpu_attention.attention),
    Part(MAIN, 170, partial(engine, name=MAIN)),
    Part("answers", 45, gpu_check.answers),
    Part("transformers", 90, gpu_others.against_transformers),
    *(Part(name, 90, partial(engine, name=name)) for name in gpu_engine.MODELS if name != MAIN),
    Part("vLLM", 240, gpu_others.against_vllm, alone=True),
]
