"""Records that are not one a line: behind each other without line ends, over several lines, in batches."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.base.errors import QuarantineError
from tasks.extract.parse.sniff import sniff
from tasks.extract.text import decompress
from tasks.extract.text.decompress import TextStream
from tasks.extract.text.documents import DocumentReader
from tasks.extract.text.nested import OTLP as BATCH_PATH
from tasks.extract.text.nested import WRAPPED, NestedDocument, Path, spans_of
from tests.support.log_samples import SAMPLES

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.extract.text.lines import RawLine

LIMIT = 1 << 20
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(['}{"a": 1}', "\n{", '"']),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
RECORDS = st.lists(st.dictionaries(st.text(max_size=4), VALUES, max_size=3), max_size=6)


def read(
    reader: Callable[[TextStream, int], DocumentReader],
    data: bytes,
    chunk: int = decompress.CHUNK_BYTES,
    limit: int = LIMIT,
) -> tuple[list[Any], list[RawLine], DocumentReader]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decompress, "CHUNK_BYTES", chunk)
        made = reader(TextStream(io.BytesIO(data), "plain"), limit)
        found = list(made)
    return [record for record, _ in found], [line for _, line in found], made


def read_nested(
    data: bytes, chunk: int, path: Path = BATCH_PATH
) -> tuple[list[Any], list[RawLine], DocumentReader]:
    return read(lambda text, limit: NestedDocument(text, limit, path), data, chunk)


@settings(deadline=None, max_examples=60)
@given(RECORDS, st.data(), st.integers(1, 40), st.booleans())
def test_records_behind_each_other(
    records: list[dict[str, Any]], data: st.DataObject, chunk: int, ascii_only: bool
) -> None:
    text = b""
    for record in records:
        indent = data.draw(st.sampled_from([None, 1]))
        text += json.dumps(record, indent=indent, ensure_ascii=ascii_only).encode()
        text += data.draw(st.sampled_from([b"", b" ", b"\n", b"\r\n\n"]))
    found, lines, made = read(DocumentReader, text, chunk)
    assert found == records
    assert made.failure is None
    assert [line.number for line in lines] == list(range(1, len(records) + 1))
    for record, line in zip(records, lines, strict=True):
        assert json.loads(text[line.offset : line.offset + line.length]) == record


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_a_broken_record_costs_itself(chunk: int) -> None:
    text = b'{"a": 1}{"b": 2}\n{"c": 3, "d\n{"e": 5}{"f": tru}{"g": 7}\n{"h": 8}'
    found, lines, made = read(DocumentReader, text, chunk)
    assert made.failure is None
    assert [item for item in found if not isinstance(item, QuarantineError)] == [
        {"a": 1},
        {"b": 2},
        {"e": 5},
        {"h": 8},
    ]
    bad = [line for item, line in zip(found, lines, strict=True) if isinstance(item, QuarantineError)]
    assert [line.data for line in bad] == [b'{"c": 3, "d', b'{"f": tru}{"g": 7}']
    assert b"".join(text[line.offset :][: line.length] for line in lines) == text.replace(b"\n", b"")


def test_a_record_that_never_ends_is_told_with_its_place() -> None:
    text = b'{"a": 1}{"b": "' + b"x" * 100
    found, _, made = read(DocumentReader, text, 16)
    assert found == [{"a": 1}]
    assert made.failure is not None
    assert made.failure.text_offset == 8
    assert "broken after 1 records" in made.failure.message


SPANS = st.lists(st.dictionaries(st.sampled_from(["name", "spans", "n"]), VALUES, max_size=3), max_size=4)
NAMES = st.sampled_from(
    [
        ("resourceSpans", "scopeSpans"),
        ("resource_spans", "scope_spans"),
        ("resourceSpans", "instrumentationLibrarySpans"),
    ]
)


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(1, 50), st.sampled_from([None, 2]), st.booleans())
def test_spans_of_batches(data: st.DataObject, chunk: int, indent: int | None, array: bool) -> None:
    def scope() -> Any:
        return {"scope": data.draw(VALUES), "spans": data.draw(SPANS), "schemaUrl": "x"}

    def batch() -> dict[str, Any]:
        outer, inner = data.draw(NAMES)
        scopes = [scope() for _ in range(data.draw(st.integers(0, 2)))]
        return {
            outer: [{"resource": {"spans": [{"no": 1}]}, inner: scopes}, {}, None],
            "more": data.draw(VALUES),
        }

    batches = [batch() for _ in range(data.draw(st.integers(0, 3)))]
    made: list[Any] = [batches] if array else batches
    text = "\n".join(json.dumps(item, indent=indent) for item in made).encode()
    found, lines, reader = read_nested(text, chunk)
    assert reader.failure is None
    assert found == [span for item in batches for span in spans_of(item)]
    assert [json.loads(text[line.offset :][: line.length]) for line in lines] == found


def test_a_batch_far_over_the_limit_is_read_span_by_span() -> None:
    spans = [{"spanId": str(n), "text": "x" * 500} for n in range(2000)]
    text = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}, indent=1).encode()
    most = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decompress, "CHUNK_BYTES", 4096)
        reader = NestedDocument(TextStream(io.BytesIO(text), "plain"), 1000, BATCH_PATH)
        found = []
        for span, _ in reader:
            found.append(span)
            most = max(most, len(reader._buffer))
    assert found == spans
    assert reader.failure is None
    assert most < 16_384 < len(text)


@pytest.mark.parametrize("cut", [1, 40, 120, 200])
def test_a_batch_that_breaks_off(cut: int) -> None:
    batch = {"resourceSpans": [{"scopeSpans": [{"spans": SAMPLES["otel"]}]}]}
    text = json.dumps(batch, indent=2).encode()
    found, _, reader = read_nested(text[:-cut], 64)
    assert found == SAMPLES["otel"][: len(found)]
    assert len(found) >= len(SAMPLES["otel"]) - 1
    assert reader.failure is not None
    _, _, reader = read_nested(text.replace(b'"spans": [', b'"spans" ['), 64)
    assert reader.failure is not None
    assert "broken after 0 records" in reader.failure.message


@settings(deadline=None, max_examples=60)
@given(RECORDS, st.integers(1, 50), st.sampled_from([None, 2]), st.sampled_from(WRAPPED[0]))
def test_records_that_are_wrapped(
    records: list[dict[str, Any]], chunk: int, indent: int | None, name: str
) -> None:
    page = {"meta": {name: [{"no": 1}]}, name: records, "next": None}
    text = "\n".join(json.dumps(page, indent=indent) for _ in range(2)).encode()
    found, lines, reader = read_nested(text, chunk, WRAPPED)
    assert reader.failure is None
    assert found == records * 2
    assert [json.loads(text[line.offset :][: line.length]) for line in lines] == found


LINE = json.dumps(SAMPLES["openai-batch"][0])
OTLP = {"resourceSpans": [{"scopeSpans": [{"spans": SAMPLES["otel"]}]}]}


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        (LINE + LINE, "document", "openai-batch"),
        (LINE + " " + LINE + "\n" + LINE + LINE + "\n" + LINE, "document", "openai-batch"),
        (LINE + "\n" + LINE + LINE + "\n" + LINE, "jsonl", "openai-batch"),
        (LINE + "\n" + LINE, "jsonl", "openai-batch"),
        # One line is cut, the others are whole.
        (LINE[:60] + "\n" + LINE + "\n", "jsonl", "openai-batch"),
        ('{"body": [\n' + LINE + "\n" + LINE, "jsonl", "openai-batch"),
        (LINE.replace('"body"', '\n"body"'), "document", "openai-batch"),
        ("\ufeff" + LINE + LINE, "document", "openai-batch"),
        (json.dumps({"pad": "x" * (300 << 10)}) + LINE, "document", "openai-batch"),
        (LINE.replace("river", "r" * (300 << 10)) + LINE, "document", "openai-batch"),
        (json.dumps(OTLP), "otlp", "otel"),
        (json.dumps(OTLP, indent=2), "otlp-document", "otel"),
        (json.dumps([OTLP, OTLP], indent=2), "otlp-document", "otel"),
        (json.dumps([OTLP]), "otlp-document", "otel"),
        (json.dumps({"meta": {}, "data": SAMPLES["langfuse"]}), "wrapped", "langfuse"),
        (json.dumps({"meta": {}, "data": SAMPLES["langfuse"]}, indent=2), "wrapped", "langfuse"),
        (json.dumps({"object": "list", "data": [json.loads(LINE)]}) + "\n", "wrapped", "openai-batch"),
        # The record itself is known.
        (json.dumps(json.loads(LINE) | {"data": [json.loads(LINE)]}), "jsonl", "openai-batch"),
        ('{"resourceSpans": [\n' + json.dumps(OTLP)[19:], "otlp-document", "otel"),
    ],
)
def test_what_an_object_is_made_of(text: str, kind: str, name: str) -> None:
    found = sniff(TextStream(io.BytesIO(text.encode())), 16 << 20, None)
    assert found.kind == kind
    assert found.reader is not None
    assert found.reader.name == name
