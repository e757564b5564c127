"""Images in other APIs' bodies and in logs become those of OpenAI's chats; what is none stays refused."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from tasks.base.errors import RequestError
from tasks.extract.forms import anthropic, bedrock, gemini, responses
from tasks.requests.prompts import chat_content
from tests.support.pictures import data_url, picture

if TYPE_CHECKING:
    from types import ModuleType

PNG = picture(20, 10)
TEXT = base64.b64encode(PNG).decode()
URL = data_url(PNG)


def of(form: ModuleType, part: dict[str, Any]) -> dict[str, Any]:
    if form is gemini:
        return {"contents": [{"role": "user", "parts": [{"text": "see"}, part]}]}
    turn = {"role": "user", "content": [{"type": "text", "text": "see"}, part]}
    if form is bedrock:
        turn["content"][0] = {"text": "see"}
    return {"input": [turn]} if form is responses else {"messages": [turn]}


@pytest.mark.parametrize(
    ("form", "part", "detail"),
    [
        (responses, {"type": "input_image", "image_url": URL, "detail": "low", "file_id": None}, "low"),
        (responses, {"type": "input_image", "image_url": URL}, None),
        (
            anthropic,
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": TEXT}},
            None,
        ),
        (anthropic, {"type": "image", "source": {"type": "url", "url": URL}}, None),
        (gemini, {"inlineData": {"mimeType": "image/png", "data": TEXT}}, None),
        (gemini, {"inline_data": {"mime_type": "image/png", "data": TEXT}}, None),
        (gemini, {"fileData": {"mimeType": "image/png", "fileUri": URL}}, None),
        (bedrock, {"image": {"format": "png", "source": {"bytes": TEXT}}}, None),
        (bedrock, {"image": {"format": "png", "source": {"s3Location": {"uri": URL}}}}, None),
    ],
)
def test_it_is_the_image_of_a_chat(form: ModuleType, part: dict[str, Any], detail: str | None) -> None:
    content = chat_content(form.formed(of(form, part)).body)
    (message,) = json.loads(content["messages_json"])
    text, image = message["content"]
    assert text == {"type": "text", "text": "see"}
    assert (image["width"], image["height"], image.get("detail")) == (20, 10, detail)


@pytest.mark.parametrize(
    ("form", "part"),
    [
        (responses, {"type": "input_image", "file_id": "file-1"}),
        (responses, {"type": "input_file", "file_id": "file-1"}),
        (anthropic, {"type": "image", "source": {"type": "file", "file_id": "f"}}),
        (anthropic, {"type": "image", "source": {"type": "url"}}),
        (anthropic, {"type": "document", "source": {"type": "url", "url": URL}}),
        (gemini, {"inlineData": {"mimeType": "audio/wav", "data": TEXT}}),
        (gemini, {"inlineData": {"mimeType": "image/png", "data": TEXT}, "videoMetadata": {"fps": 1}}),
        (bedrock, {"image": {"format": "png"}}),
        (bedrock, {"video": {"format": "mp4", "source": {"bytes": TEXT}}}),
    ],
)
def test_what_is_none_is_refused_by_its_type(form: ModuleType, part: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        chat_content(form.formed(of(form, part)).body)
    assert (caught.value.code, caught.value.field) == ("unsupported_parameter", "messages[0].content[1].type")
