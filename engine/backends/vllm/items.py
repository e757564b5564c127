"""What vLLM is asked, and its answers as messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from engine.backends.foreign.answers import grammar_of, logprob_entry, stops_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.backends.foreign.reading import Answered
    from engine.job.format import Job
    from engine.runtime.sample.settings import Sampling

SEEDS: Final = 2**63
"""Seeds that vLLM takes, from 0."""
CONSTRAINT: Final = "grammar"
"""Not a field of `SamplingParams`, but of its field `structured_outputs`."""


def sampling_fields(
    settings: Sampling, model_stops: tuple[int, ...], *, seeded: bool, end: int | None = None
) -> dict[str, Any]:
    """Return the arguments of vLLM's `SamplingParams` for a request.

    Each field is given, so that no default of the model's folder applies. The model's own stop tokens go as
    those of the request: which they are is decided once, by us. A constraint is a grammar under `CONSTRAINT`,
    whatever it was told as: so vLLM has it exactly as we do.

    Parameters
    ----------
    model_stops
        Ids of the tokens that end an answer of this model.
    seeded
        Whether seeds are given.
    end
        Id of the token that vLLM ends constrained answers with: its tokenizer's.
    """
    greedy = settings.temperature == 0
    stops, grammar = stops_of(settings, model_stops), grammar_of(settings)
    if grammar is not None and end is not None:
        # Without its end such an answer would go on, and be free from there on.
        stops = sorted({*stops, end})
    return {
        "n": 1,
        "max_tokens": settings.max_tokens,
        "temperature": settings.temperature,
        "top_p": 1.0 if greedy else settings.top_p,
        "top_k": 0 if greedy else settings.top_k,
        "min_p": 0.0 if greedy else settings.min_p,
        # What is left of the context may be less.
        "min_tokens": min(settings.min_tokens, settings.max_tokens),
        "logit_bias": dict(settings.logit_bias) or None,
        "seed": settings.seed % SEEDS if seeded and not greedy else None,
        "stop": list(settings.stop),
        "stop_token_ids": stops,
        "ignore_eos": True,
        "logprobs": settings.logprobs,
        "presence_penalty": settings.presence_penalty,
        "frequency_penalty": settings.frequency_penalty,
        "repetition_penalty": settings.repetition_penalty,
        "skip_special_tokens": True,
        # The text of a stop token stays, as with our own engine; stop strings are cut off by us.
        "include_stop_str_in_output": True,
        **({} if grammar is None else {CONSTRAINT: grammar}),
    }


def answer_item(
    job: Job,
    request: int,
    output: Any,  # noqa: ANN401 - vLLM's
    cached: int | None,
    times: tuple[float, float],
    text_of: Callable[[int], bytes],
    answered: Answered,
) -> dict[str, Any]:
    """Return a finished sequence as it is sent; see `engine.job.format`.

    Parameters
    ----------
    output
        vLLM's `CompletionOutput`.
    cached
        Prompt tokens that came from the cache at the first admission.
    times
        Unix times of both ends.
    text_of
        The bytes of a token (`engine.runtime.sample.token_text.TokenText`).
    answered
        The answer as it was read.
    """
    ids = answered.token_ids
    logprobs = None
    if output.logprobs is not None:
        most = job.sampling[request].logprobs or 0
        logprobs = [
            _token(token, of, most, text_of)
            for token, of in zip(ids, output.logprobs[: len(ids)], strict=True)
        ]
    return {
        "request": request,
        "request_id": job.request_ids[request],
        "choice": job.choices[request],
        "token_ids": ids,
        "text": answered.text,
        "finish_reason": answered.finish_reason,
        "cached_tokens": cached,
        "started_at": times[0],
        "finished_at": times[1],
        "logprobs": logprobs,
    }


def _token(token: int, found: dict[int, Any], most: int, text_of: Callable[[int], bytes]) -> list[Any]:
    """Return ``[token id, bytes, log probability, alternatives]`` from vLLM's dict of a place."""
    ranked = sorted((one.rank, i) for i, one in found.items() if one.rank is not None and one.rank <= most)
    top = [logprob_entry(i, found[i].logprob, text_of) for _, i in ranked]
    return [*logprob_entry(token, found[token].logprob, text_of), top]
