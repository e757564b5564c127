"""Image parts: their bytes are looked at once, kept under their digest, and no prompt holds them."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from typing import Any

import pytest
from PIL import Image

from tasks.base.errors import RequestError
from tasks.requests import images
from tasks.requests.bodies import BodyReader
from tasks.requests.images import ImageReader, has_images, images_of
from tasks.requests.prompts import chat_content
from tasks.requests.sampling import SamplingDefaults
from tests.support.pictures import data_url, image_part, picture

PNG = picture(40, 20)


def chat(*parts: Any, role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": list(parts)}]}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def test_a_prompt_holds_the_digest_and_the_size_of_an_image() -> None:
    kept: dict[str, bytes] = {}
    reader = ImageReader(keep=kept.__setitem__)
    body = chat(text("a"), text("b"), image_part(data_url(PNG), detail="low"), text(""), text("c"))
    content = chat_content(body, reader)["messages_json"]
    sha256 = hashlib.sha256(PNG).hexdigest()
    (message,) = json.loads(content)
    image = {"type": "image", "sha256": sha256, "media_type": "image/png", "width": 40, "height": 20}
    assert message["content"] == [text("ab"), {**image, "detail": "low"}, text("c")]
    assert kept == {sha256: PNG}
    assert reader.take() == [sha256]
    assert reader.take() == []
    assert has_images(content)
    assert list(images_of(json.loads(content))) == [("messages[0].content[1]", {**image, "detail": "low"})]
    assert not has_images(chat_content(chat(text('{"type":"image"}')))["messages_json"])


def test_texts_alone_stay_one_text() -> None:
    found = json.loads(chat_content(chat(text("a"), text("b")))["messages_json"])
    assert found == [{"role": "user", "content": "ab"}]


@pytest.mark.parametrize(
    ("form", "media_type"),
    [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp"), ("GIF", "image/gif")],
)
def test_the_type_is_that_of_the_bytes(form: str, media_type: str) -> None:
    url = data_url(picture(31, 17, form=form), "image/anything")
    found = ImageReader().part(image_part(url), "here")
    assert (found["media_type"], found["width"], found["height"]) == (media_type, 31, 17)


def test_a_turned_photo_has_the_size_that_it_is_shown_with() -> None:
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 10)).save(out, "JPEG", exif=exif)
    found = ImageReader().part(image_part(data_url(out.getvalue())), "here")
    assert (found["width"], found["height"]) == (10, 30)


BROKEN = PNG[: len(PNG) // 2]
TIFF = io.BytesIO()
Image.new("RGB", (8, 8)).save(TIFF, "TIFF")


@pytest.mark.parametrize(
    ("part", "code", "field"),
    [
        (image_part("data:image/png;base64,%%%"), "invalid_image", "image_url.url"),
        (image_part("data:image/png,plain"), "invalid_image", "image_url.url"),
        (image_part(data_url(b"no image")), "invalid_image", "image_url.url"),
        (image_part(data_url(BROKEN)), "invalid_image", "image_url.url"),
        (image_part(data_url(TIFF.getvalue())), "invalid_image", "image_url.url"),
        (image_part("https://example.com/a.png"), "unsupported_parameter", "image_url.url"),
        (image_part("s3://b/a.png"), "unsupported_parameter", "image_url.url"),
        (image_part(""), "invalid_parameter", "image_url.url"),
        (image_part(data_url(PNG), detail=3), "invalid_parameter", "image_url.detail"),
        (image_part(data_url(PNG), crop=[1]), "unsupported_parameter", "image_url.crop"),
        ({"type": "image_url", "image_url": 7}, "invalid_parameter", "image_url"),
        ({"type": "image_url"}, "invalid_parameter", "image_url"),
        ({"type": "input_audio", "input_audio": {}}, "unsupported_parameter", "type"),
        ({**image_part(data_url(PNG)), "uuid": "x"}, "unsupported_parameter", "uuid"),
    ],
)
def test_what_is_wrong_names_the_part(part: dict[str, Any], code: str, field: str) -> None:
    with pytest.raises(RequestError) as caught:
        chat_content(chat(text("a"), part))
    assert (caught.value.code, caught.value.field) == (code, f"messages[0].content[1].{field}")
    assert base64.b64encode(PNG).decode()[:20] not in str(caught.value)


@pytest.mark.parametrize("role", ["system", "assistant", "tool", "developer"])
def test_only_users_send_images(role: str) -> None:
    with pytest.raises(RequestError) as caught:
        chat_content(chat(image_part(data_url(PNG)), role=role))
    assert caught.value.field == "messages[0].content[0].type"


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    def code() -> str:
        with pytest.raises(RequestError) as caught:
            chat_content(chat(image_part(data_url(PNG)), image_part(data_url(PNG))))
        return f"{caught.value.code} {caught.value.message}"

    with monkeypatch.context() as context:
        context.setattr(images, "MOST_PIXELS", 799)
        assert code() == "invalid_image the image has more than 799 pixels"
    with monkeypatch.context() as context:
        context.setattr(images, "MOST_BYTES", 300)
        assert code().startswith("invalid_image the image has more than")
    with monkeypatch.context() as context:
        context.setattr(images, "MOST_IMAGES", 1)
        assert code() == "unsupported_parameter a request may have 1 images at most"


def test_a_bomb_is_refused_by_its_header() -> None:
    """Gigapixels of nothing in some kilobytes; nobody unpacks them."""
    header = picture(4, 4)[:16] + (60_000).to_bytes(4) + (60_000).to_bytes(4)
    with pytest.raises(RequestError, match="invalid_image"):
        chat_content(chat(image_part(data_url(header + picture(4, 4)[24:]))))


def key(url: str, **more: Any) -> str:
    parsed = BodyReader(SamplingDefaults()).read({}, "chat", None, chat(image_part(url, **more)))
    assert parsed.error is None
    assert len(parsed.images) == 1
    return parsed.answer_key


def test_equal_images_ask_for_the_same_whatever_they_are_called() -> None:
    other = picture(40, 20, seed=1)
    assert key(data_url(PNG)) == key(data_url(PNG, "image/jpeg"))
    assert key(data_url(PNG)) != key(data_url(other))
    assert key(data_url(PNG)) != key(data_url(PNG), detail="high")
