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
        for _, row in _rows_of(files, wanted):
            writer.write_batch(row)
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
    for name, row in _rows_of([part], left):
        (folder / name).write_bytes(row.column("data")[0].as_buffer())
    if left:
        raise RuntimeError(f"{len(left)} images of the requests are not in their part")


def _rows_of(files: Iterable[Path], left: set[str]) -> Iterator[tuple[str, pq.pa.RecordBatch]]:
    """Yield each image of `left` with its row, once, and take it out of there."""
    for path in files:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=_ROWS):
                for row, name in enumerate(batch.column("sha256").to_pylist()):
                    if name in left:
                        left.discard(name)
                        yield name, batch.slice(row, 1)
