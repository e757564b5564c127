"""Several processes tokenise what one would, and say so when one of them ends."""

from __future__ import annotations

import json
import threading
from datetime import date
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.base.schema import SCHEMAS
from tasks.base.worker_processes import WorkerError
from tasks.profile import token_pool
from tasks.profile.tokenize import tokenize_requests
from tasks.profile.tokenizer import PromptTokenizer, load_tokenizer
from tests.support.tokenizers import TEXTS, byte_level

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TEMPLATE = (
    "{{ strftime_now('%d %b %Y') }}{% for m in messages if m.role != 'developer' %}<|{{ m.role }}|>"
    "{{ m.content }}{% endfor %}{{ thinking }}"
)
DAY = date(2026, 3, 1)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PromptTokenizer:
    folder = tmp_path_factory.mktemp("model")
    fast = byte_level()
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    return load_tokenizer(str(folder), vocab_size=330, run_date=DAY)


def content(number: int) -> dict[str, Any]:
    """Return a prompt of one of all kinds, some of which are refused."""
    text = f"{TEXTS[number % len(TEXTS)]} {number}"
    kinds: list[dict[str, Any]] = [
        {"messages_json": json.dumps([{"role": "user", "content": text}])},
        {"prompt": text},
        {"token_ids": [number % 400, 5]},
        {"messages_json": json.dumps([{"role": "developer", "content": text}])},
        {"prefix_block_hashes": [1, 2], "block_size": 512},
        {
            "messages_json": json.dumps([{"role": "system", "content": "a"}]),
            "settings_json": json.dumps({"chat_template_kwargs": json.dumps({"thinking": text})}),
        },
        {"prompt": text * 300},
    ]
    return kinds[number % len(kinds)]


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        {
            **dict.fromkeys(("request_id", "answer_key"), f"{number:064d}"),
            "job": "j",
            "run_date": DAY,
            "workload": "w",
            "source_uri": "s",
            "source_line": number,
            "endpoint": "chat",
            **content(number),
        }
        for number in range(400)
    ]
    path = tmp_path_factory.mktemp("rows") / "requests.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMAS["requests"]), path)
    return path


def tokenized(requests: Path, tokenizer: PromptTokenizer, out: Path, **settings: Any) -> dict[str, bytes]:
    """Return the files that come out, by name."""
    tokenize_requests([requests], tokenizer, context_length=2000, out=out, **settings)
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_the_files_are_the_same_for_any_number_of_processes(
    requests: Path, tokenizer: PromptTokenizer, tmp_path: Path
) -> None:
    alone = tokenized(requests, tokenizer, tmp_path / "1", group_rows=16, processes=1)
    assert set(alone) == {"requests.parquet", "errors.parquet", "tokens.npy", "offsets.npy"}
    assert tokenized(requests, tokenizer, tmp_path / "3", group_rows=16, processes=3) == alone
    codes = set(pq.read_table(tmp_path / "1/errors.parquet", columns=["code"])["code"].to_pylist())
    assert codes == {"template_error", "not_replayable", "invalid_token", "context_length_exceeded"}
    # Nor does it depend on how rows are grouped, but for the groups of the Parquet files.
    tokenized(requests, tokenizer, tmp_path / "whole")
    for name in ("tokens.npy", "offsets.npy"):
        assert (tmp_path / "whole" / name).read_bytes() == alone[name]
    for name in ("requests.parquet", "errors.parquet"):
        assert pq.read_table(tmp_path / "whole" / name).equals(pq.read_table(tmp_path / "1" / name))


