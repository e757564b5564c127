"""LiteLLM: its S3 logger, and a logger of one's own that writes the same payload as JSON lines."""

import asyncio
import json
import os
import time

os.environ |= {
    "AWS_ACCESS_KEY_ID": "a",
    "AWS_SECRET_ACCESS_KEY": "b",
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}

import litellm
from litellm.integrations.custom_logger import CustomLogger

from tests.producers.asking import now, running
from tests.producers.calls import CALLS, EMBEDDER, MODEL, Call

RESPONSES = ("plain", "system", "turns", "unicode", "limit", "sampling", "streaming")
MESSAGES = ("plain", "system", "turns", "parts", "unicode", "limit", "sampling", "stop")
WAIT_S = 20.0


class Lines(CustomLogger):
    """Keeps the payload of every call."""

    def __init__(self) -> None:
        super().__init__()
        self.payloads: list[dict] = []

    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):  # noqa: ARG002
        self.payloads.append(kwargs["standard_logging_object"])

    async_log_failure_event = async_log_success_event


def until(done) -> None:
    """Wait for the loggers, which work in threads."""
    end = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < end, "the logger has not written"
        time.sleep(0.02)


if __name__ == "__main__":
    with running("litellm", "openai", "boto3") as run:
        common = {"api_base": f"{run.api.url}/v1", "api_key": "none", "max_retries": 0}
        litellm.s3_callback_params = {
            "s3_bucket_name": "logs",
            "s3_endpoint_url": run.api.url,
            "s3_region_name": "us-east-1",
        }
        litellm.success_callback = litellm.failure_callback = ["s3"]

        def objects() -> dict[str, bytes]:
            """Return what is in the bucket: an object that is put again takes the place of the first."""
            return dict(run.api.kept)

        def make(call: Call) -> object:
            count = len(objects())
            try:
                if call.kind == "text":
                    return litellm.text_completion(
                        model=f"text-completion-openai/{MODEL}", **common, **call.body
                    )
                if call.kind == "embedding":
                    return litellm.embedding(model=f"openai/{EMBEDDER}", **common, **call.body)
                made = litellm.completion(model=f"openai/{MODEL}", **common, **call.body)
                return list(made) if call.streams else made
            finally:
                # Failures are not written.
                if not call.fails:
                    until(lambda: len(objects()) > count)

        run.each(make, log="s3")
        for number, (path, data) in enumerate(objects().items()):
            assert path.startswith("/logs/"), path
            run.write(f"s3/{number:03}.json", data)

        litellm.success_callback = litellm.failure_callback = []
        lines = Lines()
        litellm.callbacks = [lines]

        async def others() -> None:
            for name, api, wanted in (
                ("responses", respond, RESPONSES),
                ("messages", message, MESSAGES),
                ("chat", converse, [call.name for call in CALLS if call.kind == "chat"]),
            ):
                for call in (call for call in CALLS if call.name in wanted):
                    await asyncio.sleep(0.003)
                    before, count, started = len(run.api.answered), len(lines.payloads), now()
                    try:
                        await api(call)
                    except litellm.BadRequestError:
                        if not call.fails:
                            raise
                    for _ in range(int(WAIT_S / 0.02)):
                        if len(lines.payloads) > count:
                            break
                        await asyncio.sleep(0.02)
                    assert len(lines.payloads) == count + 1, (name, call.name)
                    # An answer that came in pieces ends for the logger after its last one.
                    ended, answer = now(), run.api.answered[-1]
                    assert len(run.api.answered) == before + 1
                    run.record(
                        call,
                        log=name,
                        started=started,
                        ended=ended,
                        prompt_tokens=answer.prompt_tokens,
                        completion_tokens=answer.completion_tokens,
                    )
                payloads = lines.payloads
                run.write(
                    f"{name}/day.jsonl", "".join(f"{json.dumps(one, default=str)}\n" for one in payloads)
                )
                lines.payloads = []

        async def converse(call: Call) -> None:
            made = await litellm.acompletion(model=f"openai/{MODEL}", **common, **call.body)
            if call.streams:
                async for _ in made:
                    pass

        async def respond(call: Call) -> None:
            body = dict(call.body)
            first, *rest = body.pop("messages")
            if first["role"] == "system":
                body["instructions"] = first["content"]
            else:
                rest = [first, *rest]
            given = rest[0]["content"] if len(rest) == 1 else rest
            body["max_output_tokens"] = body.pop("max_tokens", None)
            body.pop("stream_options", None)
            made = await litellm.aresponses(model=f"openai/{MODEL}", input=given, **common, **body)
            if call.streams:
                async for _ in made:
                    pass

        async def message(call: Call) -> None:
            body = {"max_tokens": 64, **call.body}
            if body["messages"][0]["role"] == "system":
                body["system"] = body["messages"][0]["content"]
                body["messages"] = body["messages"][1:]
            if "stop" in body:
                body["stop_sequences"] = body.pop("stop")
            own = {**common, "api_base": run.api.url}
            await litellm.anthropic_messages(model="anthropic/claude-x", **own, **body)

        asyncio.run(others())
