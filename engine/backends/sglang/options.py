"""What a night may set of SGLang, checked before any work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from engine.backends.foreign.options import ForeignOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

ARGUMENTS: Final = "SGLang's ServerArgs"
SCHEDULING: Final = {
    "auto": "blended orders as simulated, the others as in the plan",
    "simulated": "it is fed in the order in which we would have admitted",
    "plan": "it is fed in the order of the plan",
}
"""Value of the option `scheduling` -> what it does; the first is the default."""
SEEDED: Final = "enable_deterministic_inference"
"""The argument without which SGLang takes seeds and does nothing about them."""
TAKEN: Final = {
    **dict.fromkeys(("model_path", "tokenizer_path"), "--model"),
    "dtype": "--dtype",
    "kv_cache_dtype": "--kv-dtype",
    **dict.fromkeys(("device", "base_gpu_id"), "--device"),
    "page_size": "--page-size",
    "max_total_tokens": "--kv-tokens",
    **dict.fromkeys(("chunked_prefill_size", "max_prefill_tokens"), "--token-budget"),
    "max_running_requests": "--max-sequences",
    **dict.fromkeys(
        (
            *("enable_mixed_chunk", "schedule_policy", "disable_radix_cache", "enable_priority_scheduling"),
            *("max_queued_requests", "allow_auto_truncate", "context_length", "skip_tokenizer_init"),
            *("preferred_sampling_params", "log_requests", "stream_interval", "tokenizer_worker_num"),
            *("grammar_backend", "reasoning_parser"),
        ),
        "",
    ),
}
"""Fields of `ServerArgs` that a night sets itself, or that would change what answers are -> the option that
does; '' where none does."""


class SglangOptions(ForeignOptions):
    """The options of the engine `sglang`: `arguments` are fields of `ServerArgs`."""

    @property
    def seeded(self) -> bool:
        """Whether seeds are honoured."""
        return self.arguments.get(SEEDED) is True


def parse_options(given: Sequence[str]) -> SglangOptions:
    """Read options as they were typed, KEY=VALUE; a value that is JSON is taken as such.

    Raises
    ------
    OptionError
        Naming the one that is wrong. Whether SGLang has an argument of that name is seen when it is looked
        at.
    """
    return SglangOptions.parse(given, SCHEDULING, TAKEN, ARGUMENTS)
