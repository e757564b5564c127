"""Canonical Parquet: rows of the table requests, as this system writes them; they get new identities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tasks.base.schema import CONTENT_ALTERNATIVES
from tasks.extract.readers.contract import (
    RESPONSES,
    Logged,
    Reader,
    Shape,
    count,
    event_time,
    invalid,
    label,
    mapping,
    missing,
    optional_time,
    parsed_json,
    required_count,
    seconds,
    text_id,
)
from tasks.requests.embeddings import ENDPOINT as EMBEDDINGS
from tasks.requests.embeddings import INPUT, LENGTHS
from tasks.requests.template_variables import BEGINS, KWARGS
from tasks.requests.tools import CHOICE, FORM, TOOLS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.requests.sampling import Endpoint

_STORED_OTHERWISE: Final = frozenset({"constraint", "logprobs", "logit_bias", KWARGS, TOOLS, FORM, LENGTHS})
"""Settings that a body has in another form. How calls are written is found again, and what enforces it."""


def matches(record: Mapping[str, Any]) -> bool:
    """Tell the table by its columns."""
    return {"answer_key", "endpoint", *CONTENT_ALTERNATIVES} <= record.keys()


def read(record: Mapping[str, Any]) -> Logged:
    """Make a row the request that it was."""
    endpoint = record.get("endpoint")
    if endpoint not in ("chat", "completions", EMBEDDINGS, RESPONSES):
        raise invalid("endpoint", f"must be chat, completions, {EMBEDDINGS} or {RESPONSES}")
    past = mapping(record.get("passthrough_json"))
    logged = Logged(
        endpoint="chat" if endpoint == RESPONSES else endpoint,
        custom_id=text_id(record, "custom_id"),
        rest=mapping(past.get("envelope")),
        requested_model=label(record.get("requested_model")),
        workload=label(record.get("workload")),
        tenant=label(record.get("tenant")),
        event_time=event_time(record, "event_time"),
        output_tokens=count(record.get("observed_output_tokens")),
        latency_s=seconds(record.get("observed_latency_s")),
        priority=_int32(record.get("priority")),
        deadline=optional_time(record, "deadline"),
        told_again=mapping(past.get(RESPONSES)) if endpoint == RESPONSES else None,
    )
    given = [name for name in CONTENT_ALTERNATIVES if record.get(name) is not None]
    if len(given) != 1:
        raise missing(CONTENT_ALTERNATIVES[0]) if not given else invalid(given[1], "is a second prompt")
    if given == ["prefix_block_hashes"]:
        hashes = [int(item) for item in record["prefix_block_hashes"]]
        logged.shape = Shape(
            required_count(record, "input_tokens"),
            hashes,
            required_count(record, "block_size", 1),
            count(mapping(record.get("sampling")).get("n")) or 1,
        )
        return logged
    if endpoint == EMBEDDINGS and given == ["prompt"]:
        content: dict[str, Any] = {INPUT: parsed_json(record["prompt"])}
    elif given == ["messages_json"]:
        content = {"messages": parsed_json(record["messages_json"])}
    else:
        content = {"prompt": record[given[0]]}
    stored = {**mapping(record.get("sampling")), **mapping(record.get("settings_json"))}
    settings = _settings(stored, logged.endpoint)
    body = {**mapping(past.get("body")), **settings, **content, "model": logged.requested_model}
    if record.get("max_tokens") is not None:
        body["max_tokens"] = record["max_tokens"]
    logged.body = body
    return logged


def _settings(stored: Mapping[str, Any], endpoint: Endpoint) -> dict[str, Any]:
    """Return stored settings as a body has them."""
    given = {name: value for name, value in stored.items() if value is not None}
    settings = {name: value for name, value in given.items() if name not in _STORED_OTHERWISE}
    if "logit_bias" in given:
        settings["logit_bias"] = {str(token): bias for token, bias in parsed_json(given["logit_bias"])}
    if KWARGS in given:
        variables = dict(mapping(given[KWARGS]))
        begins = {BEGINS: variables.pop(BEGINS)} if BEGINS in variables else {}
        settings |= {KWARGS: variables, **begins}
    if TOOLS in given:
        settings[TOOLS] = parsed_json(given[TOOLS])
    if isinstance(given.get(CHOICE), dict):
        settings[CHOICE] = {"type": "function", "function": given[CHOICE]}
    if "constraint" in given and TOOLS not in given:
        # Its kinds have the names that they have there.
        settings["structured_outputs"] = parsed_json(given["constraint"])
    if "logprobs" in given and endpoint == "chat":
        settings |= {"logprobs": True, "top_logprobs": given["logprobs"]}
    elif "logprobs" in given:
        settings["logprobs"] = given["logprobs"]
    return settings


def _int32(value: object) -> int | None:
    return int(value) if isinstance(value, int | np.integer) and not isinstance(value, bool) else None


READER = Reader("canonical", "Canonical Parquet (table requests)", matches, read)
