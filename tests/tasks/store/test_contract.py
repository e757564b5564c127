"""One suite for every kind of store."""

from __future__ import annotations

import errno
import gzip
import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import ClientError

from tasks.base.errors import ConfigurationError
from tasks.store.contract import PROBE_KEY, ObjectNotFoundError, StoreUnavailableError, probe_store
from tasks.store.folder import FolderStore
from tasks.store.open import list_source, open_store, split_source
from tasks.store.s3 import S3Store

if TYPE_CHECKING:
    from tasks.store.contract import Store


def test_put_get_overwrite_delete(store: Store) -> None:
    assert not store.exists("a/b")
    with pytest.raises(ObjectNotFoundError, match="a/b"):
        store.get("a/b")
    with pytest.raises(ObjectNotFoundError):
        store.open_stream("a/b")
    store.put("a/b", b"one")
    first = store.get_with_info("a/b")[1]
    store.put("a/b", b"three")
    data, info = store.get_with_info("a/b")
    assert data == store.get("a/b") == b"three"
    assert (info.key, info.size) == ("a/b", 5)
    assert info.etag != first.etag
    assert abs(info.last_modified - datetime.now(UTC)) < timedelta(minutes=1)
    assert store.exists("a/b")
    store.delete("a/b")
    store.delete("a/b")
    assert not store.exists("a/b")


def test_put_if_absent(store: Store) -> None:
    assert store.put_if_absent("log/0", b"first")
    assert not store.put_if_absent("log/0", b"second")
    assert store.get("log/0") == b"first"


def test_race_for_one_key_has_one_winner(store: Store) -> None:
    with ThreadPoolExecutor(16) as pool:
        for number in range(3):
            key = f"log/{number}"
            won = list(pool.map(store.put_if_absent, [key] * 16, [b"%d" % n for n in range(16)]))
            assert sum(won) == 1
            assert store.get(key) == b"%d" % won.index(True)


def test_list_is_sorted_and_by_string_prefix(store: Store) -> None:
    keys = ["a/b/c", "a/b.x", "a/bc", "a/b/a", "b", "a/B"]
    for key in keys:
        store.put(key, key.encode())
    assert [info.key for info in store.list()] == sorted(keys)
    assert [info.key for info in store.list("a/b")] == ["a/b.x", "a/b/a", "a/b/c", "a/bc"]
    assert [info.key for info in store.list("a/b/")] == ["a/b/a", "a/b/c"]
    assert list(store.list("nothing/here")) == []
    assert [(info.size, info.etag) for info in store.list("b")] == [(1, store.get_with_info("b")[1].etag)]


def test_files_and_streams(store: Store, tmp_path: Path) -> None:
    lines = [b"%08d" % n for n in range(50_000)]
    source = tmp_path / "lines.gz"
    source.write_bytes(gzip.compress(b"\n".join(lines), 1))
    store.put_file("big/lines.gz", source)
    store.get_file("big/lines.gz", tmp_path / "new" / "copy.gz")
    assert (tmp_path / "new" / "copy.gz").read_bytes() == source.read_bytes()
    with store.open_stream("big/lines.gz") as stream, gzip.open(stream) as text:
        assert [line.strip() for line in text] == lines
    with pytest.raises(ObjectNotFoundError):
        store.get_file("absent", tmp_path / "absent")
    assert [path.name for path in tmp_path.glob("**/*absent*")] == []
    with pytest.raises((FileNotFoundError, ObjectNotFoundError)):
        store.put_file("big/none", tmp_path / "none")


def test_age_is_of_the_last_write(store: Store) -> None:
    assert store.age_seconds("beat") is None
    store.put("beat", b"1")
    age = store.age_seconds("beat")
    assert age is not None
    assert 0 <= age <= 1
    time.sleep(1.0)
    older = store.age_seconds("beat")
    assert older is not None
    assert 1 <= older <= 3
    store.put("beat", b"2")
    renewed = store.age_seconds("beat")
    assert renewed is not None
    assert renewed <= 1


