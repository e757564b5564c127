"""Inputs made to do harm end in quarantine or as an object error, in bounded memory, never in a crash."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import zlib
from datetime import date
from typing import TYPE_CHECKING, Any

import boto3
import pyarrow.parquet as pq
import pytest
import zstandard

from tasks.base.accounting import Account
from tasks.extract.extract import ExtractSettings, extract
from tasks.extract.text import decompress
from tasks.extract.text.zstd_frames import FrameTracker
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

DAY = date(2026, 3, 1)


def line(name: str, text: str = "hi") -> bytes:
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    record = {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(record).encode() + b"\n"


def run(path: Path | str, scratch: Path, **settings: Any) -> Any:
    return extract(str(path), job="j", run_date=DAY, scratch=scratch, settings=ExtractSettings(**settings))


def gzip_bomb(megabytes: int, piece: bytes) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    return b"".join(packer.compress(piece) for _ in range(megabytes)) + packer.flush()


@pytest.mark.parametrize("packed", ["gzip", "zstd"])
@pytest.mark.parametrize("piece", [b"\n" * (1 << 20), b"\0" * (1 << 20)])
def test_a_bomb_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: str, piece: bytes
) -> None:
    monkeypatch.setattr(decompress, "EXPANSION_GRACE", 1 << 20)
    data = gzip_bomb(8, piece) if packed == "gzip" else zstandard.ZstdCompressor().compress(piece * 8)
    (tmp_path / "bomb.jsonl").write_bytes(data)
    result = run(tmp_path / "bomb.jsonl", tmp_path / "out", max_line_bytes=1 << 20)
    (error,) = result.object_errors
    assert "unpacks to more than" in error.message
    assert error.text_offset <= 4 << 20


def test_a_line_far_over_the_limit_is_not_held(tmp_path: Path) -> None:
    """In a process of its own, so that its peak memory is its own: a line of 160 MB between two requests."""
    packer = zlib.compressobj(1, wbits=31)
    with (tmp_path / "long.jsonl.gz").open("wb") as out:
        out.write(packer.compress(line("a") + b'{"x": "'))
        # Random enough not to be taken for a bomb.
        noise = os.urandom(1 << 15).hex().encode() * 16
        for _ in range(160):
            out.write(packer.compress(noise))
        out.write(packer.compress(b'"}\n' + line("b")) + packer.flush())
    code = (
        "import sys, resource; from datetime import date; from pathlib import Path\n"
        "from tasks.extract.extract import extract\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "place = {'job': 'j', 'run_date': date(2026, 3, 1), 'scratch': Path(sys.argv[2])}\n"
        "found = extract(sys.argv[1], processes=1, **place)\n"
        "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(found.account.requests, found.account.quarantined, (after - before) // 1024)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "long.jsonl.gz"), str(tmp_path / "out")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    requests, quarantined, megabytes = map(int, done.stdout.split())
    assert (requests, quarantined) == (2, 1)
    assert megabytes < 140


@pytest.mark.parametrize(
    "key", ["logs/../../up.jsonl", "logs/./x.jsonl", "logs//y.jsonl", "logs/\\..\\z.jsonl"]
)
def test_keys_that_climb(s3_bucket: str, tmp_path: Path, key: str) -> None:
    """Keys of S3 are any text; none of them names a file here."""
    client = boto3.session.Session().client("s3")
    client.put_object(Bucket=s3_bucket, Key="logs/good.jsonl", Body=line("a"))
    client.put_object(Bucket=s3_bucket, Key=key, Body=line("b"))
    scratch = tmp_path / "deep" / "scratch"
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    result = run(f"s3://{s3_bucket}/logs/", scratch)
    made = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert all(path.is_relative_to(scratch) for path in made)
    assert result.account.requests + result.account.object_errors == 2


def test_truncated_and_damaged_zstd(tmp_path: Path) -> None:
    text = b"".join(line(f"r{n}", os.urandom(200).hex()) for n in range(3000))
    packed = zstandard.ZstdCompressor(write_checksum=True).compress(text)
    (tmp_path / "a.jsonl.zst").write_bytes(packed[: len(packed) // 2])
    damaged = bytearray(packed)
    damaged[len(packed) // 2] ^= 0xFF
    (tmp_path / "b.jsonl.zst").write_bytes(bytes(damaged))
    (tmp_path / "c.jsonl.zst").write_bytes(packed + zstandard.ZstdCompressor().compress(line("more")))
    result = run(tmp_path, tmp_path / "out")
    cut, bad, whole = result.objects
    assert cut.error is not None
    assert "truncated" in cut.error.message
    assert 0 < cut.account.requests < 3000
    assert bad.error is not None
    assert "damaged" in bad.error.message
    assert (whole.error, whole.account) == (None, Account(lines=3001, requests=3001))


@pytest.mark.parametrize("pledged", [True, False])
@pytest.mark.parametrize("checksum", [True, False])
def test_frames_are_followed_to_their_end(pledged: bool, checksum: bool) -> None:
    frames = []
    for size in (0, 1, 300, 70_000, 400_000):
        data = (os.urandom(100) * (size // 100 + 1))[:size] if size != 300 else b"\0" * 300
        packer = zstandard.ZstdCompressor(write_checksum=checksum, write_content_size=pledged)
        made = packer.compressobj(size=size if pledged else -1)
        frames.append(made.compress(data) + made.flush())
    frames.append(b"\x50\x2a\x4d\x18\x03\0\0\0abc")
    whole = b"".join(frames)
    ends = {sum(map(len, frames[:n])) for n in range(len(frames) + 1)}
    for step in (1, 7, 4096):
        tracker = FrameTracker()
        for at in range(0, min(len(whole), 80_000 * step), step):
            tracker.feed(whole[at : at + step])
            place = min(at + step, len(whole))
            assert tracker.whole == (place in ends)


def test_prompts_do_not_reach_logs_or_errors(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    secret = "the-prompt-nobody-may-read"
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(line("a", secret) + b'{"custom_id": "' + secret.encode() + b'", \n')
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(line("b", secret * 50))[:-20])
    (folder / "c.csv").write_bytes(b"TIMESTAMP,ContextTokens,GeneratedTokens\n" + secret.encode() + b",x,1\n")
    with caplog.at_level("DEBUG"):
        result = run(folder, tmp_path / "out")
    assert secret not in caplog.text
    assert secret not in str(result.object_errors)
    for path in result.files("quarantine"):
        for row in pq.read_table(path).to_pylist():
            assert secret not in row["message"]
            assert secret not in str(row["field"])
    assert result.account.quarantined == 2
