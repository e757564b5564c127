"""Announcements of devices: what other runs left behind, whole or not."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from tasks.infer.give_way import FOLDER, Announcement, holders
from tasks.runlog.log import RunLog
from tasks.store.folder import FolderStore

if TYPE_CHECKING:
    from pathlib import Path


def announce(store: FolderStore, run: str) -> str:
    key = f"{FOLDER}/{run.replace('/', '.')}.json"
    store.put(key, json.dumps(asdict(Announcement(run, "here/cpu", gives_way=True))).encode())
    return key


def test_who_is_alive_is_found_among_what_is_over_or_broken(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    broken = announce(store, "a/runs/run_date=2026-01-01/1")
    store.put("a/runs/run_date=2026-01-01/1/log/00000000.json", b"no record")
    over = announce(store, "b/runs/run_date=2026-01-01/2")
    for name, data in (("text", b"nothing"), ("list", b"[1]"), ("other", b'{"run": "x"}')):
        store.put(f"{FOLDER}/{name}.json", data)
    run = "c/runs/run_date=2026-01-01/3"
    announce(store, run)
    with RunLog(store, run, lease_s=5.0, heartbeat_s=0.5).hold():
        assert [said.run for said, _ in holders(store, "here/cpu", lease_s=5.0)] == [run]
        assert holders(store, "elsewhere/cpu", lease_s=5.0) == []
    assert store.exists(broken)
    assert not store.exists(over)
