"""10,000 mutated lines of 30 kinds; each mutation says what must become of its line."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from datetime import date
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
import zstandard

from tasks.extract.extract import ExtractSettings, extract

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DAY = date(2026, 3, 1)
LIMIT = 4000
LINES = 10_000
READ = "read"
Outcome = tuple[str, Any]


def text(rng: random.Random) -> str:
    letters = 'abcdefghij äöü "\\/{}[]:,\n\t🙂漢\u2028\x7f'
    return "".join(rng.choices(letters, k=rng.randint(1, 60))) + "."


def record(rng: random.Random, number: int) -> dict[str, Any]:
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": text(rng)}],
        "max_tokens": rng.randint(1, 99),
    }
    return {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}


def dumped(found: dict[str, Any], **options: Any) -> bytes:
    return json.dumps(found, **options).encode()


def value(found: dict[str, Any]) -> Outcome:
    """Read, with the content that the record has."""
    content = found["body"]["messages"][0]["content"]
    if isinstance(content, list):
        content = "".join(part["text"] for part in content)
    return READ, content


def untouched(rng: random.Random, found: dict[str, Any]) -> tuple[bytes, Outcome]:
    return dumped(found), value(found)


def real_characters(rng: random.Random, found: dict[str, Any]) -> tuple[bytes, Outcome]:
    return dumped(found, ensure_ascii=False), value(found)


def spaces(rng: random.Random, found: dict[str, Any]) -> tuple[bytes, Outcome]:
    return b" \t" + dumped(found, separators=(" ,\t", " : ")) + b" \r", value(found)


def other_order(rng: random.Random, found: dict[str, Any]) -> tuple[bytes, Outcome]:
    return dumped(dict(reversed(found.items()))), value(found)


def parts(rng: random.Random, found: dict[str, Any]) -> tuple[bytes, Outcome]:
    content = found["body"]["messages"][0]["content"]
    cut = rng.randint(0, len(content))
    pieces = [{"type": "text", "text": content[:cut]}, {"type": "text", "text": content[cut:]}]
    found["body"]["messages"][0]["content"] = pieces
    return dumped(found), value(found)


def late_field(rng: random.Random, found: dict[str, Any]) -> tuple[bytes, Outcome]:
    found[f"field{rng.randint(0, 99)}"] = {"a": [1, "x", None]}
    return dumped(found), value(found)


def repeated_name(rng: random.Random, found: dict[str, Any]) -> tuple[bytes, Outcome]:
    return b'{"custom_id": "earlier", ' + dumped(found)[1:], value(found)


def null_settings(rng: random.Random, found: dict[str, Any]) -> tuple[bytes, Outcome]:
    found["body"] |= {"tools": None, "n": 1, "stop": None, "seed": 2**64 - 1}
    return dumped(found), value(found)


def no_method(rng: random.Random, found: dict[str, Any]) -> tuple[bytes, Outcome]:
    del found["method"]
    return dumped(found), value(found)


def unnamed(rng: random.Random, found: dict[str, Any]) -> tuple[bytes, Outcome]:
    found["custom_id"] = None
    return dumped(found), value(found)


def dropped_surrogate(rng: random.Random, found: dict[str, Any]) -> tuple[bytes, Outcome]:
    # A repeated name: the last counts, so the half character is not part of the record.
    return b'{"custom_id": "\\ud800", ' + dumped(found)[1:], value(found)


def blank(rng: random.Random, found: dict[str, Any]) -> tuple[bytes, Outcome]:
    return rng.choice([b"", b" ", b"\t \r"]), ("blank", None)


def cut(rng: random.Random, found: dict[str, Any]) -> tuple[bytes, Outcome]:
    data = dumped(found)
    return data[: rng.randint(1, len(data) - 1)], ("invalid_json", None)


def doubled(rng: random.Random, found: dict[str, Any]) -> tuple[bytes, Outcome]:
    return dumped(found) * 2, ("invalid_json", None)


def flipped_utf8(rng: random.Random, found: dict[str, Any]) -> tuple[bytes, Outcome]:
    data = dumped(found)
    place = data.index(b'"content"') + 12
    return data[:place] + rng.choice([b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf8"]) + data[place:], (
        "invalid_utf8",
        None,
    )


def other_encoding(rng: random.Random, found: dict[str, Any]) -> tuple[bytes, Outcome]:
    found["body"]["messages"][0]["content"] = "Grüße"
    return json.dumps(found, ensure_ascii=False).encode("latin-1"), ("invalid_utf8", None)


def wide_encoding(rng: random.Random, found: dict[str, Any]) -> tuple[bytes, Outcome]:
    data = json.dumps(found).encode("utf-16")
    return data.replace(b"\n", b""), ("invalid_utf8", None)


def control_character(rng: random.Random, found: dict[str, Any]) -> tuple[bytes, Outcome]:
    return dumped(found).replace(b'"content": "', b'"content": "\x01', 1), ("invalid_json", None)


def not_a_number(rng: random.Random, found: dict[str, Any]) -> tuple[bytes, Outcome]:
    bad = rng.choice([b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999"])
    return b'{"x": ' + bad + b", " + dumped(found)[1:], ("invalid_json", None)


def lone_surrogate(rng: random.Random, found: dict[str, Any]) -> tuple[bytes, Outcome]:
    bad = rng.choice([b"\\ud800", b"\\udfff", b"\\ude00\\ud83d"])
    return dumped(found).replace(b'"content": "', b'"content": "' + bad, 1), ("invalid_json", None)


def deep(rng: random.Random, found: dict[str, Any]) -> tuple[bytes, Outcome]:
    levels = rng.choice([110, 500, 1200, 1800])
    deep = rng.choice([b"[" * levels + b"]" * levels, b'{"a":' * levels + b"1" + b"}" * levels])
    data = b'{"x": ' + deep + b", " + dumped(found)[1:]
    return data, ("line_too_long" if len(data) > LIMIT else "invalid_json", None)


def too_long(rng: random.Random, found: dict[str, Any]) -> tuple[bytes, Outcome]:
    found["body"]["messages"][0]["content"] = "x" * rng.randint(LIMIT, 3 * LIMIT)
    return dumped(found), ("line_too_long", None)


def no_object(rng: random.Random, found: dict[str, Any]) -> tuple[bytes, Outcome]:
    return rng.choice([b"3", b"null", b'"x"', b"[]", b"[1, {}]", b"true"]), ("not_an_object", None)


def no_body(rng: random.Random, found: dict[str, Any]) -> tuple[bytes, Outcome]:
    name = rng.choice(["body", "url"])
    del found[name]
    if name == "url":
        # Messages would tell what is asked for.
        del found["body"]["messages"]
    return dumped(found), ("missing_field", None)


def no_url(rng: random.Random, found: dict[str, Any]) -> tuple[bytes, Outcome]:
    del found["url"]
    return dumped(found), (READ, found["body"]["messages"][0]["content"])


def wrong_body(rng: random.Random, found: dict[str, Any]) -> tuple[bytes, Outcome]:
    found["body"] = rng.choice([3, "x", [], [found["body"]], True])
    return dumped(found), ("invalid_field", None)


def wrong_name(rng: random.Random, found: dict[str, Any]) -> tuple[bytes, Outcome]:
    # Names that others do not have: two lines of one name are no two errors.
    own = found["custom_id"]
    found["custom_id"] = rng.choice(
        [3 * rng.getrandbits(60), "", [own], {own: True}, 1.5 + rng.getrandbits(40)]
    )
    return dumped(found), ("invalid_field", None)


def other_url(rng: random.Random, found: dict[str, Any]) -> tuple[bytes, Outcome]:
    found["url"] = rng.choice(["/v1/moderations", "", "../v1/chat/completions", "/v1/chat/completions/"])
    return dumped(found), ("unsupported_url", None)


def other_method(rng: random.Random, found: dict[str, Any]) -> tuple[bytes, Outcome]:
    found["method"] = rng.choice(["GET", "post", 3, []])
    return dumped(found), ("unsupported_method", None)


def unsupported(rng: random.Random, found: dict[str, Any]) -> tuple[bytes, Outcome]:
    name = rng.choice(["tools", "suffix", "response_format", "no_such_field", "\u0000"])
    found["body"][name] = {"a": 1}
    return dumped(found), ("unsupported_parameter", None)


def bad_setting(rng: random.Random, found: dict[str, Any]) -> tuple[bytes, Outcome]:
    name, bad = rng.choice(
        [
            ("max_tokens", 0),
            ("max_tokens", "5"),
            ("temperature", 3),
            ("top_p", 0),
            ("seed", 2**64),
            ("n", 1.5),
        ]
    )
    found["body"][name] = bad
    return dumped(found), ("invalid_parameter", None)


def bad_messages(rng: random.Random, found: dict[str, Any]) -> tuple[bytes, Outcome]:
    found["body"]["messages"] = rng.choice(
        ["x", {"role": "user"}, [3], [None], [{"role": [], "content": "x"}], [{"role": "user", "content": 3}]]
    )
    return dumped(found), ("invalid_parameter", None)


def empty_chat(rng: random.Random, found: dict[str, Any]) -> tuple[bytes, Outcome]:
    found["body"]["messages"] = []
    return dumped(found), ("empty_prompt", None)


KINDS: list[Callable[[random.Random, dict[str, Any]], tuple[bytes, Outcome]]] = [
    untouched,
    real_characters,
    spaces,
    other_order,
    parts,
    late_field,
    repeated_name,
    null_settings,
    no_method,
    unnamed,
    dropped_surrogate,
    blank,
    cut,
    doubled,
    flipped_utf8,
    other_encoding,
    wide_encoding,
    control_character,
    not_a_number,
    lone_surrogate,
    deep,
    too_long,
    no_object,
    no_body,
    no_url,
    wrong_body,
    wrong_name,
    other_url,
    other_method,
    unsupported,
    bad_setting,
    bad_messages,
    empty_chat,
]


@pytest.mark.parametrize("packed", ["plain", "gzip", "zstd"])
def test_every_mutation_ends_as_it_must(tmp_path: Path, packed: str) -> None:
    rng = random.Random(f"logs {packed}")
    lines, expected = [], {}
    for number in range(1, LINES + 1):
        kind = KINDS[number % len(KINDS)]
        data, outcome = kind(rng, record(rng, number))
        if not data.strip() and outcome[0] != "blank":
            data, outcome = b"{", ("invalid_json", None)
        assert b"\n" not in data
        lines.append(data)
        expected[number] = (*outcome, kind.__name__)
    text_bytes = b"\n".join(lines)
    packs = {"plain": bytes, "gzip": gzip.compress, "zstd": zstandard.ZstdCompressor().compress}
    path = tmp_path / "day.jsonl"
    path.write_bytes(packs[packed](text_bytes))
    result = extract(
        str(path),
        job="j",
        run_date=DAY,
        scratch=tmp_path / "out",
        settings=ExtractSettings(max_line_bytes=LIMIT),
    )
    found: dict[int, tuple[str, Any]] = {}
    offsets = {}
    for table in ("requests", "errors", "quarantine"):
        for file in result.files(table):
            for row in pq.read_table(file).to_pylist():
                assert row["source_line"] not in found
                if table == "requests":
                    content = json.loads(row["messages_json"])[0]["content"]
                    found[row["source_line"]] = (READ, content)
                else:
                    found[row["source_line"]] = (row["code"], None)
                if table == "quarantine":
                    offsets[row["source_line"]] = (row["byte_offset"], row["byte_length"])
                    assert len(row["raw_text"]) <= 2000
    wrong = [
        (expected[number], found.get(number, ("blank", None)))
        for number in expected
        if found.get(number, ("blank", None)) != expected[number][:2]
    ]
    assert not wrong, wrong[:3]
    for number, (offset, length) in offsets.items():
        assert text_bytes[offset : offset + length] == lines[number - 1]
    counts = Counter(outcome for outcome, _, _ in expected.values())
    assert counts[READ] >= 0.3 * LINES
    assert len(KINDS) >= 30
    account = result.account
    assert (account.lines, account.blank, account.object_errors) == (LINES, counts["blank"], 0)
    assert account.requests - account.errors == counts[READ]