def test_folder_age_does_not_use_the_local_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FolderStore(tmp_path)
    store.put("beat", b"1")
    monkeypatch.setattr(time, "time", lambda: 0.0)
    age = store.age_seconds("beat")
    assert age is not None
    assert age < 1
    assert [info.key for info in store.list()] == ["beat"]


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../x", "a/../../x", "a/.."])
def test_keys_stay_inside(store: Store, key: str) -> None:
    for read in (store.get, store.open_stream, store.exists, store.delete, store.age_seconds):
        with pytest.raises(ValueError, match="key"):
            read(key)
    with pytest.raises(ValueError, match="key"):
        list(store.list("../"))


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../x", "a//b", "a/./b", "a/", "a\\b", "a\0b"])
def test_keys_are_written_one_way_only(store: Store, key: str) -> None:
    for write in (store.put, store.put_if_absent):
        with pytest.raises(ValueError, match="key"):
            write(key, b"")


def test_probe_accepts_and_leaves_one_object(store: Store) -> None:
    store.probe()
    store.probe()
    assert [info.key for info in store.list()] == [PROBE_KEY]
    assert list(list_source(store, "")) == []


def test_probe_refuses_a_store_that_overwrites(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def overwrite(key: str, data: bytes) -> bool:
        store.put(key, data)
        return True

    monkeypatch.setattr(store, "put_if_absent", overwrite)
    with pytest.raises(ConfigurationError, match=r"^--store: .*If-None-Match") as caught:
        store.probe()
    assert "\n" not in str(caught.value)


def test_probe_refuses_a_store_that_refuses_everything(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "put_if_absent", lambda _key, _data: False)
    with pytest.raises(ConfigurationError):
        probe_store(store, "--store")


def test_source_is_one_object_or_all_below_a_folder(store: Store) -> None:
    for key in ["logs/a.jsonl", "logs/a.jsonl.bak", "logs/sub/b.jsonl", "logs2/c.jsonl"]:
        store.put(key, b"{}")
    for prefix in ("logs", "logs/"):
        found = [info.key for info in list_source(store, prefix)]
        assert found == ["logs/a.jsonl", "logs/a.jsonl.bak", "logs/sub/b.jsonl"]
    assert [info.key for info in list_source(store, "logs/a.jsonl")] == ["logs/a.jsonl"]
    assert list(list_source(store, "log")) == []

    # The same object has the same URI whichever way it was named.
    uris = set()
    for source in (store.object_uri("logs/a.jsonl"), f"{store.uri}/logs", f"{store.uri}/logs/", store.uri):
        opened, prefix = split_source(source)
        uris.add(next(opened.object_uri(info.key) for info in list_source(opened, prefix)))
    assert uris == {store.object_uri("logs/a.jsonl")}


def test_open_store_finds_the_same_objects(store: Store) -> None:
    store.put("x/y", b"1")
    assert open_store(store.uri).get("x/y") == b"1"
    assert open_store(store.uri + "/").uri == store.uri
    assert open_store(store.uri + "/x").get("y") == b"1"


def test_plain_paths_and_odd_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    open_store("rel/store").put("a", b"1")
    assert (tmp_path / "rel/store/a").read_bytes() == b"1"
    odd = tmp_path / "a b%20#c"
    open_store(odd.as_uri()).put("ü", b"2")
    assert (odd / "ü").read_bytes() == b"2"
    opened, prefix = split_source("rel/store/a")
    assert opened.get(prefix) == b"1"


@pytest.mark.parametrize(
    "uri", ["", "gs://bucket/x", "s3:bucket", "s3://", "s3:///x", "s3://b/../c", "s3://b//c", "file://host/x"]
)
def test_wrong_uris_get_one_line(uri: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_store(uri, "--archive")
    assert str(caught.value).startswith("--archive: ")
    assert "s3://bucket/prefix" in str(caught.value)
    with pytest.raises(ConfigurationError, match="--source"):
        split_source(uri)


def test_wrong_folders_get_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigurationError, match=r"--store: .*not a folder"):
        open_store(str(tmp_path / "file"))
    with pytest.raises(ConfigurationError, match=r"--source: .*does not exist"):
        split_source(str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match=r"--store: cannot use"):
        FolderStore(tmp_path / "file" / "below").put("a", b"")


def test_a_folder_that_cannot_be_made_or_has_gone_is_no_missing_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one below a share that is not mounted."""
    source = tmp_path / "source"
    source.write_bytes(b"1")

    def mkdir(path: Path, *_: object, **__: object) -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))

    store = FolderStore(tmp_path / "share" / "store")
    writes = (
        lambda: store.put("a", b"1"),
        lambda: store.put_if_absent("b", b"1"),
        lambda: store.put_file("c", source),
    )
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", mkdir)
        for write in writes:
            with pytest.raises(ConfigurationError, match=r"--store: cannot use .*: No such file"):
                write()
    store.put("a", b"1")
    store.root.parent.rename(tmp_path / "elsewhere")
    monkeypatch.setattr(Path, "mkdir", mkdir)
    for write in writes:
        with pytest.raises(StoreUnavailableError, match="refuses now"):
            write()
    with pytest.raises(ObjectNotFoundError):
        store.get("a")


def test_folder_failures_are_clear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FolderStore(tmp_path)

    def fail(number: int) -> None:
        def link(*_: object) -> None:
            raise OSError(number, "made to fail")

        monkeypatch.setattr("os.link", link)

    fail(1)  # EPERM: what link gives on a file system without hard links
    with pytest.raises(ConfigurationError, match="hard links"):
        store.probe()
    fail(28)  # ENOSPC
    with pytest.raises(StoreUnavailableError, match="made to fail"):
        store.put_if_absent("a", b"")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_never_sees_half_an_object(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    old, new = b"a" * 200_000, b"b" * 300_000
    store.put("x", old)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(lambda: [store.put("x", data) for data in (new, old) * 20])
        while not writing.done():
            assert store.get("x") in {old, new}


def test_a_folder_is_walked_only_where_the_prefix_leads(tmp_path, monkeypatch) -> None:
    store = FolderStore(tmp_path)
    for key in ("a/1", "a/b/2", "ab/3", "b/c/4", "a.jsonl", "a/bc"):
        store.put(key, b"x")
    visited: list[str] = []
    walk = os.walk

    def recorded(top):
        for step in walk(top):
            visited.append(Path(step[0]).relative_to(tmp_path).as_posix())
            yield step

    monkeypatch.setattr(os, "walk", recorded)
    expected = {
        "a.jsonl": (["a.jsonl"], {"."}),
        "a": (["a.jsonl", "a/1", "a/b/2", "a/bc", "ab/3"], {".", "a", "a/b", "ab"}),
        "a/b": (["a/b/2", "a/bc"], {"a", "a/b"}),
        "b/": (["b/c/4"], {"b", "b/c"}),
        "none": ([], {"."}),
    }
    for prefix, (keys, folders) in expected.items():
        visited.clear()
        assert [info.key for info in store.list(prefix)] == keys
        assert set(visited) == folders


def test_a_store_that_turns_read_only_is_unavailable_not_a_wrong_setting(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        if isinstance(store, S3Store):
            raise ClientError({"Error": {"Code": "AccessDenied"}}, "PutObject")
        raise OSError(errno.EROFS, "Read-only file system")

    def turn_read_only() -> None:
        if isinstance(store, S3Store):
            for name in ("put_object", "upload_file"):
                monkeypatch.setattr(store._client, name, refuse)
        else:
            monkeypatch.setattr(FolderStore, "_temporary", refuse)

    turn_read_only()
    with pytest.raises(ConfigurationError, match=r"^--store: "):
        store.put("a", b"1")
    monkeypatch.undo()
    store.put("a", b"1")
    turn_read_only()
    for write in (store.put, store.put_if_absent):
        with pytest.raises(StoreUnavailableError, match=r"refuses now: .* run the same command again"):
            write("b", b"2")
    assert store.get("a") == b"1"
