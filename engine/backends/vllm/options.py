"""What a night may set of vLLM, checked before any work."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Self

from engine.backends.foreign.options import ForeignOptions
from engine.backends.vllm.adapters import Adapter, split_adapters

if TYPE_CHECKING:
    from collections.abc import Sequence

ARGUMENTS: Final = "vLLM's EngineArgs"
SCHEDULING: Final = {
    "auto": "blended orders are scheduled by us, the others by vLLM",
    "ours": "we decide before every step who runs and how many tokens it takes",
    "simulated": "vLLM decides; it is fed in the order in which we would have admitted",
    "plan": "vLLM decides; it is fed in the order of the plan",
}
"""Value of the option `scheduling` -> what it does; the first is the default."""
TAKEN: Final = {
    **dict.fromkeys(("model", "tokenizer"), "--model"),
    "dtype": "--dtype",
    "kv_cache_dtype": "--kv-dtype",
    "block_size": "--page-size",
    **dict.fromkeys(("num_gpu_blocks_override", "kv_cache_memory_bytes"), "--kv-tokens"),
    "max_num_batched_tokens": "--token-budget",
    "max_num_seqs": "--max-sequences",
    **dict.fromkeys(
        (
            *("scheduler_cls", "scheduling_policy", "max_model_len", "enable_prefix_caching"),
            # With a parser of thoughts, constraints would begin behind these.
            *("enable_lora", "max_loras", "max_lora_rank"),
            *("async_scheduling", "structured_outputs_config", "reasoning_parser", "reasoning_parser_plugin"),
        ),
        "",
    ),
}
"""Fields of `EngineArgs` that a night sets itself -> the option that does; '' where none does."""


@dataclass(frozen=True)
class VllmOptions(ForeignOptions):
    """The options of the engine `vllm`: `arguments` are fields of `EngineArgs`.

    Attributes
    ----------
    folders
        Adapters as they were typed, name -> folder.
    adapters
        The same, once they were looked at.
    """

    folders: dict[str, str] = field(default_factory=dict)
    adapters: tuple[Adapter, ...] = ()

    @classmethod
    def of_job(cls, options: dict[str, Any]) -> Self:
        """Read them from a job folder."""
        adapters = tuple(Adapter(**one) for one in options.get("adapters", ()))
        return cls(**{**options, "adapters": adapters})


def parse_options(given: Sequence[str]) -> VllmOptions:
    """Read options as they were typed, KEY=VALUE; a value that is JSON is taken as such.

    Raises
    ------
    OptionError
        Naming the one that is wrong. Whether vLLM has a field of that name is seen when it is looked at.
    """
    folders, others = split_adapters(given)
    return replace(VllmOptions.parse(others, SCHEDULING, TAKEN, ARGUMENTS), folders=folders)
