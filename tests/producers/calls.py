"""The calls that every tool is asked to make: one table for all, that needs no package of any environment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

MODEL = "small-chat"
EMBEDDER = "small-embed"
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks a word up.",
        "parameters": {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]},
    },
}


@dataclass(frozen=True)
class Call:
    """One call.

    Attributes
    ----------
    name
        What it is about; unique.
    kind
        The endpoint: chat, text completion or embedding.
    body
        As of OpenAI's API, without the model.
    fails
        Whether the server refuses it.
    """

    name: str
    kind: Literal["chat", "text", "embedding"]
    body: dict[str, Any]
    fails: bool = field(default=False)

    @property
    def streams(self) -> bool:
        """Whether the answer comes in pieces."""
        return bool(self.body.get("stream"))


def _user(text: object) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _chat(name: str, text: str, **settings: Any) -> Call:
    return Call(name, "chat", {"messages": [_user(text)], **settings})


CALLS: tuple[Call, ...] = (
    _chat("plain", "Name a river in Peru."),
    Call("system", "chat", {"messages": [{"role": "system", "content": "Be brief."}, _user("Name a lake.")]}),
    Call(
        "turns",
        "chat",
        {
            "messages": [
                _user("Name a sea."),
                {"role": "assistant", "content": "The Aral Sea."},
                _user("And another one?"),
            ],
            "max_tokens": 30,
        },
    ),
    Call(
        "parts",
        "chat",
        {"messages": [_user([{"type": "text", "text": "Say "}, {"type": "text", "text": "good night."}])]},
    ),
    _chat("unicode", 'Übersetze „日本 🗻“:\n\t"\\n" ist kein\u2028Umbruch.', max_tokens=12),
    _chat("limit", "Count to ten.", max_tokens=7),
    _chat("newer limit", "Count to twenty.", max_completion_tokens=9),
    _chat("sampling", "Name a colour.", temperature=0.3, top_p=0.9, max_tokens=17),
    _chat("greedy", "Name a metal.", temperature=0, max_tokens=18),
    _chat("usual values", "Name a fish.", temperature=1, top_p=1, max_tokens=16),
    _chat("seed", "Name a bird.", temperature=0.7, seed=20261130),
    _chat("stop", "List three cheeses.", stop=["\n\n", "END"], max_tokens=40),
    _chat("stop text", "List three breads.", stop="###"),
    _chat("several answers", "Name a town.", n=2, temperature=0.5),
    _chat("log probabilities", "Yes or no?", logprobs=True, top_logprobs=2, max_tokens=3),
    _chat("penalties", "Repeat yourself.", frequency_penalty=0.5, presence_penalty=-0.25),
    _chat("streaming", "Tell a short story.", stream=True, stream_options={"include_usage": True}),
    _chat("streaming with settings", "Tell another one.", stream=True, temperature=0.2, max_tokens=21),
    _chat("tools", "What does 'tarn' mean?", tools=[TOOL], tool_choice="auto"),
    Call(
        "tool result",
        "chat",
        {
            "messages": [
                _user("What does 'esker' mean?"),
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "id": "call_1",
                            "type": "function",
                            "function": {"name": "look_up", "arguments": '{"word": "esker"}'},
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": "call_1", "content": "A ridge of gravel."},
            ],
            "tools": [TOOL],
        },
    ),
    _chat("json answer", "A town as JSON.", response_format={"type": "json_object"}),
    _chat("vllm fields", "Name a moon.", extra_body={"top_k": 20, "min_p": 0.0}, temperature=0.9),
    Call("failure", "chat", {"messages": [_user("This one is refused.")], "max_tokens": 5}, fails=True),
    Call("text", "text", {"prompt": "Once upon a time", "max_tokens": 11}),
    Call("text with settings", "text", {"prompt": "The end", "temperature": 0.4, "stop": ["."], "seed": 3}),
    Call("embedding", "embedding", {"input": "A sentence to embed."}),
)
