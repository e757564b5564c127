"""The folder that goes into an engine process, and the messages that come out."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.backends.images import with_images
from engine.cost.step import NOMINAL, ModelShape
from engine.errors import EngineError
from engine.job.format import (
    IMAGES_FOLDER,
    JobSettings,
    read_job,
    read_messages,
    read_plan_file,
    write_job,
    write_message,
    write_plan_file,
)
from engine.plan.policies import Plan, make_plan
from engine.plan.scan import RESERVE
from engine.runtime.sample.settings import Sampling
from tests.support.models import flatten

SHAPE = ModelShape(1000, 300, 2, 16, 64, 5200)
REQUESTS = [
    ("a", 0, Sampling(max_tokens=5)),
    ("b/é", 0, Sampling(7, 0.7, 20, 0.9, 2**64 - 1, ("\n\n", "Stop ü"), (3, 9), ignore_eos=True)),
    ("b/é", 1, Sampling(max_tokens=1, seed=2**63, logprobs=5, constraint='{"choice":["é","b"]}')),
]


def written(folder, **settings):
    tokens, start = flatten([[5, 6, 7], [5, 6], [900000]])
    plan = make_plan("blend", tokens, start, np.array([2.0, 3.5, 1.0]), SHAPE, NOMINAL["cpu"])
    write_job(folder, JobSettings(model="/m", **settings), tokens, start, REQUESTS, plan)
    return tokens, start, plan


def test_a_job_survives_the_round_trip(tmp_path) -> None:
    settings = {"kv_tokens": 4096, "page_size": 8, "token_budget": 99, "max_sequences": 7}
    tokens, start, plan = written(tmp_path / "new" / "job", **settings)
    job = read_job(tmp_path / "new" / "job")
    assert job.settings == JobSettings(model="/m", **settings)
    assert job.tokens.tolist() == tokens.tolist()
    assert job.tokens.dtype == np.int32
    assert job.offsets.tolist() == start.tolist()
    assert list(zip(job.request_ids, job.choices, job.sampling, strict=True)) == REQUESTS
    for field in fields(Plan):
        stored, original = getattr(job.plan, field.name), getattr(plan, field.name)
        if isinstance(original, np.ndarray):
            assert stored.dtype == original.dtype
            assert stored.tolist() == original.tolist()
        else:
            assert stored == original
            assert type(stored) is type(original)
    assert job.plan.scan().cursor.tolist() == plan.scan().cursor.tolist()


def test_an_engine_s_options_and_prompts_as_text_survive_it(tmp_path) -> None:
    tokens, start = flatten([[5, 6, 7], [5, 6], [9]])
    plan = make_plan("dfs", tokens, start, np.array([2.0, 3.5, 1.0]), SHAPE, NOMINAL["cpu"])
    settings = JobSettings(
        "/m", engine="endpoint", options={"urls": ["http://a"], "retries": 2, "kind": None}
    )
    prompts = [{"prompt": "a\u2028b"}, {"messages": [{"role": "user", "content": "ü\n"}]}, {"prompt": ""}]
    write_job(tmp_path, settings, tokens, start, REQUESTS, plan, prompts=prompts)
    job = read_job(tmp_path)
    assert (job.settings, job.prompts) == (settings, prompts)
    write_job(tmp_path, settings, tokens, start, REQUESTS, plan, prompts=prompts[:2])
    with pytest.raises(EngineError, match="different lengths"):
        read_job(tmp_path)


def test_some_prompts_go_as_they_were_given_with_their_images(tmp_path) -> None:
    tokens, start = flatten([[5, 6, 7], [5, 6], [9]])
    plan = make_plan("dfs", tokens, start, np.array([2.0, 3.5, 1.0]), SHAPE, NOMINAL["cpu"])
    sha256 = hashlib.sha256(b"a picture").hexdigest()
    image = {"type": "image", "sha256": sha256, "media_type": "image/png", "width": 3, "height": 2}
    turn = {"role": "user", "content": [{"type": "text", "text": "x"}, {**image, "detail": "low"}]}
    asked = {"messages": [{"role": "system", "content": "y"}, turn], "add_generation_prompt": True}
    (tmp_path / IMAGES_FOLDER).mkdir()
    (tmp_path / IMAGES_FOLDER / sha256).write_bytes(b"a picture")
    settings = JobSettings("/m", engine="endpoint")
    write_job(tmp_path, settings, tokens, start, REQUESTS, plan, prompts=[None, asked, None])
    job = read_job(tmp_path)
    assert [job.given_prompt(i) for i in range(3)] == [None, asked, None]
    sent = with_images(asked, tmp_path)
    url = {"url": "data:image/png;base64,YSBwaWN0dXJl", "detail": "low"}
    content = [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": url}]
    turns = [{"role": "system", "content": "y"}, {"role": "user", "content": content}]
    assert sent == {"messages": turns, "add_generation_prompt": True}
    assert job.given_prompt(1) == asked, "what is read stays as it is"
    assert with_images({"prompt": "z"}, tmp_path) == {"prompt": "z"}


def test_another_format_version_is_refused(tmp_path) -> None:
    written(tmp_path)
    raw = json.loads((tmp_path / "job.json").read_text())
    for version in (raw["format_version"] + 1, None):
        (tmp_path / "job.json").write_text(json.dumps({**raw, "format_version": version}))
        with pytest.raises(EngineError, match=f"format version {version}, this engine reads 12"):
            read_job(tmp_path)


@pytest.mark.parametrize("part", ["requests", "offsets", "tokens", "plan"])
def test_parts_of_different_jobs_are_refused(tmp_path, part: str) -> None:
    tokens, start, plan = written(tmp_path)
    if part == "requests":
        (tmp_path / "requests.jsonl").write_text((tmp_path / "requests.jsonl").read_text().split("\n")[0])
    elif part == "offsets":
        np.save(tmp_path / "offsets.npy", start[:-1])
    elif part == "tokens":
        np.save(tmp_path / "tokens.npy", tokens[:-1])
    else:
        write_job(tmp_path, JobSettings("/m"), tokens, start, REQUESTS, replace(plan, order=plan.order[:2]))
    with pytest.raises(EngineError, match="different lengths"):
        read_job(tmp_path)


JSON = st.dictionaries(st.text(max_size=5), st.one_of(st.integers(), st.text(), st.lists(st.integers())))


@given(st.lists(JSON, max_size=5), st.integers(0, 200))
def test_messages_and_a_stream_that_breaks_off(messages: list[dict], cut: int) -> None:
    stream, ends = io.BytesIO(), [0]
    for message in messages:
        write_message(stream, message)
        ends.append(stream.tell())
    whole = stream.getvalue()
    assert list(read_messages(io.BytesIO(whole))) == messages
    cut = min(cut, len(whole))
    complete = sum(end <= cut for end in ends) - 1
    assert list(read_messages(io.BytesIO(whole[:cut]))) == messages[:complete]


def test_a_message_lacking_its_last_byte_is_left_out() -> None:
    stream = io.BytesIO()
    write_message(stream, {"n": 1})
    assert list(read_messages(io.BytesIO(stream.getvalue()[:-1]))) == []


def test_length_prefix_is_four_bytes_big_endian() -> None:
    stream = io.BytesIO()
    write_message(stream, {"type": "ready"})
    assert stream.getvalue() == b"\x00\x00\x00\x10" + b'{"type":"ready"}'


def test_a_plan_of_before_there_were_reserves_is_read(tmp_path) -> None:
    written(tmp_path)
    with np.load(tmp_path / "plan.npz") as stored:
        old = {name: stored[name] for name in stored.files if name != "reserve"}
    np.savez(tmp_path / "old.npz", **old)
    assert read_plan_file(tmp_path / "old.npz").reserve == RESERVE
    plan = replace(read_plan_file(tmp_path / "plan.npz"), reserve=(0.25, 0.125))
    write_plan_file(tmp_path / "new.npz", plan)
    assert read_plan_file(tmp_path / "new.npz").reserve == (0.25, 0.125)
    assert read_plan_file(tmp_path / "new.npz").scan().reserve.tolist() == [0.25, 0.125]
