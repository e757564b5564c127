"""Images of a run's requests, from what was extracted into one part, and from there to a folder."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from tasks.base.schema import SCHEMAS
from tasks.requests.images import has_images, images_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_ROWS = 4
"""Read at a time: each may have some megabytes."""


def digests_of(chats: Iterable[str | None]) -> set[str]:
    """Return the digests of all images of chats in their normal form."""
    found: set[str] = set()
    for chat in chats:
        if chat is not None and has_images(chat):
            found.update(image["sha256"] for _, image in images_of(json.loads(chat)))
    return found


def copy_images(requests: Path, files: Iterable[Path], out: Path) -> int:
    """Write the images that a file of requests names, each once, from tables `images`; return how many.

    Parameters
    ----------
    requests
        Parquet, table requests.
    """
    wanted: set[str] = set()
    with pq.ParquetFile(requests) as file:
        for batch in file.iter_batches(columns=["messages_json"]):
            wanted |= digests_of(batch.column("messages_json").to_pylist())
    count = 0
    with pq.ParquetWriter(out, SCHEMAS["images"], compression="none", use_dictionary=False) as writer:
        for batch in _batches(files):
            for row in range(len(batch)):
                name = batch.column("sha256")[row].as_py()
                if name in wanted:
                    wanted.discard(name)
                    writer.write_batch(batch.slice(row, 1))
                    count += 1
    return count


def unpack_images(part: Path, wanted: Iterable[str], folder: Path) -> None:
    """Write images of a table `images` as files, each under its digest.

    Raises
    ------
    RuntimeError
        If one is missing.
    """
    left = set(wanted)
    folder.mkdir(parents=True, exist_ok=True)
    for batch in _batches([part]):
        for row in range(len(batch)):
            name = batch.column("sha256")[row].as_py()
            if name in left:
                left.discard(name)
                (folder / name).write_bytes(batch.column("data")[row].as_buffer())
    if left:
        raise RuntimeError(f"{len(left)} images of the requests are not in their part")


def _batches(files: Iterable[Path]) -> Iterator[pq.pa.RecordBatch]:
    for path in files:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            yield from file.iter_batches(batch_size=_ROWS)
