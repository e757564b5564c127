"""Google's client: a batch of requests in the call, and the lines of a batch file of its types."""

from google import genai
from google.genai import types

from tests.producers.asking import running
from tests.producers.calls import CALLS, Call

KINDS = (
    "plain",
    "system",
    "turns",
    "parts",
    "unicode",
    "limit",
    "sampling",
    "greedy",
    "seed",
    "stop",
    "failure",
)
ROLES = {"user": "user", "assistant": "model"}
NAMES = {
    "max_tokens": "max_output_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "stop": "stop_sequences",
}


def parts_of(content: object) -> list[types.Part]:
    texts = [content] if isinstance(content, str) else [part["text"] for part in content]
    return [types.Part(text=text) for text in texts]


def contents_of(call: Call) -> list[types.Content]:
    turns = [turn for turn in call.body["messages"] if turn["role"] != "system"]
    return [types.Content(role=ROLES[turn["role"]], parts=parts_of(turn["content"])) for turn in turns]


def system_of(call: Call) -> types.Content | None:
    system = [turn["content"] for turn in call.body["messages"] if turn["role"] == "system"]
    return types.Content(parts=parts_of(system[0])) if system else None


def settings_of(call: Call) -> dict:
    return {NAMES[name]: value for name, value in call.body.items() if name in NAMES}


if __name__ == "__main__":
    with running("google-genai") as run:
        options = types.HttpOptions(base_url=run.api.url)
        client = genai.Client(api_key="none", http_options=options)
        inlined, camel, snake = [], [], []
        for call in (call for call in CALLS if call.name in KINDS):
            config = types.GenerateContentConfig(system_instruction=system_of(call), **settings_of(call))
            inlined.append(
                types.InlinedRequest(contents=contents_of(call), config=config, metadata={"key": call.name})
            )
            own = types.GenerationConfig(**settings_of(call))
            for lines, by_alias in ((camel, True), (snake, False)):
                request = {
                    "contents": [
                        turn.model_dump(exclude_none=True, by_alias=by_alias) for turn in contents_of(call)
                    ]
                }
                settings = own.model_dump(exclude_none=True, by_alias=by_alias)
                if settings:
                    request["generationConfig" if by_alias else "generation_config"] = settings
                system = system_of(call)
                if system is not None:
                    name = "systemInstruction" if by_alias else "system_instruction"
                    request[name] = system.model_dump(exclude_none=True, by_alias=by_alias)
                lines.append({"key": call.name, "request": request})
            for log in ("lines", "snake"):
                run.record(call, log=log, custom_id=call.name)
        run.write_lines("lines/batch.jsonl", camel)
        run.write_lines("snake/batch.jsonl", snake)
