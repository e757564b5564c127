"""Lines of request logs for benchmarks, of OpenAI batches and as tools write them, cheap to make."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPEATED: Final = 0.01
"""Share of lines that repeat an earlier one: they get rows of their own."""
_START: Final = 1_790_000_000
_SYSTEM: Final = json.dumps({"role": "system", "content": 'Sort the tickets.\nAnswer with "one word".'})
_BATCH: Final = (
    '{"custom_id": "r-%(number)d", "method": "POST", "url": "/v1/chat/completions", '
    '"body": {"model": "m", "messages": [%(turns)s], "max_tokens": %(limit)d, "temperature": 0, '
    '"metadata": {"workload": "tickets"}}}\n'
)
# The standard logging payload: the prompt, what came back, and much about the proxy.
_LITELLM: Final = (
    '{"id": "chatcmpl-%(number)d", "trace_id": "t-%(number)d", "call_type": "acompletion", '
    '"cache_hit": null, "stream": false, "status": "success", "custom_llm_provider": "openai", '
    '"saved_cache_cost": 0.0, "startTime": %(start).6f, "endTime": %(end).6f, '
    '"completionStartTime": %(end).6f, "response_time": 1.25, "model": "gpt-4o-mini", '
    '"metadata": {"user_api_key_hash": null, "user_api_key_alias": null, '
    '"user_api_key_team_id": "team-%(team)d", "user_api_key_team_alias": "search", '
    '"user_api_key_org_id": null, "user_api_key_user_id": null, "spend_logs_metadata": null, '
    '"requester_ip_address": null, "requester_metadata": null, "usage_object": {"completion_tokens": 42, '
    '"prompt_tokens": %(tokens)d, "total_tokens": %(tokens)d}}, "cache_key": null, '
    '"response_cost": 0.000123, "total_tokens": %(tokens)d, "prompt_tokens": %(tokens)d, '
    '"completion_tokens": 42, "request_tags": ["night"], "end_user": "", "api_base": null, '
    '"model_group": "small", "model_id": "e5", "messages": [%(turns)s], '
    '"response": {"id": "chatcmpl-%(number)d", "created": %(second)d, "model": "gpt-4o-mini", '
    '"object": "chat.completion", "system_fingerprint": null, "choices": [{"finish_reason": "stop", '
    '"index": 0, "message": {"content": "%(answer)s", "role": "assistant", "tool_calls": null, '
    '"function_call": null}}], "usage": {"completion_tokens": 42, "prompt_tokens": %(tokens)d, '
    '"total_tokens": %(tokens)d}}, "model_parameters": {"temperature": 0, "max_tokens": %(limit)d}, '
    '"hidden_params": {"model_id": null, "cache_key": null, "api_base": null, "response_cost": null, '
    '"additional_headers": null, "batch_models": null}, "error_str": null}\n'
)
_LANGFUSE: Final = (
    '{"id": "o-%(number)d", "trace_id": "t-%(number)d", "type": "GENERATION", "name": "tickets", '
    '"start_time": "%(clock)s", "end_time": "%(clock)s", "completion_start_time": null, '
    '"project_id": "p", "environment": "default", "level": "DEFAULT", "status_message": null, '
    '"parent_observation_id": null, "version": null, "provided_model_name": "gpt-4o-mini", '
    '"model_parameters": {"temperature": 0, "max_tokens": %(limit)d}, "input": [%(turns)s], '
    '"output": {"role": "assistant", "content": "%(answer)s"}, '
    '"metadata": {"resourceAttributes": {"service.name": "tickets"}, "scope": {"name": "langfuse-sdk", '
    '"version": "3.0.0"}}, "usage_details": {"input": %(tokens)d, "output": 42, "total": %(total)d}, '
    '"cost_details": {"input": 0.0001, "output": 0.00002, "total": 0.00012}, "latency": 1.25, '
    '"prompt_id": null, "created_at": "%(clock)s", "updated_at": "%(clock)s"}\n'
)
FORMATS: Final = {"openai-batch": _BATCH, "litellm": _LITELLM, "langfuse": _LANGFUSE}
_ANSWER: Final = 200
"""Characters of a logged answer."""


def text_pool(size: int) -> str:
    """Return words, quotes, line ends and some letters beyond ASCII."""
    rng = random.Random(7)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(8000)]
    words += ['"quoted"', "line\nend", "Grüße", "naïve", "tab\tstop"] * 20
    out: list[str] = []
    have = 0
    while have < size:
        chosen = rng.choices(words, k=1000)
        out += chosen
        have += sum(map(len, chosen)) + 1000
    return " ".join(out)


def lines(total: int, mean: int, form: str = "openai-batch") -> Iterator[bytes]:
    """Yield lines of `mean` bytes on average, until they are `total` bytes; `form` is one of `FORMATS`."""
    rng = random.Random(total + mean)
    # JSON text is cut from one pool, so that making the log costs less than reading it.
    pool = json.dumps(text_pool(4 << 20), ensure_ascii=False)[1:-1].replace("\\", " ").replace('"', " ")
    make = _maker(FORMATS[form], rng, pool)
    # What is around the prompt; numbers take a few bytes.
    fixed = len(make(0, "")) + 10
    made = number = 0
    last = b""
    while made < total:
        if last and rng.random() < REPEATED:
            line = last
        else:
            size = max(8, int(rng.uniform(0.5, 1.5) * (mean - fixed)))
            start = rng.randrange(len(pool) - size)
            line = make(number, pool[start : start + size])
            number += 1
        last = line
        made += len(line)
        yield line


def _maker(form: str, rng: random.Random, pool: str) -> Callable[[int, str], bytes]:
    def line(number: int, text: str) -> bytes:
        second = _START + number // 50
        at, tokens = rng.randrange(len(pool) - _ANSWER), len(text) // 4
        hour, minute = divmod(number // 3000 % 1440, 60)
        fields = {
            "number": number,
            "turns": _SYSTEM + ', {"role": "user", "content": "\\"' + text + '"}',
            "limit": rng.choice((64, 128, 256)),
            "start": second + 0.123456,
            "end": second + 1.654321,
            "second": second,
            "clock": f"2026-09-21T{hour:02d}:{minute:02d}:{number // 50 % 60:02d}.{number % 1000:03d}Z",
            "team": number % 7,
            "tokens": tokens,
            "total": tokens + 42,
            "answer": pool[at : at + _ANSWER],
        }
        return (form % fields).encode()

    return line
