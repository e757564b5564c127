"""What a night may set of vLLM, checked before any work."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

from engine.backends.foreign.options import read_options, take_choice, take_switch

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
        ("scheduler_cls", "scheduling_policy", "max_model_len", "enable_prefix_caching", "async_scheduling"),
        "",
    ),
}
"""Fields of `EngineArgs` that a night sets itself -> the option that does; '' where none does."""


@dataclass(frozen=True)
class VllmOptions:
    """The options of the engine `vllm`, as they stand in a job folder too.

    Attributes
    ----------
    scheduling
        A key of `SCHEDULING`.
    pacing
        Whether the remaining work decides how many tokens a step takes, where we schedule.
    arguments
        Fields of `EngineArgs`.
    version
        What the answers depend on: distribution, its version, `arguments`; empty until it was looked at.
    on_cpu
        Whether it is a build for the CPU.
    """

    scheduling: str = "auto"
    pacing: bool = True
    arguments: dict[str, Any] = field(default_factory=dict)
    version: str = ""
    on_cpu: bool = False

    @classmethod
    def of_job(cls, options: dict[str, Any]) -> Self:
        """Read them from a job folder."""
        return cls(**options)


def parse_options(given: Sequence[str]) -> VllmOptions:
    """Read options as they were typed, KEY=VALUE; a value that is JSON is taken as such.

    Raises
    ------
    OptionError
        Naming the one that is wrong. Whether vLLM has a field of that name is seen when it is looked at.
    """
    values = read_options(given, TAKEN, ARGUMENTS)
    scheduling = take_choice(values, "scheduling", SCHEDULING)
    pacing = take_switch(values, "pacing", default=True)
    return VllmOptions(scheduling, pacing, values)
