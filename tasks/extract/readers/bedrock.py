"""Bedrock batch input: `{recordId, modelInput}`, where `modelInput` has the form of the model's family.

Read are the forms of Anthropic messages, Converse (`inferenceConfig`), Titan (`inputText`) and Llama or
Mistral (`prompt`). Fields are renamed to those of OpenAI; one without a counterpart keeps its name and is
refused by it. A last message of the assistant is the beginning of the answer in all these forms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tasks.extract.readers.contract import Logged, Reader, invalid, missing, text_id

if TYPE_CHECKING:
    from collections.abc import Mapping

_RENAMED: Final = {
    "max_gen_len": "max_tokens",
    "maxTokenCount": "max_tokens",
    "maxTokens": "max_tokens",
    "stop_sequences": "stop",
    "stopSequences": "stop",
    "topK": "top_k",
    "topP": "top_p",
}
_FORM: Final = frozenset({"anthropic_version", "schemaVersion"})
"""Fields that name the form and ask for nothing."""
_NESTED: Final = ("textGenerationConfig", "inferenceConfig")


def matches(record: Mapping[str, Any]) -> bool:
    """Tell a record by its model input."""
    return "modelInput" in record


def read(record: Mapping[str, Any]) -> Logged:
    """Make a record a chat or completions request."""
    given = record.get("modelInput")
    if given is None:
        raise missing("modelInput")
    if not isinstance(given, dict):
        raise invalid("modelInput", "must be an object")
    fields = {name: value for name, value in given.items() if name not in _FORM}
    for name in _NESTED:
        nested = fields.get(name)
        if isinstance(nested, dict):
            del fields[name]
            fields.update(nested)
    body = {_RENAMED.get(name, name): value for name, value in fields.items()}
    if "inputText" in body:
        body["prompt"] = body.pop("inputText")
    if "messages" in body:
        body["messages"] = _messages(body["messages"], body.pop("system", None))
        last = body["messages"][-1:] if isinstance(body["messages"], list) else []
        if last and isinstance(last[0], dict) and last[0].get("role") == "assistant":
            body["continue_final_message"] = True
    if "modelId" in record:
        body.setdefault("model", record["modelId"])
    return Logged(
        body=body,
        endpoint="completions" if "prompt" in body and "messages" not in body else "chat",
        custom_id=text_id(record, "recordId"),
    )


def _messages(messages: object, system: object) -> object:
    if not isinstance(messages, list):
        return messages
    normal = [
        {**message, "content": _parts(message.get("content"))} if isinstance(message, dict) else message
        for message in messages
    ]
    return normal if system in (None, "", []) else [{"role": "system", "content": _parts(system)}, *normal]


def _parts(content: object) -> object:
    """Give the parts of Converse, which have no type, the type that their one field is."""
    if not isinstance(content, list):
        return content
    return [
        {"type": next(iter(part)), **part} if isinstance(part, dict) and len(part) == 1 else part
        for part in content
    ]


READER = Reader("bedrock", "Bedrock batch input", matches, read)
