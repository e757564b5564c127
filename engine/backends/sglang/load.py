"""SGLang with a model, as a job wants it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from engine.backends.foreign import sizes
from engine.cost.devices import check_kv_dtype, find_dtype, model_shape
from engine.errors import EngineError, RetryableError
from engine.models.config import load_config
from engine.runtime.settings import EngineSettings

if TYPE_CHECKING:
    from engine.arrays import Int32
    from engine.backends.sglang.options import SglangOptions
    from engine.cost.step import ModelShape
    from engine.job.format import Job, JobSettings

KV_DTYPES: Final = {"auto": "auto", "fp8": "fp8_e4m3"}
SAID: Final = 300
"""Most letters of what SGLang says that are told."""
ON_CPU: Final = {
    "attention_backend": "torch_native",
    "sampling_backend": "pytorch",
    "disable_overlap_schedule": True,
    "disable_cuda_graph": True,
}
"""What computes without kernels of its own, and step after step; options of a night may ask for others."""
SPARE: Final = 6
"""So many tokens before the end of the context, SGLang takes no longer prompt."""


@dataclass(frozen=True)
class Loaded:
    """An SGLang that is ready.

    Attributes
    ----------
    engine
        SGLang's `Engine`.
    max_new
        int32 [N]: most tokens of each answer, within the context.
    settings
        Sizes, as it has them.
    shape
        Of the model, for the cost model.
    model_stops
        Ids of the tokens that end an answer of this model.
    vocab_size
        Of the model: columns of its logits.
    """

    engine: Any
    max_new: Int32
    settings: EngineSettings
    shape: ModelShape
    model_stops: tuple[int, ...]
    vocab_size: int


def load(job: Job, options: SglangOptions, place: str) -> Loaded:
    """Load SGLang and the job's model.

    Parameters
    ----------
    place
        Where it computes, as `engine.cost.devices.find_device` names it.

    Raises
    ------
    CapacityError
        If the KV memory or the context length cannot hold some request by itself.
    EngineError
        If SGLang does not take one of its options, or does not start.
    """
    asked = job.settings
    config = load_config(Path(asked.model))
    dtype, kv_dtype = find_dtype(asked.dtype, place), check_kv_dtype(asked.kv_dtype, place)
    shape = model_shape(config, dtype, kv_dtype)
    max_new = sizes.most_tokens(job, config.max_positions)
    page = asked.page_size
    # It keeps some tokens free beside the longest request.
    lengths = (np.diff(job.offsets) + max_new + SPARE).astype(np.int64)
    kv_tokens = sizes.kv_tokens(job, lengths, page, shape, place)
    # Whole pages are computed at a time.
    budget = -(-max(asked.token_budget, asked.max_sequences) // page) * page
    own = arguments_of(asked, place, dtype, KV_DTYPES[kv_dtype], kv_tokens, budget)
    if any(settings.constraint is not None for settings in job.sampling):
        # The library that we make constraints with, so that its grammars are ours.
        own["grammar_backend"] = "llguidance"
    engine = _engine({**own, **options.arguments})
    if kv_tokens is None:
        kv_tokens = int(engine.get_server_info()["max_total_num_tokens"]) // page * page
    settings = EngineSettings(kv_tokens, page, budget, asked.max_sequences, pacing=options.pacing)
    return Loaded(engine, max_new, settings, shape, tuple(config.stop_token_ids), config.vocab_size)


def arguments_of(
    asked: JobSettings, place: str, dtype: str, kv_dtype: str, kv_tokens: int | None, budget: int
) -> dict[str, Any]:
    """Return what a night sets of SGLang's `ServerArgs`.

    Parameters
    ----------
    dtype, kv_dtype
        As SGLang names them.
    kv_tokens
        KV memory; None lets it take what the device has.
    budget
        Most tokens of a step, in whole pages.
    """
    kind, _, index = place.partition(":")
    return {
        "model_path": asked.model,
        "dtype": dtype,
        "kv_cache_dtype": kv_dtype,
        "device": kind,
        "base_gpu_id": int(index or 0),
        "page_size": asked.page_size,
        "max_total_tokens": kv_tokens,
        "max_running_requests": asked.max_sequences,
        "chunked_prefill_size": budget,
        "max_prefill_tokens": budget,
        # Else a step is either prefill or decode, and an order gains nothing inside of it.
        "enable_mixed_chunk": True,
        "schedule_policy": "fcfs",
        # Prompts are in no log.
        "log_requests": False,
        "log_level": "error",
        **(ON_CPU if kind == "cpu" else {}),
    }


def _engine(arguments: dict[str, Any]) -> Any:  # noqa: ANN401 - SGLang's `Engine`
    from sglang.srt.entrypoints.engine import Engine
    from sglang.srt.server_args import ServerArgs

    known = inspect.signature(ServerArgs).parameters
    unknown = [name for name in arguments if name not in known]
    if unknown:
        raise EngineError(f"--engine-option {unknown[0]}: this SGLang has no such argument")
    try:
        return Engine(**arguments)
    except Exception as error:
        # It has seen no prompt yet, so what it says may be shown.
        said = " ".join(str(error).split())[:SAID]
        raise RetryableError(f"SGLang does not start: {type(error).__name__}: {said}") from error
