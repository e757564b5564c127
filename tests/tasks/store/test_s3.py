"""What only S3 can do wrong."""

from __future__ import annotations

import socket
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
    SSLError,
)

from tasks.base.errors import ConfigurationError
from tasks.store import s3, s3_ranges
from tasks.store.contract import StoreUnavailableError
from tasks.store.open import list_source, open_store, split_source
from tasks.store.s3 import S3Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def make(bucket: str, **settings: Any) -> S3Store:
    return S3Store(bucket, "p", attempts=3, pause_s=0.01, **settings)


def refuse(code: str, status: int) -> ClientError:
    answer = {
        "Error": {"Code": code, "Message": "AKIASECRET"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(answer, "PutObject")  # type: ignore[arg-type]


def fail_first(store: S3Store, operation: str, errors: list[Exception], *, apply: bool = False) -> list[int]:
    """Let the next calls of one operation fail; `apply` lets them take effect all the same."""
    real = getattr(store._client, operation)
    calls: list[int] = []

    def call(**arguments: Any) -> Any:
        calls.append(1)
        if not errors:
            return real(**arguments)
        if apply:
            real(**arguments)
        raise errors.pop(0)

    setattr(store._client, operation, call)
    return calls


def test_missing_bucket_is_one_line(s3_server: str) -> None:
    store = S3Store("no-such-bucket", "p")
    operations: list[Callable[[], object]] = [
        store.probe,
        lambda: store.get("a"),
        lambda: store.put("a", b""),
        lambda: list(store.list()),
    ]
    for operation in operations:
        with pytest.raises(ConfigurationError) as caught:
            operation()
        line = str(caught.value)
        assert line.startswith(f"--store: there is no bucket 'no-such-bucket' at {s3_server}")
        assert "AWS_ENDPOINT_URL" in line
        assert "\n" not in line


def test_missing_bucket_of_a_source(s3_server: str) -> None:
    del s3_server
    store, prefix = split_source("s3://no-such-bucket/logs/", "--source")
    with pytest.raises(ConfigurationError, match=r"--source: there is no bucket"):
        list(list_source(store, prefix))


def test_wrong_endpoint_is_one_line(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    del s3_server
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(ConfigurationError) as caught:
        open_store("s3://bucket/p", "--store").probe()
    assert str(caught.value).startswith(f"--store: the S3 endpoint {url} cannot be reached.")
    assert "AWS_ENDPOINT_URL" in str(caught.value)


def test_a_web_page_is_no_store(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    del s3_server

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html><p>Hello</html>")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(ConfigurationError, match="does not speak S3"):
            list(open_store("s3://bucket/p").list())
        server.shutdown()


def test_malformed_endpoint_is_one_line(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    del s3_server
    monkeypatch.setenv("AWS_ENDPOINT_URL", "minio:9000")
    with pytest.raises(ConfigurationError, match="--store: AWS_ENDPOINT_URL is not a URL"):
        open_store("s3://bucket/p")


def test_no_credentials_is_one_line(s3_bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match=r"--store: no credentials .*AWS_ACCESS_KEY_ID"):
        make(s3_bucket).probe()
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(ConfigurationError, match="AWS_PROFILE"):
        make(s3_bucket)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (refuse("AccessDenied", 403), "denies access"),
        (refuse("403", 403), "denies access"),
        (refuse("SignatureDoesNotMatch", 403), "AWS_SECRET_ACCESS_KEY"),
        (refuse("InvalidAccessKeyId", 403), "access key"),
        (refuse("ExpiredToken", 400), "AWS_SESSION_TOKEN"),
        (refuse("PermanentRedirect", 301), "AWS_REGION"),
        (refuse("NotImplemented", 501), "If-None-Match"),
        (refuse("SomethingNew", 400), "SomethingNew"),
        (NoCredentialsError(), "no credentials"),
        (SSLError(endpoint_url="https://x", error="self-signed"), "AWS_CA_BUNDLE"),
    ],
)
def test_errors_that_only_settings_can_help(s3_bucket: str, error: Exception, says: str) -> None:
    store = make(s3_bucket, field="--archive")
    calls = fail_first(store, "put_object", [error])
    with pytest.raises(ConfigurationError, match=r"^--archive: ") as caught:
        store.put_if_absent("a", b"")
    assert says in str(caught.value)
    assert "AKIASECRET" not in str(caught.value)
    assert len(calls) == 1


@pytest.mark.parametrize(
    "error",
    [
        refuse("SlowDown", 503),
        refuse("InternalError", 500),
        refuse("ConditionalRequestConflict", 409),
        ReadTimeoutError(endpoint_url="x"),
    ],
)
def test_passing_failures_are_retried(s3_bucket: str, error: Exception) -> None:
    store = make(s3_bucket)
    store.exists("a")
    calls = fail_first(store, "put_object", [error, error])
    assert store.put_if_absent("a", b"1")
    assert len(calls) == 3
    fail_first(store, "put_object", [error] * 5)
    with pytest.raises(StoreUnavailableError, match="after 3 attempts"):
        store.put_if_absent("b", b"1")


def test_connections_that_break_off_are_tried_again_from_the_first_one_on(s3_bucket: str) -> None:
    store = make(s3_bucket)
    fail_first(store, "put_object", [ConnectionClosedError(endpoint_url="x")] * 2)
    assert store.put_if_absent("a", b"1")
    # One that never does anything else is no store.
    never = make(s3_bucket)
    calls = fail_first(never, "put_object", [ConnectionClosedError(endpoint_url="x")] * 5)
    with pytest.raises(ConfigurationError, match="cannot be reached"):
        never.put_if_absent("a", b"1")
    assert len(calls) == 3


def test_an_applied_put_with_a_lost_answer_is_refused_when_repeated(s3_bucket: str) -> None:
    store = make(s3_bucket)
    store.exists("a")
    fail_first(store, "put_object", [ReadTimeoutError(endpoint_url="x")], apply=True)
    assert not store.put_if_absent("a", b"mine")
    assert store.get("a") == b"mine"


def test_an_endpoint_that_has_answered_is_an_outage_when_it_fails(s3_bucket: str) -> None:
    store = make(s3_bucket)
    fail_first(store, "put_object", [EndpointConnectionError(endpoint_url="x")])
    with pytest.raises(ConfigurationError, match="cannot be reached"):
        store.put("a", b"1")
    store.put("a", b"1")
    fail_first(store, "put_object", [EndpointConnectionError(endpoint_url="x")] * 3)
    with pytest.raises(StoreUnavailableError):
        store.put("a", b"1")


def test_server_without_conditional_put_is_refused(s3_bucket: str) -> None:
    store = make(s3_bucket)
    stripped = []

    def strip(request: Any, **_: Any) -> None:
        if request.headers.get("If-None-Match"):
            del request.headers["If-None-Match"]
            stripped.append(1)

    store._client.meta.events.register("before-sign.s3.PutObject", strip)
    with pytest.raises(ConfigurationError, match=r"--store: .*If-None-Match"):
        store.probe()
    assert len(stripped) == 2


def test_list_pages(s3_bucket: str) -> None:
    store = make(s3_bucket)
    names = [f"{n:04d}" for n in range(25)]
    for name in names:
        store.put(name, b"")
    boto3.session.Session().client("s3").put_object(Bucket=s3_bucket, Key="p/folder/", Body=b"")
    boto3.session.Session().client("s3").put_object(Bucket=s3_bucket, Key="p2/other", Body=b"")
    real = store._client.list_objects_v2
    store._client.list_objects_v2 = lambda **arguments: real(MaxKeys=10, **arguments)
    assert [info.key for info in store.list()] == names


def test_objects_of_others_with_odd_names_are_readable(s3_bucket: str) -> None:
    client = boto3.session.Session().client("s3")
    for key in ("p//a", "p/./b", "p/c\\d"):
        client.put_object(Bucket=s3_bucket, Key=key, Body=key.encode())
    store, prefix = split_source(f"s3://{s3_bucket}/p/")
    found = {store.object_uri(info.key): store.get(info.key) for info in list_source(store, prefix)}
    assert set(found.values()) == {b"p//a", b"p/./b", b"p/c\\d"}


def test_large_files_go_in_parts(s3_bucket: str, tmp_path: Path) -> None:
    source = tmp_path / "big"
    source.write_bytes(bytes(range(256)) * 4096 * 9)
    store = make(s3_bucket)
    store.put_file("big", source)
    assert "-" in store.get_with_info("big")[1].etag
    store.get_file("big", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()


def test_stream_goes_on_after_a_lost_connection(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(s3_bucket)
    data = bytes(range(256)) * 20_000
    store.put("big", data)
    monkeypatch.setattr(s3_ranges, "RANGE_BYTES", 1 << 20)
    monkeypatch.setattr(s3, "_PIECE_BYTES", 10_000)
    real = store._client.get_object
    starts = []

    class Breaking:
        def __init__(self, body: Any) -> None:
            self.body = body

        def iter_chunks(self, size: int) -> Any:
            for number, piece in enumerate(self.body.iter_chunks(size)):
                if number == 60:
                    raise ReadTimeoutError(endpoint_url="x")
                yield piece

    def get_object(**asked: Any) -> Any:
        starts.append(asked["Range"])
        answer = real(**asked)
        return {**answer, "Body": Breaking(answer["Body"])}

    monkeypatch.setattr(store._client, "get_object", get_object)
    with store.open_stream("big") as stream:
        assert stream.read(10) == data[:10]
        assert stream.read() == data[10:]
    # Five ranges, each once more from where it broke.
    assert len(starts) == 10
    assert "bytes=600000-1048575" in starts
    monkeypatch.setattr(s3_ranges, "FETCHES", 1)
    with store.open_stream("big") as stream:
        stream.read(10)
        store.put("big", b"x" * len(data))
        with pytest.raises(StoreUnavailableError, match="changed"):
            stream.read()


def test_a_wrong_checksum_is_told(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(s3_bucket)
    monkeypatch.setattr(s3_ranges, "RANGE_BYTES", 1000)
    store.put("a", b"x" * 2500)
    real = store.read_range
    with store.open_stream("a") as stream:
        assert stream.read() == b"x" * 2500

    def flipped(key: str, start: int, stop: int) -> s3_ranges.Range:
        found = real(key, start, stop)
        return replace(found, data=b"y" + found.data[1:]) if start == 1000 else found

    monkeypatch.setattr(S3Store, "read_range", lambda _, *place: flipped(*place))
    with store.open_stream("a") as stream, pytest.raises(StoreUnavailableError, match="checksum"):
        stream.read()


def test_an_etag_that_is_no_checksum_is_not_taken_for_one() -> None:
    assert s3_ranges.is_md5("0" * 32, {})
    assert not s3_ranges.is_md5("0" * 32 + "-3", {})
    assert not s3_ranges.is_md5("0" * 32, {"ServerSideEncryption": "aws:kms"})


def test_empty_objects_stream(s3_bucket: str) -> None:
    store = make(s3_bucket)
    store.put("empty", b"")
    with store.open_stream("empty") as stream:
        assert stream.read() == b""