def test_groups_have_bounded_text(
    requests: Path, tokenizer: PromptTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = tokenized(requests, tokenizer, tmp_path / "1")
    seen: list[list[int]] = []

    def watched(groups: Any, *_: Any) -> Any:
        for group in groups:
            rows = group.to_pylist()
            seen.append([len((row["messages_json"] or "") + (row["prompt"] or "")) for row in rows])
            yield from token_pool.tokens_of_groups([group], tokenizer, 0, 1)

    monkeypatch.setattr("tasks.profile.tokenize.GROUP_BYTES", 10_000)
    monkeypatch.setattr("tasks.profile.tokenize.tokens_of_groups", watched)
    parts = tokenized(requests, tokenizer, tmp_path / "2")
    assert parts["tokens.npy"] == alone["tokens.npy"]
    assert sum(map(len, seen)) == 400
    assert len(seen) > 20
    assert all(sum(group) < 10_100 or len(group) == 1 for group in seen)
    assert max(map(len, seen)) > 3, "as many as fit"


def test_what_is_held_while_a_process_starts_is_bounded(
    requests: Path, tokenizer: PromptTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    crossed: list[int] = []
    timers: list[threading.Timer] = []
    begun = threading.Event()
    ask = token_pool._Process.ask

    def late(self: Any, group: pa.RecordBatch) -> Any:
        assert begun.wait(60)
        return ask(self, group)

    def groups() -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(requests) as file:
            for group in file.iter_batches(batch_size=4):
                if sum(read) > limit and not begun.is_set():
                    crossed.append(len(read))
                read.append(group.nbytes)
                if sum(read) > limit and not timers:
                    timers.append(threading.Timer(0.5, begun.set))
                    timers[0].start()
                yield group

    limit = 2 * 20_000
    monkeypatch.setattr(token_pool, "HELD_BYTES", 20_000)
    monkeypatch.setattr(token_pool._Process, "ask", late)
    counts = [len(found.ends) - 1 for _, found in token_pool.tokens_of_groups(groups(), tokenizer, 0, 2)]
    assert timers
    assert begun.is_set()
    assert crossed == [], "nothing is read beyond the limit before the process has begun"
    assert counts == [4] * 100
    assert sum(read) > 5 * limit


def test_little_text_starts_no_process(
    requests: Path, tokenizer: PromptTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    def refuse(module: str, *_: Any, **__: Any) -> Any:
        started.append(module)
        raise WorkerError("not here")

    monkeypatch.setattr(token_pool, "start_worker", refuse)
    monkeypatch.setattr(token_pool, "usable_cores", lambda: 2)
    tokenized(requests, tokenizer, tmp_path / "1")
    assert started == []
    monkeypatch.setattr(token_pool, "POOL_BYTES", 100_000)
    with pytest.raises(WorkerError):
        tokenized(requests, tokenizer, tmp_path / "2")
    assert started == ["tasks.profile.token_worker"], "one for each core, this one among them"


@pytest.mark.parametrize(
    ("does", "message"),
    [
        ("exit 3", "a tokenising process ended with 3; run it again"),
        (
            "sleep 0.2; kill -9 $$",
            "a tokenising process ended with -9: it was killed, as is done where memory",
        ),
    ],
)
def test_a_process_that_dies_is_told(
    requests: Path,
    tokenizer: PromptTokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    does: str,
    message: str,
) -> None:
    dies = tmp_path / "dies"
    dies.write_text(f"#!/bin/sh\n{does}\n")
    dies.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(dies))
    with pytest.raises(WorkerError, match=message):
        tokenized(requests, tokenizer, tmp_path / "out", group_rows=16, processes=3)


def test_a_process_that_is_killed_at_its_work_is_told_and_the_others_end(
    requests: Path, tokenizer: PromptTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    real, ask = token_pool.start_worker, token_pool._Process.ask

    def watched(*arguments: Any, **variables: Any) -> Any:
        started.append(real(*arguments, **variables))
        return started[-1]

    def killing(self: Any, group: pa.RecordBatch) -> Any:
        found = ask(self, group)
        started[0][0].kill()
        return found

    monkeypatch.setattr(token_pool, "start_worker", watched)
    monkeypatch.setattr(token_pool._Process, "ask", killing)
    with pytest.raises(WorkerError, match="ended with -9"):
        tokenized(requests, tokenizer, tmp_path / "out", group_rows=4, processes=3)
    assert [process.returncode for process, _ in started] == [-9, -9]


def test_a_process_that_fails_tells_where_and_no_text(
    requests: Path, tokenizer: PromptTokenizer, tmp_path: Path
) -> None:
    gone = PromptTokenizer(str(tmp_path / "gone"), tokenizer.tokenizer, 330, tokenizer.template)
    with pytest.raises(WorkerError, match=r"failed with ConfigurationError at .*\.py:\d+$"):
        tokenized(requests, gone, tmp_path / "out", group_rows=16, processes=2)


def test_given_ids_and_texts_come_back_in_place(tokenizer: PromptTokenizer, requests: Path) -> None:
    with pq.ParquetFile(requests) as file:
        groups = list(file.iter_batches(batch_size=64))
    for group, found in token_pool.tokens_of_groups(groups, tokenizer, 0, 1):
        assert len(found.ends) == len(group) + 1
        for index, (row, (begin, end)) in enumerate(
            zip(group.to_pylist(), pairwise(found.ends.tolist()), strict=True)
        ):
            assert found.of(index).dtype == np.int32
            assert (index in found.refused) == (row["prefix_block_hashes"] is not None) or (
                "developer" in (row["messages_json"] or "")
            )
            if row["token_ids"] is not None:
                assert found.ids[begin:end].tolist() == row["token_ids"]
            if row["prompt"] is not None:
                assert found.of(index).tolist() == tokenizer.encode([row["prompt"]], special=True)[0]
