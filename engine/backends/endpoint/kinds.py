"""Kinds of servers: which fields of a request each of them honours, by what it was seen to do.

A kind is told by what a server says of its models (`owned_by`). What is not known to be honoured is not
promised: servers take many fields without a word and do nothing about them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from engine.runtime.sample.settings import CHANGING

OTHER: Final = "openai-compatible"


@dataclass(frozen=True)
class Kind:
    """A kind of server.

    Attributes
    ----------
    name
        As it goes into the version of the engine.
    owned_by
        What its list of models says; '' is any other server.
    version_path, version_field
        Where it tells its version, from its root; '' if it does not.
    honours
        Fields of `engine.runtime.sample.settings.Sampling` that it honours beside `max_tokens`,
        `temperature`, `top_p` and `stop`.
    neutral
        Fields that are sent with every request so that no default of the server's own applies.
    seeds
        How many seeds it takes, from 0.
    exact_hits
        Whether it counts the prompt tokens from its cache to the token.
    waiting
        Name of the metric (``/metrics`` at its root) that counts the requests in its queue; '' without one.
    """

    name: str
    owned_by: str = ""
    version_path: str = ""
    version_field: str = ""
    honours: frozenset[str] = frozenset()
    neutral: tuple[tuple[str, Any], ...] = ()
    seeds: int = 2**63
    exact_hits: bool = False
    waiting: str = ""


_OFF: Final = (("min_p", 0.0), ("frequency_penalty", 0.0), ("presence_penalty", 0.0))

KINDS: Final = {
    kind.name: kind
    for kind in (
        Kind(
            "vllm",
            "vllm",
            "/version",
            "version",
            frozenset(
                {
                    *("top_k", "seed", "stop_token_ids", "ignore_eos", *CHANGING),
                    *("logit_bias", "include_stop_str_in_output", "chat_template_kwargs"),
                }
            ),
            # Without these the model's generation_config.json decides.
            (*_OFF, ("repetition_penalty", 1.0), ("return_token_ids", True)),
            waiting="vllm:num_requests_waiting",
        ),
        Kind(
            "llama.cpp",
            "llamacpp",
            "/props",
            "build_info",
            # Its penalties look at the last 64 tokens alone.
            frozenset({"top_k", "seed", "ignore_eos", "min_p"}),
            (*_OFF, ("repeat_penalty", 1.0), ("typical_p", 1.0), ("cache_prompt", True)),
            # The largest number asks for a random seed.
            seeds=2**32 - 1,
            exact_hits=True,
            # Told where it was started with --metrics.
            waiting="llamacpp:requests_deferred",
        ),
        Kind(OTHER, neutral=_OFF),
    )
}
"""Name -> kind."""


def kind_of(owned_by: object) -> Kind:
    """Return the kind of a server by what its list of models says."""
    return next(
        (kind for kind in KINDS.values() if kind.owned_by and kind.owned_by == owned_by), KINDS[OTHER]
    )
