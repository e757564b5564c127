"""vLLM with a model, as a job wants it."""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from engine.backends.foreign import sizes
from engine.backends.vllm.adapters import read_adapter, room_for
from engine.backends.vllm.items import CONSTRAINT
from engine.backends.vllm.scheduler import NEEDED, make_scheduler_class
from engine.cost.devices import check_kv_dtype, find_dtype, model_shape
from engine.errors import EngineError, RetryableError
from engine.models.config import load_config
from engine.runtime.settings import EngineSettings

if TYPE_CHECKING:
    from engine.arrays import Int32
    from engine.backends.vllm.adapters import Adapter
    from engine.backends.vllm.options import VllmOptions
    from engine.cost.step import ModelShape
    from engine.job.format import Job

CPU_BLOCK: Final = 32
GPU_BLOCK: Final = 16
"""Multiples of these are the block sizes that vLLM takes, on the CPU and on GPUs."""
SAID: Final = 300
"""Most letters of what vLLM says that are told."""
KV_DTYPES: Final = {"auto": "auto", "fp8": "fp8_e4m3"}


@dataclass(frozen=True)
class Loaded:
    """A vLLM that is ready.

    Attributes
    ----------
    engine, scheduler
        vLLM's `LLMEngine`, and the scheduler inside of it.
    hooked
        Whether that is ours (`engine.backends.vllm.scheduler`).
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
    adapters
        Identity of each adapter -> vLLM's `LoRARequest`.
    """

    engine: Any
    scheduler: Any
    hooked: bool
    max_new: Int32
    settings: EngineSettings
    shape: ModelShape
    model_stops: tuple[int, ...]
    vocab_size: int
    adapters: dict[str, Any]

    @property
    def kv_tokens(self) -> int:
        """KV memory in tokens."""
        return self.settings.kv_tokens

    @property
    def block_size(self) -> int:
        """Tokens of a block."""
        return self.settings.page_size

    def add(self, name: str, tokens: list[int], fields: dict[str, Any], adapter: str | None = None) -> None:
        """Give vLLM a request.

        Parameters
        ----------
        fields
            What `engine.backends.vllm.items.sampling_fields` returns.
        adapter
            Identity of the adapter that answers; None: the model itself.

        Raises
        ------
        ValueError
            If vLLM does not take it.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        given = dict(fields)
        grammar = given.pop(CONSTRAINT, None)
        if grammar is not None:
            given["structured_outputs"] = StructuredOutputsParams(grammar=grammar)
        lora = None if adapter is None else self.adapters[adapter]
        prompt = {"prompt_token_ids": tokens}
        try:
            params = SamplingParams(**given, output_kind=RequestOutputKind.FINAL_ONLY)
            # By keyword: new arguments have come in the middle.
            self.engine.add_request(request_id=name, prompt=prompt, params=params, lora_request=lora)
        except _refusals() as error:
            raise ValueError("vLLM does not take the request") from error


def load(job: Job, options: VllmOptions, place: str) -> Loaded:
    """Load vLLM and the job's model.

    Parameters
    ----------
    place
        Where it computes, as `engine.cost.devices.find_device` names it.

    Raises
    ------
    CapacityError
        If the KV memory or the context length cannot hold some request by itself.
    EngineError
        If vLLM does not take one of its options, or does not start.
    """
    asked = job.settings
    config = load_config(Path(asked.model))
    dtype, kv_dtype = find_dtype(asked.dtype, place), check_kv_dtype(asked.kv_dtype, place)
    shape = model_shape(config, dtype, kv_dtype)
    max_new = sizes.most_tokens(job, config.max_positions)
    least = CPU_BLOCK if place == "cpu" else GPU_BLOCK
    block = -(-asked.page_size // least) * least
    lengths = (np.diff(job.offsets) + max_new).astype(np.int64)
    kv_tokens = sizes.kv_tokens(job, lengths, block, shape, place)
    base, queue = _bases(place)
    hooked = all(hasattr(base, name) for name in NEEDED) and queue is not None
    budget = max(asked.token_budget, asked.max_sequences)
    constrained = any(settings.constraint is not None for settings in job.sampling)
    arguments: dict[str, Any] = {
        "model": asked.model,
        "dtype": dtype,
        "kv_cache_dtype": KV_DTYPES[kv_dtype],
        "block_size": block,
        "max_num_batched_tokens": budget,
        "max_num_seqs": asked.max_sequences,
        "max_model_len": int(lengths.max(initial=1)),
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        # One block stands for none and is never used.
        "num_gpu_blocks_override": None if kv_tokens is None else kv_tokens // block + 1,
        "generation_config": "vllm",
        **_cpu_memory(kv_tokens, block, shape, place),
        **({"scheduler_cls": make_scheduler_class(base, queue)} if hooked else {}),
        **(_constraints() if constrained else {}),
        **room_for(options.adapters, on_cpu=place == "cpu"),
        **options.arguments,
    }
    engine = _engine(arguments)
    adapters = {one.identity: _loaded(engine, one, i) for i, one in enumerate(options.adapters, 1)}
    scheduler = engine.engine_core.engine_core.scheduler if hooked else None
    if kv_tokens is None:
        kv_tokens = (int(engine.vllm_config.cache_config.num_gpu_blocks) - 1) * block
    settings = EngineSettings(kv_tokens, block, budget, asked.max_sequences, pacing=options.pacing)
    stops = tuple(config.stop_token_ids)
    vocab = config.vocab_size
    return Loaded(engine, scheduler, hooked, max_new, settings, shape, stops, vocab, adapters)


def _loaded(engine: Any, adapter: Adapter, number: int) -> Any:  # noqa: ANN401 - vLLM's
    """Load an adapter, so that one that does not fit the model ends the night before it begins."""
    from vllm.lora.request import LoRARequest

    if read_adapter(adapter.name, adapter.folder).digest != adapter.digest:
        raise EngineError(f"--engine-option adapter: the files of {adapter.name} have changed meanwhile")
    request = LoRARequest(lora_name=adapter.identity, lora_int_id=number, lora_path=adapter.folder)
    try:
        engine.add_lora(request)
    except Exception as error:
        # It has seen no prompt yet, so what it says may be shown.
        said = " ".join(str(error).split())[:SAID]
        raise EngineError(f"--engine-option adapter: vLLM does not take {adapter.name}: {said}") from error
    return request


def _cpu_memory(kv_tokens: int | None, block: int, shape: ModelShape, place: str) -> dict[str, int]:
    """Return the argument without which vLLM would want most of the machine's memory."""
    if place != "cpu" or kv_tokens is None:
        return {}
    return {"kv_cache_memory_bytes": (kv_tokens + block) * shape.kv_bytes_per_token}


