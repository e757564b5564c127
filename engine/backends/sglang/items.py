"""What SGLang is asked, and its answers as messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from engine.backends.foreign.answers import REASONS, grammar_of, logprob_entry, stops_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.backends.foreign.reading import AnswerReader
    from engine.job.format import Job
    from engine.runtime.sample.settings import Sampling

SEEDS: Final = 2**64
"""Seeds of ours, from 0; SGLang has as many, half of them below 0."""


def sampling_fields(settings: Sampling, model_stops: tuple[int, ...]) -> dict[str, Any]:
    """Return the `sampling_params` of a request.

    Each field is given, so that no default applies. The model's own stop tokens go as those of the request:
    which they are is decided once, by us. A constraint goes as a grammar, whatever it was told as: so SGLang
    has it exactly as we do.

    Parameters
    ----------
    model_stops
        Ids of the tokens that end an answer of this model.
    """
    greedy = settings.temperature == 0
    seed = settings.seed % SEEDS
    grammar = grammar_of(settings)
    return {
        "n": 1,
        "max_new_tokens": settings.max_tokens,
        "min_new_tokens": 0,
        "temperature": settings.temperature,
        "top_p": 1.0 if greedy else settings.top_p,
        "top_k": -1 if greedy or not settings.top_k else settings.top_k,
        "min_p": 0.0 if greedy else settings.min_p,
        "logit_bias": {str(token): bias for token, bias in settings.logit_bias} or None,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "repetition_penalty": 1.0,
        "sampling_seed": seed - SEEDS if seed >= SEEDS // 2 else seed,
        "stop": list(settings.stop),
        "stop_token_ids": stops_of(settings, model_stops),
        # A constrained answer ends where its grammar does, also with us. Where SGLang ignores ends, it
        # sees that one step late, and puts one more token behind it that nothing constrains.
        "ignore_eos": settings.ignore_eos and grammar is None,
        "skip_special_tokens": True,
        # The text of a stop token stays, as with our own engine; stop strings are cut off by us.
        "no_stop_trim": True,
        **({} if grammar is None else {"ebnf": grammar}),
    }


def request_fields(job: Job, request: int, model_stops: tuple[int, ...], name: str) -> dict[str, Any]:
    """Return the arguments of `Engine.async_generate` for a request; `name` is what SGLang calls it."""
    settings = job.sampling[request]
    fields: dict[str, Any] = {
        "input_ids": job.tokens[job.offsets[request] : job.offsets[request + 1]].tolist(),
        "sampling_params": sampling_fields(settings, model_stops),
        "rid": name,
    }
    if settings.logprobs is not None:
        fields |= {"return_logprob": True, "top_logprobs_num": settings.logprobs}
    return fields


def answer_item(
    job: Job,
    request: int,
    output: dict[str, Any],
    times: tuple[float, float],
    text_of: Callable[[int], bytes],
    reader: AnswerReader,
) -> dict[str, Any] | str:
    """Return a finished sequence as it is sent (see `engine.job.format`), or why it is no answer.

    Parameters
    ----------
    output
        What SGLang returns: `text`, `output_ids`, `meta_info`.
    times
        Unix times of both ends.
    text_of
        The bytes of a token (`engine.runtime.sample.token_text.TokenText`).
    reader
        Of the answers of this job.
    """
    told, settings = output["meta_info"], job.sampling[request]
    reason = (told["finish_reason"] or {}).get("type")
    if reason not in REASONS:
        return f"SGLang ended it with {reason}"
    ids = [int(token) for token in output["output_ids"]]
    if not ids:
        return "SGLang ended it without a token"
    logprobs = None
    if settings.logprobs is not None:
        logprobs = _logprobs(ids, told, settings.logprobs, text_of)
        if logprobs is None:
            return "SGLang told the log probabilities of other tokens than those of the answer"
    answered = reader.read(request, ids, output["text"], reason)
    if isinstance(answered, str):
        return answered
    ids = answered.token_ids
    return {
        "request": request,
        "request_id": job.request_ids[request],
        "choice": job.choices[request],
        "token_ids": ids,
        "text": answered.text,
        "finish_reason": answered.finish_reason,
        "cached_tokens": told.get("cached_tokens"),
        "started_at": times[0],
        "finished_at": times[1],
        "logprobs": None if logprobs is None else logprobs[: len(ids)],
    }


def _logprobs(
    ids: list[int], told: dict[str, Any], most: int, text_of: Callable[[int], bytes]
) -> list[list[Any]] | None:
    """Return ``[token id, bytes, log probability, alternatives]`` of each token; None if they do not fit."""
    own: Sequence[Any] = told.get("output_token_logprobs") or ()
    top: Sequence[Any] = (told.get("output_top_logprobs") or ()) if most else [()] * len(own)
    # Each is (log probability, token, its text or None).
    if [int(one[1]) for one in own] != ids or len(top) != len(ids):
        return None
    return [
        [
            *logprob_entry(token, one[0], text_of),
            [logprob_entry(other[1], other[0], text_of) for other in (alternatives or ())[:most]],
        ]
        for token, one, alternatives in zip(ids, own, top, strict=True)
    ]
