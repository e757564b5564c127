"""Servers get images exactly as they were sent, and only those that were seen to look at one."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from engine.backends.endpoint.examine import examine, facts_of
from engine.backends.endpoint.options import EndpointOptions, parse_options
from engine.backends.endpoint.picture import grey_png
from engine.choices import ENDPOINT
from engine.errors import OptionError
from engine.job.format import read_job
from tasks.plan.plan import FIRST_FOLDER, plan
from tasks.requests.images import look_at
from tests.servers.openai_api import MODEL, openai_server
from tests.support.demo_nights import answer, batch_line, night_request, opened, outputs_of, write_lines
from tests.support.pictures import data_url, image_part, picture, qwen_folder

if TYPE_CHECKING:
    from pathlib import Path

SAMPLE = [1, 2, 3]


def examined(*servers: Any, images: bool = True) -> EndpointOptions:
    given = [*(f"url={server.url}" for server in servers), f"model={MODEL}"]
    facts = examine(parse_options(given), [], SAMPLE, images=images)
    options = EndpointOptions.of_job(facts.options)
    assert facts_of(options) == facts, "and so the engine's process says"
    return options


def test_the_picture_that_servers_are_shown_is_one() -> None:
    assert look_at(grey_png(64), "here") == ("image/png", 64, 64)


@pytest.mark.parametrize(("images", "sees"), [("takes", True), ("refuses", False), ("ignores", False)])
def test_a_server_takes_images_if_it_was_seen_to_look_at_one(images: str, sees: bool) -> None:
    with openai_server(images=images) as server:
        assert examined(server).images is sees
        asked = len(server.seen.bodies)
        # Of a model without a vision tower nobody asks.
        assert not examined(server, images=False).images
        assert len(server.seen.bodies) - asked < asked


def test_servers_of_one_night_all_look_or_none_does() -> None:
    with (
        openai_server(images="takes") as one,
        openai_server(images="refuses") as other,
        pytest.raises(OptionError, match="one version"),
    ):
        examined(one, other)


PNG, JPEG = picture(56, 84), picture(70, 42, form="JPEG", seed=1)


def chat(custom_id: str, *parts: Any, **body: Any) -> str:
    line = json.loads(batch_line(custom_id, "", **body))
    line["body"]["messages"] = [{"role": "user", "content": list(parts)}]
    return json.dumps(line)


WORDS = {"type": "text", "text": "What is it?"}
LINES = [
    chat("first", image_part(data_url(PNG), detail="low"), WORDS),
    chat("two", WORDS, image_part(data_url(JPEG, "image/jpeg")), image_part(data_url(PNG))),
    batch_line("text", "Name a river."),
    chat("broken", WORDS, image_part("data:image/png;base64,AAAA")),
    chat("whose", image_part(data_url(PNG)), chat_template_kwargs={"a": 1}),
]
PARTS = {
    "first": [image_part(data_url(PNG), detail="low"), WORDS],
    "two": [WORDS, image_part(data_url(JPEG, "image/jpeg")), image_part(data_url(PNG))],
}


def request_of(root: Path, server: Any, folder: Path) -> Any:
    options = (f"url={server.url}", f"model={MODEL}")
    return night_request(root, folder, engine=ENDPOINT, engine_options=options, device=ENDPOINT)


def errors_of(night: Any) -> dict[str, tuple[str, str]]:
    return {row["custom_id"]: (row["code"], row["field"]) for row in night.read_table("errors").to_pylist()}


def test_a_night_sends_exactly_the_parts_and_keeps_no_picture(tmp_path: Path) -> None:
    folder = qwen_folder(tmp_path / "model")
    write_lines(tmp_path / "logs", "day.jsonl", LINES)
    with openai_server(images="takes", owned_by="llamacpp") as server:
        with opened(request_of(tmp_path, server, folder), tmp_path / "scratch") as night:
            server.seen.bodies.clear()
            answer(night)
            outputs = night.read_table("outputs").to_pylist()
            assert set(outputs_of(night)) == {"first", "two", "text"}
            assert errors_of(night) == {
                "broken": ("invalid_image", "messages[0].content[1].image_url.url"),
                # It is rendered by the server, which is not known to take these.
                "whose": ("unsupported_parameter", "chat_template_kwargs"),
            }
            job = read_job(night.scratch / FIRST_FOLDER)
        chats = [body["messages"] for body in server.seen.bodies if "messages" in body]
        sent = {len(chat[0]["content"]): chat[0]["content"] for chat in chats}
        assert sent == {2: PARTS["first"], 3: PARTS["two"]}
        # What has no image goes as token ids as ever.
        (ids,) = [body["prompt"] for body in server.seen.bodies if "prompt" in body]
        assert all(0 <= token < 512 for token in ids)
        seen = [row["usage"]["prompt_tokens"] for row in outputs if row["custom_id"] != "text"]
        assert min(seen) >= 64
    names = {hashlib.sha256(data).hexdigest() for data in (PNG, JPEG)}
    assert {path.name for path in (night.scratch / FIRST_FOLDER / "images").iterdir()} == names
    assert [prompt is None for prompt in job.prompts or ()].count(True) == 1
    # Nothing else of what is stored holds one: no table, no record, no job folder.
    needle = data_url(PNG).partition(",")[2][:60].encode()
    for path in [*(tmp_path / "store").rglob("*"), *(night.scratch / FIRST_FOLDER).rglob("*")]:
        if path.is_file():
            assert needle not in path.read_bytes(), path
    files = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    holding = [path for path in files if PNG in path.read_bytes()]
    # The parsed rows of the object, and the part of the run.
    assert len(holding) == 2
    assert all("images" in (path.parent.name, path.name.partition("-")[0]) for path in holding)


def test_images_are_there_again_after_a_resume(tmp_path: Path) -> None:
    folder = qwen_folder(tmp_path / "model")
    write_lines(tmp_path / "logs", "day.jsonl", LINES[:2])
    with openai_server(images="takes") as server:
        request = request_of(tmp_path, server, folder)
        with opened(request, tmp_path / "scratch") as night:
            plan(night)
        with opened(request, tmp_path / "again") as night:
            server.seen.bodies.clear()
            answer(night)
            assert set(outputs_of(night)) == {"first", "two"}
        sent = {len(body["messages"][0]["content"]) for body in server.seen.bodies}
    assert sent == {2, 3}


@pytest.mark.parametrize("images", ["refuses", "ignores"])
def test_a_server_that_takes_none_gets_none(tmp_path: Path, images: str) -> None:
    folder = qwen_folder(tmp_path / "model")
    write_lines(tmp_path / "logs", "day.jsonl", LINES[:3])
    with (
        openai_server(images=images) as server,
        opened(request_of(tmp_path, server, folder), tmp_path / "scratch") as night,
    ):
        found = errors_of(night)
        assert found["first"] == ("unsupported_parameter", "messages[0].content[0]")
        assert found["two"] == ("unsupported_parameter", "messages[0].content[1]")
        assert [row["custom_id"] for row in night.read_table("requests").to_pylist()] == ["text"]


def test_our_own_engine_names_those_that_take_images(tmp_path: Path) -> None:
    write_lines(tmp_path / "logs", "day.jsonl", [LINES[0], LINES[2]])
    with opened(night_request(tmp_path), tmp_path / "scratch") as night:
        (row,) = night.read_table("errors").to_pylist()
        assert (row["code"], row["field"]) == ("unsupported_parameter", "messages[0].content[0]")
        assert "takes no images; endpoint does" in row["message"]
        plan(night)
        assert read_job(night.scratch / FIRST_FOLDER).prompts is None
