"""A store in a bucket of S3 or of anything that speaks it.

Endpoint, region and credentials come from the standard AWS chain and are never kept or printed here.
"""

from __future__ import annotations

import io
import random
import time
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import boto3
from boto3.exceptions import S3UploadFailedError
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from tasks.base.errors import ConfigurationError
from tasks.store.contract import (
    ObjectInfo,
    ObjectNotFoundError,
    StoreUnavailableError,
    check_key,
    check_prefix,
    probe_store,
    refuses_now,
)
from tasks.store.local_file import write_whole
from tasks.store.s3_errors import (
    NOT_FOUND,
    REFUSED,
    configuration_error,
    error_code,
    is_transient,
    took_connection,
    unreachable,
)
from tasks.store.s3_ranges import Range, RangedReader, is_md5

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

T = TypeVar("T")

_READ, _WRITE, _LIST, _DELETE = "read", "write", "list", "delete"
_READ_AHEAD = 1 << 20
_PIECE_BYTES = 1 << 18
_LONGEST_PAUSE_S = 8.0
_RAISED = (BotoCoreError, ClientError, ResponseParserError, S3UploadFailedError, OSError)


class S3Store:
    """Objects of one bucket below one prefix.

    Parameters
    ----------
    bucket
        Name of the bucket, which must exist.
    prefix
        Prepended to every key with a '/'; '' for the whole bucket.
    field
        The option that named the store, for errors.
    attempts
        How often an operation is tried before `StoreUnavailableError`, each attempt with the client's
        own quick retries inside. An endpoint that takes no connection, and never has, is tried once.
    pause_s
        Pause after the first failed attempt; it doubles up to 8 s.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        field: str = "--store",
        attempts: int = 5,
        pause_s: float = 0.5,
    ) -> None:
        self.bucket = bucket
        self.uri = f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"
        self._prefix = f"{prefix}/" if prefix else ""
        self._field = field
        self._attempts = attempts
        self._pause_s = pause_s
        self._answered = self._written = False
        settings = Config(
            retries={"mode": "standard", "total_max_attempts": 3},
            connect_timeout=5,
            read_timeout=60,
            max_pool_connections=32,
        )
        try:
            # A session of its own: the default one is shared state and not safe to create in threads.
            self._client: Any = boto3.session.Session().client("s3", config=settings)
        except (BotoCoreError, ValueError) as error:
            if isinstance(error, ValueError):
                raise ConfigurationError(
                    field, "AWS_ENDPOINT_URL is not a URL", "write it as https://host:port"
                ) from None
            raise configuration_error(error, field, bucket, "AWS") from None

    def __repr__(self) -> str:
        return f"S3Store({self.uri!r})"

    def get(self, key: str) -> bytes:
        """Read the whole object."""
        return self.get_with_info(key)[0]

    def get_with_info(self, key: str) -> tuple[bytes, ObjectInfo]:
        """Read the object; the information comes with the same answer."""

        def read() -> tuple[bytes, ObjectInfo]:
            answer = self._client.get_object(Bucket=self.bucket, Key=self._full(key))
            return answer["Body"].read(), _info(key, answer, answer["ContentLength"])

        return self._call(read, key)

    def open_stream(self, key: str) -> BinaryIO:
        """Open the object: several ranges are fetched at a time, each again if its connection breaks."""
        return io.BufferedReader(RangedReader(self, key), _READ_AHEAD)

    def put(self, key: str, data: bytes) -> None:
        """Write the object by one PUT."""
        full = self._full(check_key(key))
        self._call(lambda: self._client.put_object(Bucket=self.bucket, Key=full, Body=data), key, _WRITE)

    def put_file(self, key: str, path: Path) -> None:
        """Upload a file, in several parts if it is large; the object appears when it is complete."""
        full = self._full(check_key(key))
        self._call(lambda: self._client.upload_file(str(path), self.bucket, full), key, _WRITE)

    def get_file(self, key: str, path: Path) -> None:
        """Download to a local file, in several parts if it is large."""
        full = self._full(key)

        def download() -> None:
            write_whole(path, lambda out: self._client.download_fileobj(self.bucket, full, out))

        self._call(download, key)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write by one PUT with `If-None-Match: *`."""
        full = self._full(check_key(key))

        def create() -> bool:
            try:
                self._client.put_object(Bucket=self.bucket, Key=full, Body=data, IfNoneMatch="*")
            except ClientError as error:
                if error_code(error) in REFUSED:
                    return False
                raise
            return True

        return self._call(create, key, _WRITE)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """List page by page (S3 sorts by key); markers of empty folders are not objects."""
        check_prefix(prefix)
        token: dict[str, str] = {}
        while True:
            page = self._call(
                lambda: self._client.list_objects_v2(
                    Bucket=self.bucket,
                    Prefix=self._prefix + prefix,
                    **token,  # noqa: B023 - called before the loop goes on
                ),
                prefix,
                _LIST,
            )
            for entry in page.get("Contents", []):
                key = entry["Key"].removeprefix(self._prefix)
                if key and not key.endswith("/"):
                    yield _info(key, entry, entry["Size"])
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def exists(self, key: str) -> bool:
        """Tell whether there is an object, by HEAD."""
        return self._head(key) is not None

    def age_seconds(self, key: str) -> float | None:
        """Compare LastModified with the Date header of the same answer."""
        answer = self._head(key)
        if answer is None:
            return None
        date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        if date is None:
            raise ConfigurationError(
                self._field,
                f"{self.uri} answers without a Date header",
                "let the proxy in between pass it on",
            )
        written: datetime = answer["LastModified"]
        return max(0.0, (parsedate_to_datetime(date) - written).total_seconds())

    def delete(self, key: str) -> None:
        """Delete the object."""
        full = self._full(key)
        with suppress(ObjectNotFoundError):
            self._call(lambda: self._client.delete_object(Bucket=self.bucket, Key=full), key, _DELETE)

    def object_uri(self, key: str) -> str:
        """Return `s3://bucket/prefix/key`."""
        # A name only: also of keys that are never opened.
        return f"s3://{self.bucket}/{self._prefix}{key}"

    def probe(self) -> None:
        """See `Store.probe`."""
        probe_store(self, self._field)

    def read_range(self, key: str, start: int, stop: int) -> Range:
        """Return bytes `start` to `stop` (exclusive) of an object, fewer at its end.

        A broken connection is taken up again where it broke.
        """
        full = self._full(key)
        have = bytearray()
        first_etag = ""

        def read() -> Range:
            nonlocal first_etag
            place = f"bytes={start + len(have)}-{stop - 1}"
            try:
                answer = self._client.get_object(Bucket=self.bucket, Key=full, Range=place)
            except ClientError as error:
                if error_code(error) not in {"InvalidRange", "416"}:
                    raise
                # An empty object has no ranges.
                answer = self._client.get_object(Bucket=self.bucket, Key=full)
            etag = str(answer["ETag"]).strip('"')
            if etag != first_etag:
                have.clear()
            changed, first_etag = bool(first_etag) and etag != first_etag, etag
            size = int(answer.get("ContentRange", f"/{answer['ContentLength']}").rpartition("/")[2])
            if changed:
                # The reader sees by the other ETag that it cannot go on.
                return Range(b"", etag, size, is_md5=False)
            for piece in answer["Body"].iter_chunks(_PIECE_BYTES):
                have.extend(piece)
            return Range(bytes(have), etag, size, is_md5(etag, answer))

        return self._call(read, key)

    def _head(self, key: str) -> Any | None:  # noqa: ANN401 - botocore's answer has no type
        full = self._full(key)
        try:
            return self._call(lambda: self._client.head_object(Bucket=self.bucket, Key=full), key)
        except ObjectNotFoundError:
            return None

    def _full(self, key: str) -> str:
        # Others may have written `logs//x` and the like; what is listed must be readable.
        if not key or key.startswith("/") or ".." in key.split("/"):
            raise ValueError(f"not a key of this store: {key!r}")
        return self._prefix + key

    def _call(self, operation: Callable[[], T], key: str, use: str = _READ) -> T:
        attempt = 0
        while True:
            attempt += 1
            try:
                result = operation()
            except _RAISED as raised:
                error = _cause(raised)
                # An error with nothing but a status may come from anything that speaks HTTP.
                self._answered |= isinstance(error, ClientError) and error_code(error) != "500"
                if isinstance(error, OSError) and not isinstance(error, BotoCoreError | ConnectionError):
                    raise  # of the local file
                if use != _LIST and error_code(error) in NOT_FOUND:
                    raise ObjectNotFoundError(self.object_uri(key)) from None
                endpoint = self._client.meta.endpoint_url
                if not is_transient(error):
                    wrong = configuration_error(error, self._field, self.bucket, endpoint)
                    # Deleting is a right of its own, which may never have been granted.
                    later = self._written and use != _DELETE
                    raise (refuses_now(self.uri, wrong) if later else wrong) from None
                if not self._answered and (attempt >= self._attempts or not took_connection(error)):
                    raise unreachable(error, self._field, endpoint) from None
                if attempt >= self._attempts:
                    what = error_code(error) or type(error).__name__
                    raise StoreUnavailableError(f"{self.uri}: {what} after {attempt} attempts") from None
                pause = min(_LONGEST_PAUSE_S, self._pause_s * 2 ** (attempt - 1))
                time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads retries, no secret
            else:
                self._answered = True
                self._written = self._written or use == _WRITE
                return result


def _cause(error: Exception) -> Exception:
    # The transfer manager wraps what happened in an exception of its own.
    inner = error.__context__
    wrapped = isinstance(error, S3UploadFailedError) and isinstance(inner, (BotoCoreError, ClientError))
    return inner if wrapped and isinstance(inner, Exception) else error


def _info(key: str, answer: dict[str, Any], size: int) -> ObjectInfo:
    modified: datetime = answer["LastModified"]
    return ObjectInfo(key, size, str(answer["ETag"]).strip('"'), modified.astimezone(UTC))
