"""The store and the reading of logs against a real server: it checks signatures, ranges and conditions."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.config import Config

from tasks.base.accounting import Account
from tasks.base.errors import ConfigurationError
from tasks.extract.extract import extract
from tasks.store import s3_ranges
from tasks.store.contract import StoreUnavailableError
from tasks.store.open import open_store
from tasks.store.s3 import S3Store
from tests.s3.cutting_proxy import CuttingProxy

if TYPE_CHECKING:
    from pathlib import Path

DAY = date(2026, 3, 1)
OBJECTS = 10_000


def line(name: str, text: str = "hi") -> bytes:
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    record = {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(record).encode() + b"\n"


def test_the_probe_and_one_winner_among_many(bucket: str) -> None:
    store = open_store(f"s3://{bucket}/store")
    store.probe()
    store.probe()
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda n: store.put_if_absent("log/0", str(n).encode()), range(32)))
    assert won.count(True) == 1
    assert store.get("log/0") == str(won.index(True)).encode()


def test_a_wrong_secret_is_one_line_without_secrets(
    bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    with pytest.raises(ConfigurationError, match="secret key does not belong") as caught:
        open_store(f"s3://{bucket}/x").probe()
    with pytest.raises(ConfigurationError, match="--source"):
        extract(f"s3://{bucket}/logs/", job="j", run_date=DAY, scratch=tmp_path)
    assert "not-the-secret" not in str(caught.value)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "NOBODY")
    with pytest.raises(ConfigurationError, match="access key"):
        open_store(f"s3://{bucket}/x").probe()


def test_a_missing_bucket(radosgw: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no bucket 'nowhere-to-be-found'"):
        open_store("s3://nowhere-to-be-found/x").probe()
    with pytest.raises(ConfigurationError, match=f"no bucket.*{radosgw}"):
        extract("s3://nowhere-to-be-found/logs/", job="j", run_date=DAY, scratch=tmp_path)


def test_ten_thousand_objects(bucket: str, tmp_path: Path) -> None:
    client = boto3.session.Session().client("s3", config=Config(max_pool_connections=16))

    def put(number: int) -> None:
        key = f"logs/2026-03-01/{number % 24:02d}/{number:05d}.json"
        client.put_object(Bucket=bucket, Key=key, Body=line(f"r{number}", f"question {number}"))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(put, range(OBJECTS)))
    source = f"s3://{bucket}/logs/{{run_date}}/"
    store = S3Store(bucket, "store")
    first = extract(source, job="j", run_date=DAY, scratch=tmp_path / "0", store=store)
    assert first.account == Account(lines=OBJECTS, requests=OBJECTS)
    assert len(first.objects) == OBJECTS
    # Kept in a few groups, not in one file for each object.
    assert len(list(store.list("j/parsed/"))) < 30
    client.put_object(Bucket=bucket, Key="logs/2026-03-01/24/late.jsonl", Body=line("late"))
    second = extract(source, job="j", run_date=DAY, scratch=tmp_path / "1", store=store)
    assert sum(found.reused for found in second.objects) == OBJECTS
    assert second.late == [f"s3://{bucket}/logs/2026-03-01/24/late.jsonl"]
    assert second.account == Account(lines=OBJECTS + 1, requests=OBJECTS + 1)


def test_multipart_both_ways(bucket: str, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(1 << 20) * 40)
    store = S3Store(bucket, "store")
    store.put_file("large", path)
    (info,) = store.list("large")
    assert "-" in info.etag
    assert info.size == 40 << 20
    store.get_file("large", tmp_path / "back")
    with (tmp_path / "back").open("rb") as back, path.open("rb") as sent, store.open_stream("large") as read:
        digests = {hashlib.file_digest(file, "sha256").hexdigest() for file in (back, sent, read)}
    assert len(digests) == 1


@pytest.mark.parametrize("packed", [False, True])
def test_a_connection_cut_in_mid_download(
    bucket: str, radosgw: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    data = b"".join(line(f"r{n}", os.urandom(1000).hex()) for n in range(20_000))
    stored = gzip.compress(data, 1) if packed else data
    S3Store(bucket).put("logs/day.jsonl", stored)
    with CuttingProxy(radosgw, after=3_000_000, cuts=5) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        result = extract(f"s3://{bucket}/logs/", job="j", run_date=DAY, scratch=tmp_path)
        assert proxy.cut == 5
    assert result.account == Account(lines=20_000, requests=20_000)
    monkeypatch.setenv("AWS_ENDPOINT_URL", radosgw)
    whole = extract(f"s3://{bucket}/logs/", job="j", run_date=DAY, scratch=tmp_path / "whole")
    assert whole.input_digest == result.input_digest


def test_an_object_replaced_while_it_is_read(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_ranges, "RANGE_BYTES", 1 << 20)
    monkeypatch.setattr(s3_ranges, "FETCHES", 2)
    store = S3Store(bucket, attempts=2, pause_s=0.01)
    store.put("a", b"1" * (40 << 20))
    with store.open_stream("a") as stream:
        stream.read(1 << 20)
        store.put("a", b"2" * (40 << 20))
        with pytest.raises(StoreUnavailableError, match="changed while it was read"):
            stream.read()
