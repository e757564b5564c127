"""Images of logs: where they may be read, where their bytes go, and what becomes of those that are gone."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from tasks.base.errors import ConfigurationError
from tasks.extract.extract import ExtractSettings, extract
from tasks.extract.parse import image_files
from tasks.store.folder import FolderStore
from tests.support.pictures import data_url, image_part, picture

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tasks.extract.result import ExtractResult

DAY = date(2026, 11, 22)
PNG = picture(28, 28)
NAME = hashlib.sha256(PNG).hexdigest()


def line(custom_id: str, url: str) -> str:
    parts = [{"type": "text", "text": "What is it?"}, image_part(url)]
    body = {"model": "m", "messages": [{"role": "user", "content": parts}]}
    return json.dumps({"custom_id": custom_id, "url": "/v1/chat/completions", "body": body})


def read(root: Path, urls: dict[str, str], *places: str, **options: Any) -> ExtractResult:
    logs = root / "logs"
    logs.mkdir(exist_ok=True)
    text = "".join(line(name, url) + "\n" for name, url in urls.items())
    if not (logs / "day.jsonl").exists():
        (logs / "day.jsonl").write_text(text)
    number = len(list(root.glob("scratch-*")))
    return extract(
        str(logs),
        job="j",
        run_date=DAY,
        scratch=root / f"scratch-{number}",
        settings=ExtractSettings(image_sources=places),
        **options,
    )


def codes(result: ExtractResult) -> dict[str, str]:
    """custom_id -> code of its error, '' for a request that has none."""
    found = {}
    for table in ("requests", "errors"):
        for path in result.files(table):
            for row in pq.read_table(path).to_pylist():
                found[row["custom_id"]] = row.get("code", "")
    return found


def stored(result: ExtractResult) -> dict[str, bytes]:
    rows = [row for path in result.files("images") for row in pq.read_table(path).to_pylist()]
    assert len(rows) == len({row["sha256"] for row in rows})
    return {row["sha256"]: row["data"] for row in rows}


def test_the_bytes_are_in_a_table_of_their_own_and_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "logs" / "pictures").mkdir(parents=True)
    (tmp_path / "logs" / "pictures" / "a b.png").write_bytes(PNG)
    folder = (tmp_path / "logs").as_uri()
    result = read(
        tmp_path,
        {
            "data": data_url(PNG),
            "again": data_url(PNG),
            "relative": "pictures/a b.png",
            "absolute": str(tmp_path / "logs" / "pictures" / "a b.png"),
            "uri": f"{folder}/pictures/a%20b.png",
        },
    )
    assert set(codes(result).values()) == {""}
    assert stored(result) == {NAME: PNG}
    text = data_url(PNG).partition(",")[2][:40]
    for path in result.files("requests"):
        rows = pq.read_table(path).to_pylist()
        assert text not in str(rows)
        assert all(NAME in row["messages_json"] for row in rows)
        assert len({row["answer_key"] for row in rows}) == 1


def test_nothing_is_read_that_lies_elsewhere(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(PNG)
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "link.png").symlink_to(secret)
    (tmp_path / "logs-other").mkdir()
    (tmp_path / "logs-other" / "a.png").write_bytes(PNG)
    os.mkfifo(logs / "pipe.png")
    result = read(
        tmp_path,
        {
            "parent": "../secret.png",
            "quoted": "%2e%2e/secret.png",
            "absolute": str(secret),
            "uri": secret.as_uri(),
            "link": "link.png",
            "sibling": str(tmp_path / "logs-other" / "a.png"),
            "host": f"file://elsewhere{logs}/a.png",
            "s3": "s3://bucket/a.png",
            "http": "http://127.0.0.1/a.png",
            "ftp": "ftp://127.0.0.1/a.png",
            "gone": "gone.png",
            "pipe": "pipe.png",
            "folder": ".",
            "zero": "a\0.png",
        },
    )
    refused = {"gone", "pipe", "folder"}
    assert codes(result) == {
        name: "image_unavailable" if name in refused else "unsupported_parameter" for name in codes(result)
    }
    assert len(codes(result)) == 14
    assert stored(result) == {}


class _Handler(BaseHTTPRequestHandler):
    seen: list[str]

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.seen.append(self.path)
        if self.path.endswith("moved.png"):
            self.send_response(302)
            self.send_header("location", "/pictures/a.png")
            self.end_headers()
            return
        data = {"/pictures/a.png": PNG, "/pictures/large.png": bytes(2000)}.get(self.path)
        self.send_response(404 if data is None else 200)
        self.end_headers()
        self.wfile.write(data or b"")


@pytest.fixture
def web() -> Iterator[tuple[str, list[str]]]:
    class Handler(_Handler):
        seen: list[str] = []  # noqa: RUF012 - of this server

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", Handler.seen
    server.shutdown()
    server.server_close()


def test_an_address_is_asked_only_below_a_place_that_is_named(
    tmp_path: Path, web: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_files, "MOST_BYTES", 1000 + len(PNG))
    host, seen = web
    urls = {
        "good": f"{host}/pictures/a.png",
        "moved": f"{host}/pictures/moved.png",
        "gone": f"{host}/pictures/gone.png",
        "large": f"{host}/pictures/large.png",
        "beside": f"{host}/other/a.png",
        "up": f"{host}/pictures/../other/a.png",
        "quoted": f"{host}/pictures/%2e%2e/a.png",
        "user": f"{host.replace('//', '//me:secret@')}/pictures/a.png",
        "begins": f"{host}.example.com/pictures/a.png",
        "port": f"http://127.0.0.1:1{host[-4:]}/pictures/a.png",
        "space": f"{host}/pictures/a.png\n/x",
    }
    assert set(codes(read(tmp_path, urls)).values()) == {"unsupported_parameter"}
    assert seen == []
    result = read(tmp_path, urls, f"{host}/pictures/")
    refused = set(urls) - {"good", "moved", "gone", "large"}
    assert codes(result) == {
        "good": "",
        "moved": "image_unavailable",
        "gone": "image_unavailable",
        "large": "invalid_image",
        **dict.fromkeys(refused, "unsupported_parameter"),
    }
    assert sorted(seen) == [f"/pictures/{name}.png" for name in ("a", "gone", "large", "moved")]
    assert stored(result) == {NAME: PNG}


def test_what_could_not_be_had_is_tried_again_and_what_was_is_kept(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store", field="--store")
    urls = {"late": "late.png", "there": data_url(PNG)}
    assert codes(read(tmp_path, urls, store=store))["late"] == "image_unavailable"
    (tmp_path / "logs" / "late.png").write_bytes(PNG)
    again = read(tmp_path, urls, store=store)
    assert set(codes(again).values()) == {""}
    assert not again.objects[0].reused
    (tmp_path / "logs" / "late.png").unlink()
    third = read(tmp_path, urls, store=store)
    assert third.objects[0].reused
    assert stored(third) == stored(again) == {NAME: PNG}
    assert third.input_digest == again.input_digest


@pytest.mark.parametrize(
    "place", ["https://user@host/x", "ftp://x/y", "s3://", "s3://b/../c", "https://h/?a=1"]
)
def test_a_place_that_is_none_is_told_before_anything_is_read(tmp_path: Path, place: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(tmp_path, {"a": data_url(PNG)}, place)
    assert caught.value.field == "--image-source"
