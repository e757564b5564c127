from __future__ import annotations

import gzip
import json
import os
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.base.accounting import Account
from tasks.base.errors import ConfigurationError
from tasks.base.schema import SCHEMAS
from tasks.extract import listing
from tasks.extract.extract import ExtractSettings, extract
from tasks.extract.parse import row_files
from tasks.requests.sampling import SamplingDefaults
from tasks.store.folder import FolderStore
from tests.support.paths import trace

if TYPE_CHECKING:
    from tasks.extract.result import ExtractResult
    from tasks.store.contract import Store

DAY = date(2026, 3, 1)


def line(custom_id: object, text: str = "hi", **body: object) -> bytes:
    body = {"model": "m", "messages": [{"role": "user", "content": text}]} | body
    record = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(record).encode() + b"\n"


def run(source: Path | str, scratch: Path, **changes: Any) -> ExtractResult:
    return extract(str(source), **{"job": "job", "run_date": DAY, "scratch": scratch} | changes)


def rows(result: ExtractResult, table: str) -> list[dict[str, Any]]:
    found = []
    for path in result.files(table):
        data = pq.read_table(path)
        assert data.schema.equals(SCHEMAS[table], check_metadata=True)
        found += data.to_pylist()
    return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "sub").mkdir(parents=True)
    (folder / "b.jsonl").write_bytes(line("x") + b"\n" + b"junk\n" + line("y", tools=[1]))
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(line("x") + line("x") + line("z", "other")))
    (folder / "sub" / "c.jsonl").write_bytes(b"")
    (folder / "_SUCCESS").write_bytes(b"")
    return folder


def test_all_objects_of_a_folder(source: Path, tmp_path: Path) -> None:
    result = run(source, tmp_path / "scratch")
    assert [Path(found.source_uri).name for found in result.objects] == ["a.jsonl.gz", "b.jsonl", "c.jsonl"]
    assert result.account == Account(lines=7, blank=1, quarantined=1, requests=5, errors=1)
    assert result.ignored == 1
    assert [row["custom_id"] for row in rows(result, "requests")] == ["x", "x", "z", "x"]
    assert [row["custom_id"] for row in rows(result, "errors")] == ["y"]
    assert [row["source_line"] for row in rows(result, "quarantine")] == [3]
    assert [found.account.lines for found in result.objects] == [3, 4, 0]
    assert {found.format for found in result.objects} == {"openai-batch"}


def test_the_input_digest_is_of_the_content(source: Path, tmp_path: Path) -> None:
    base = run(source, tmp_path / "0").input_digest
    text = (source / "b.jsonl").read_bytes()
    (source / "b.jsonl").write_bytes(b"".join(reversed(text.splitlines(keepends=True))))
    assert run(source, tmp_path / "1").input_digest == base
    (source / "b.jsonl").write_bytes(text + line("new"))
    assert run(source, tmp_path / "2").input_digest != base
    (source / "b.jsonl").write_bytes(text.replace(b'"tools": [1]', b'"tools": [2]'))
    assert run(source, tmp_path / "3").input_digest != base
    (source / "b.jsonl").write_bytes(text)
    longer = ExtractSettings(SamplingDefaults(max_tokens=5))
    assert run(source, tmp_path / "4", settings=longer).input_digest != base
    (source / "b.jsonl").rename(source / "renamed.jsonl")
    assert run(source, tmp_path / "5").input_digest != base


