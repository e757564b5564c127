"""LiteLLM: its S3 logs (one object per call, the standard logging payload as JSON), and its spend logs.

Times are seconds since 1970, or ISO texts in spend logs. `messages` holds the chat; the prompt of a text
completion is recorded as one user message. Calls of `/v1/responses` and of Anthropic's messages have their
system text and settings in `model_parameters`. In spend logs the body of the call is in
`proxy_server_request`. Where the proxy masks or cuts the prompt, the lengths remain. Of `metadata` only team
and workload are used: it also holds key digests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tasks.base.times import elapsed
from tasks.extract.forms import anthropic, any_form, responses
from tasks.extract.forms.contract import NOTHING, Formed
from tasks.extract.readers.contract import (
    Filtered,
    Logged,
    Outline,
    Own,
    Reader,
    between,
    count,
    event_time,
    kind_name,
    label,
    mapping,
    missing,
    optional_time,
    text_id,
)
from tasks.extract.readers.recorded import recorded_settings
from tasks.extract.readers.stand_ins import has_mark, is_lost, lengths_only, parsed_text
from tasks.extract.readers.tools import with_tools

if TYPE_CHECKING:
    from collections.abc import Mapping

CHAT: Final = frozenset({"completion", "acompletion"})
TEXT: Final = frozenset({"text_completion", "atext_completion"})
RESPONSES: Final = frozenset({"responses", "aresponses"})
ANTHROPIC: Final = frozenset({"anthropic_messages", "aanthropic_messages"})
_REST: Final = ("call_type", "status", "end_user", "request_tags", "cache_hit")
_TEAMS: Final = ("user_api_key_team_alias", "user_api_key_team_id")
_OF_METADATA: Final = (*_TEAMS, "workload")
_DECIDES: Final = (*_REST, "model", "team_id", "messages", "model_parameters", "proxy_server_request")
"""What decides on a request, of metadata and of the record, beside what each has of its own."""
_OWN: Final = ("id", "request_id", "startTime", "endTime", "status", "completion_tokens")
_OF_PROXY: Final = frozenset(
    {
        "cache",
        "fallbacks",
        "litellm_metadata",
        "litellm_session_id",
        "litellm_trace_id",
        "num_retries",
        "tags",
    }
)
"""Fields of a body that steer the proxy and not the model."""


_OF_RESPONSES: Final = frozenset({"instructions", "include", "max_output_tokens"})


def matches(record: Mapping[str, Any]) -> bool:
    """Tell a payload by its kind of call, its times and its messages; a spend log has the proxy's, too."""
    return {"call_type", "startTime"} <= record.keys() and bool(
        {"messages", "proxy_server_request"} & record.keys()
    )


def read(record: Mapping[str, Any]) -> Logged | Filtered:
    """Make a call of a text model a request; embeddings, images and the like are none."""
    kind = str(record.get("call_type"))
    if kind not in CHAT | TEXT | RESPONSES | ANTHROPIC:
        return Filtered(f"call of type {kind_name(kind)}")
    custom_id, start, answered, latency = _own(record)
    metadata = mapping(record.get("metadata"))
    teams = (*(metadata.get(name) for name in _TEAMS), record.get("team_id"))
    logged = Logged(
        endpoint="completions" if kind in TEXT else "chat",
        custom_id=custom_id,
        rest={name: record[name] for name in _REST if record.get(name) is not None},
        requested_model=label(record.get("model")),
        workload=label(metadata.get("workload")),
        tenant=next(filter(None, map(label, teams)), None),
        event_time=start,
        output_tokens=answered,
        latency_s=latency,
    )
    made = _formed(kind, record)
    if made is None:
        if record.get("messages") is None and record.get("prompt_tokens") is None:
            raise missing("messages")
        logged.shape = lengths_only(record.get("prompt_tokens"), "prompt_tokens", "messages")
        return logged
    body = with_tools(made.body, mapping(record.get("model_parameters")))
    logged.body = {**body, "model": record.get("model") or body.get("model")}
    logged.endpoint = made.endpoint
    logged.rest = {**made.rest, **logged.rest}
    return logged


def _key(record: Mapping[str, Any]) -> list[Any]:
    """Tell a call in short."""
    metadata = mapping(record.get("metadata"))
    return [*map(record.get, _DECIDES), *map(metadata.get, _OF_METADATA)]


def _own(record: Mapping[str, Any]) -> Own:
    """Return a call's name, its time, and length and latency of its answer."""
    start = event_time(record, "startTime")
    name = text_id(record, "id") or text_id(record, "request_id")
    if record.get("status") == "failure":
        return name, start, None, None
    took = elapsed(record.get("startTime"), record.get("endTime"))
    if took is None:
        took = between(start, optional_time(record, "endTime"))
    return name, start, count(record.get("completion_tokens")), took


def _formed(kind: object, record: Mapping[str, Any]) -> Formed | None:
    """Return the body of a call; None if the log does not hold its prompt."""
    given = record.get("messages")
    parsed = parsed_text(given)
    given = parsed if isinstance(parsed, list) else given
    parameters = mapping(record.get("model_parameters"))
    if not is_lost(given) and not has_mark(parameters):
        return _payload(kind, given, parameters)
    sent = mapping(record.get("proxy_server_request"))
    sent = mapping(sent.get("body")) or sent
    body = {name: value for name, value in sent.items() if name not in _OF_PROXY}
    if has_mark(body):
        return None
    made = _of_kind(kind, body)
    lost = made is None or is_lost(made.body.get("prompt" if made.endpoint == "completions" else "messages"))
    return None if lost else made


def _of_kind(kind: object, body: dict[str, Any]) -> Formed | None:
    if kind in RESPONSES:
        return responses.formed(body)
    return anthropic.formed(body) if kind in ANTHROPIC else any_form.formed(body)


def _payload(kind: object, content: object, given: Mapping[str, Any]) -> Formed:
    """Return the body that a payload's messages and parameters are of."""
    parameters = recorded_settings(given)
    if kind in TEXT:
        return Formed({**parameters, "prompt": _prompt(content)}, "completions")
    if isinstance(content, str):
        content = [{"role": "user", "content": content}]
    # The proxy answers Anthropic's calls by those of `/v1/responses` where the model is another one's.
    if kind in RESPONSES or _OF_RESPONSES & given.keys():
        return responses.formed({**parameters, "input": content})
    if kind in ANTHROPIC:
        return anthropic.formed({**parameters, "messages": content})
    return Formed({**parameters, "messages": content})


def _prompt(content: object) -> object:
    """Return the prompt of a text completion, which is recorded as one user message."""
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], dict):
        message = content[0]
        if message.get("role") == "user" and message.get("content") not in NOTHING:
            return message["content"]
    return content


READER = Reader(
    "litellm",
    "LiteLLM S3 and spend logs",
    matches,
    read,
    outline=Outline({**dict.fromkeys(_DECIDES, ()), "metadata": _OF_METADATA}, _OWN, _key, _own),
)
