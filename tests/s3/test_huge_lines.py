"""A line of 1 GB ends in quarantine, in bounded memory, wherever it stands and however the log is packed.

Not quick, so it is here and not among the tests of `make test`; it needs no server.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, BinaryIO

import pytest

from tests.support.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

HUGE = 1 << 30
PIECE = 1 << 20
CODE = """
import resource, sys
from datetime import date
from pathlib import Path
import pyarrow.parquet as pq
from tasks.extract.extract import extract

def most(who):
    return resource.getrusage(who).ru_maxrss // 1024

scratch = Path(sys.argv[2])
before = most(resource.RUSAGE_SELF)
found = extract(sys.argv[1], job="j", run_date=date(2026, 3, 1), scratch=scratch, processes=1)
(row,) = [row for path in found.files("quarantine") for row in pq.read_table(path).to_pylist()]
tables = [pq.read_table(path) for path in found.files("requests")]
names = [name for table in tables for name in table["custom_id"].to_pylist()]
place = row["byte_offset"], row["byte_length"]
print(*names, row["code"], *place, len(row["raw_text"]), len(found.object_errors))
print(most(resource.RUSAGE_SELF) - before, most(resource.RUSAGE_CHILDREN))
"""


def line(name: str) -> bytes:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    record = {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(record).encode() + b"\n"


def write(out: BinaryIO, packed: bool, before: bytes) -> None:
    """Write a log a piece at a time: `before`, the line, another request."""
    pack = gzip.compress if packed else bytes
    # Random enough not to be taken for a bomb. One piece is packed once: gzip members may follow each other.
    noise = pack((os.urandom(1 << 14).hex().encode() * 32)[:PIECE])
    out.write(pack(before))
    for _ in range(HUGE // PIECE):
        out.write(noise)
    out.write(pack(b"\n" + line("b")))


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("packed", [False, True])
def test_a_line_of_a_gigabyte(tmp_path: Path, packed: bool, first: bool) -> None:
    path = tmp_path / ("huge.jsonl.gz" if packed else "huge.jsonl")
    before = b"" if first else line("a")
    with path.open("wb") as out:
        write(out, packed, before)
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(path), str(tmp_path / "out")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
        check=True,
    )
    told, memory = done.stdout.splitlines()
    names = ["b"] if first else ["a", "b"]
    assert told.split() == [*names, "line_too_long", str(len(before)), str(HUGE), "2000", "0"]
    grown, process = map(int, memory.split())
    print(f"\n{path.name}: {grown} MB more in the reading process, {process} MB in all in a parsing one")
    assert grown < 200
    assert process < 400