def test_parsed_rows_are_reused_until_something_changes(
    source: Path, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reused(name: str, **changes: Any) -> list[bool]:
        result = run(source, tmp_path / name, **{"store": store} | changes)
        assert (result.account, result.input_digest, rows(result, "requests")) == expected or changes
        return [found.reused for found in result.objects]

    plain = run(source, tmp_path / "plain")
    expected = (plain.account, plain.input_digest, rows(plain, "requests"))
    assert reused("first") == [False] * 3
    assert reused("second") == [True] * 3
    assert reused("model", settings=ExtractSettings(model_filter=("n",))) == [False] * 3
    assert reused("date", run_date=date(2026, 3, 2)) == [False] * 3
    assert reused("job", job="other") == [False] * 3
    monkeypatch.setattr("tasks.extract.extract.PARSER_VERSION", 99)
    assert reused("version") == [False] * 3
    (source / "late.jsonl").write_bytes(line("late"))
    late = run(source, tmp_path / "late", store=store)
    assert [found.reused for found in late.objects] == [True, True, False, True]
    (source / "b.jsonl").write_bytes(line("longer than before"))
    changed = run(source, tmp_path / "changed", store=store)
    assert [found.reused for found in changed.objects] == [True, False, True, True]


def test_kept_rows_that_are_damaged_are_parsed_again(source: Path, tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    first = run(source, tmp_path / "first", store=store)
    for info in list(store.list("job/parsed/")):
        if "/requests-" in info.key:
            store.put(info.key, b"PAR1")
    second = run(source, tmp_path / "second", store=store)
    assert [found.reused for found in second.objects] == [False, False, False]
    assert rows(second, "requests") == rows(first, "requests")
    for info in list(store.list("job/parsed/")):
        if info.key.endswith("group.json"):
            store.put(info.key, b"[]")
    assert not any(found.reused for found in run(source, tmp_path / "third", store=store).objects)


def test_a_truncated_gzip_is_one_object_error(tmp_path: Path) -> None:
    text = b"".join(line(f"{i}", os.urandom(50).hex()) for i in range(500))
    whole = gzip.compress(text)
    path = tmp_path / "s" / "day.jsonl.gz"
    path.parent.mkdir()
    path.write_bytes(whole[: len(whole) // 2])
    store = FolderStore(tmp_path / "store")
    for name, reused in (("a", False), ("b", True)):
        result = run(path, tmp_path / name, store=store)
        (error,) = result.object_errors
        assert error.byte_offset == len(whole) // 2
        assert text[: error.text_offset].count(b"\n") == result.account.requests == result.account.lines > 100
        assert result.account.object_errors == 1
        assert result.objects[0].reused is reused


def test_an_object_that_grows_while_it_is_read_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s" / "day.jsonl"
    path.parent.mkdir()
    path.write_bytes(line("a"))
    listed = listing.list_source

    def list_then_grow(*args: Any) -> list[Any]:
        found = list(listed(*args))
        path.write_bytes(line("a") + line("b"))
        return found

    store = FolderStore(tmp_path / "store")
    monkeypatch.setattr(listing, "list_source", list_then_grow)
    assert run(path, tmp_path / "0", store=store).account.requests == 2
    assert list(store.list()) == []


def test_one_object_and_a_dated_path(source: Path, tmp_path: Path) -> None:
    assert run(source / "b.jsonl", tmp_path / "0").account.requests == 2
    dated = tmp_path / "logs" / "2026" / "03" / "01"
    dated.mkdir(parents=True)
    (dated / "x.jsonl").write_bytes(line("x"))
    template = f"{tmp_path}/logs/{{run_date:%Y/%m/%d}}"
    assert run(template, tmp_path / "1").account.requests == 1
    with pytest.raises(ConfigurationError, match=r"--run-date 2026-03-02.*2026/03/01/x.jsonl"):
        run(template, tmp_path / "2", run_date=date(2026, 3, 2))


def test_no_objects_is_a_clear_error_and_no_requests_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    with pytest.raises(ConfigurationError, match=r"--source: no \.jsonl.*--run-date 2026-03-01"):
        run(folder, tmp_path / "0")
    (folder / "notes.txt").write_text("x")
    with pytest.raises(ConfigurationError, match=r"1 others, such as notes.txt"):
        run(folder, tmp_path / "1")
    (folder / "a.jsonl").write_text("\n\n")
    result = run(folder, tmp_path / "2")
    assert result.account == Account(lines=2, blank=2)
    assert result.input_digest == run(folder, tmp_path / "3").input_digest


def test_a_missing_path_names_the_source(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--source"):
        run(tmp_path / "nowhere", tmp_path / "0")
    with pytest.raises(ConfigurationError, match="--source"):
        run(f"{tmp_path}/nowhere/{{run_date}}/", tmp_path / "1")


def test_what_the_job_wrote_is_not_its_input(tmp_path: Path) -> None:
    folder = tmp_path / "all"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(line("x"))
    store = FolderStore(folder)
    store.put("job/published/output.jsonl", line("y"))
    assert run(folder, tmp_path / "0", store=store).account.requests == 1


def test_a_source_on_s3(s3_bucket: str, tmp_path: Path) -> None:
    client = boto3.session.Session().client("s3")
    client.put_object(Bucket=s3_bucket, Key="logs/2026-03-01/a.jsonl", Body=line("x"))
    client.put_object(Bucket=s3_bucket, Key="logs/2026-03-01/b.jsonl.gz", Body=gzip.compress(line("x")))
    client.put_object(Bucket=s3_bucket, Key="logs/2026-03-011/c.jsonl", Body=line("x"))
    source = f"s3://{s3_bucket}/logs/{{run_date}}"
    result = run(source, tmp_path / "0")
    assert [found.source_uri for found in result.objects] == [
        f"s3://{s3_bucket}/logs/2026-03-01/a.jsonl",
        f"s3://{s3_bucket}/logs/2026-03-01/b.jsonl.gz",
    ]
    assert result.account.requests == 2
    with pytest.raises(ConfigurationError, match=r"--run-date 2026-04-01.*logs/2026-03-01/a.jsonl"):
        run(source, tmp_path / "1", run_date=date(2026, 4, 1))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = ["custom_id", "url", "body", "method"]
BODY = st.dictionaries(st.sampled_from(["messages", "prompt", "model", "tools", "n", "seed", "stop"]), JSON)
LINES = st.one_of(
    st.binary(max_size=40).map(lambda data: data.replace(b"\n", b"")),
    st.sampled_from([b"", b"  \r", b"{" * 300, b"x" * 3000, b'{"a": 1}', b"null"]),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(st.sampled_from(NAMES), JSON).map(lambda value: json.dumps(value).encode()),
    st.builds(
        lambda name, body, url: json.dumps({"custom_id": name, "url": url, "body": body}).encode(),
        st.none() | st.sampled_from("abc"),
        BODY,
        st.sampled_from(["/v1/chat/completions", "/v1/completions"]),
    ),
    st.builds(
        lambda name, text: line(name, text).strip(), st.none() | st.sampled_from("abc"), st.sampled_from("xy")
    ),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(LINES, max_size=25),
    st.booleans(),
    st.booleans(),
    st.sampled_from([(), ("m",)]),
    st.sampled_from([1, 7, 4096]),
)
def test_nothing_is_lost(
    tmp_path_factory: pytest.TempPathFactory,
    found: list[bytes],
    end: bool,
    packed: bool,
    models: tuple[str, ...],
    flush: int,
) -> None:
    folder = tmp_path_factory.mktemp("lost")
    # Not a JSON document: those have records and no lines.
    found = [b"null", *found]
    text = b"\n".join(found) + (b"\n" if end and found else b"")
    path = folder / ("day.jsonl.gz" if packed else "day.jsonl")
    path.write_bytes(gzip.compress(text) if packed else text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_files, "FLUSH_ROWS", flush)
        result = run(path, folder / "out", settings=ExtractSettings(model_filter=models, max_line_bytes=2000))
    total = result.account
    expected = text.split(b"\n")
    if not expected[-1]:
        expected.pop()
    tables = {table: rows(result, table) for table in ("requests", "errors", "quarantine")}
    assert total.lines == len(expected)
    assert total.blank == sum(not data.strip(b" \t\r") for data in expected)
    assert total.requests == len(tables["requests"]) + len(tables["errors"])
    assert (total.errors, total.quarantined) == (len(tables["errors"]), len(tables["quarantine"]))
    assert total.lines == total.blank + total.filtered + total.quarantined + total.requests
    numbers = [row["source_line"] for table in tables.values() for row in table]
    assert len(set(numbers)) == len(numbers)
    ids = [row["request_id"] for table in ("requests", "errors") for row in tables[table]]
    assert len(set(ids)) == len(ids)


def test_real_questions(tmp_path: Path) -> None:
    questions = pq.read_table(trace("mmlu.parquet")).slice(300, 200).to_pylist()
    texts = [
        "\n".join(
            [q["question"], *(f"{letter}. {q[f'choice{i}']}" for i, letter in enumerate("ABCD")), "Answer:"]
        )
        for q in questions
    ]
    path = tmp_path / "mmlu.jsonl.gz"
    data = b"".join(
        line(f"q{i}", text, metadata={"workload": "mmlu", "tenant": questions[i]["subject"]}, max_tokens=1)
        for i, text in enumerate(texts)
    )
    path.write_bytes(gzip.compress(data))
    result = run(path, tmp_path / "out")
    assert result.account == Account(lines=200, requests=200)
    found = rows(result, "requests")
    assert [json.loads(row["messages_json"])[0]["content"] for row in found] == texts
    assert {row["workload"] for row in found} == {"mmlu"}
    assert [row["tenant"] for row in found] == [q["subject"] for q in questions]
    assert {row["max_tokens"] for row in found} == {1}