def _refusals() -> tuple[type[Exception], ...]:
    """Return what vLLM raises of a request that it does not take; its own class is no ValueError."""
    try:
        from vllm.exceptions import VLLMClientError
    except ImportError:
        return (ValueError,)
    return (ValueError, VLLMClientError)


def _constraints() -> dict[str, Any]:
    """Return the argument that takes the library which we make constraints with: so grammars are ours."""
    from vllm.config import StructuredOutputsConfig

    return {"structured_outputs_config": StructuredOutputsConfig(backend="guidance")}


def _bases(place: str) -> tuple[Any, Any]:
    """Return the classes of vLLM's that ours are made from; the queue is None where there is none."""
    if place == "cpu":
        from vllm.v1.core.sched.scheduler import Scheduler as Base
    else:
        # A class that does not launch ahead would switch that off.
        from vllm.v1.core.sched.async_scheduler import AsyncScheduler as Base
    try:
        from vllm.v1.core.sched.request_queue import FCFSRequestQueue
    except ImportError:
        return Base, None
    return Base, FCFSRequestQueue


def _engine(arguments: dict[str, Any]) -> Any:  # noqa: ANN401 - vLLM's `LLMEngine`
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    known = inspect.signature(EngineArgs).parameters
    unknown = [name for name in arguments if name not in known]
    if unknown:
        raise EngineError(f"--engine-option {unknown[0]}: this vLLM has no such argument")
    _bear_being_looked_at()
    try:
        return LLMEngine.from_engine_args(EngineArgs(**arguments))
    except Exception as error:
        # It has seen no prompt yet, so what it says may be shown.
        said = " ".join(str(error).split())[:SAID]
        raise RetryableError(f"vLLM does not start: {type(error).__name__}: {said}") from error


def _bear_being_looked_at() -> None:
    """Let vLLM look at ``__dict__`` of everything that is in a loaded module, as it does on the CPU.

    llvmlite's library makes up a function for any name that it is asked for, this one included, and vLLM
    takes that for a dict.
    """
    module = sys.modules.get("llvmlite.binding.ffi")
    table = getattr(getattr(module, "lib", None), "_fntab", None)
    if isinstance(table, dict):
        table["__dict__"] = {}
