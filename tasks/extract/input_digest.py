"""The name of a run's input: a digest over its sorted (request_id, answer_key) pairs, in flat memory."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

_DIGITS: Final = 64
_PAIR: Final = f"S{2 * _DIGITS}"
SHARE: Final = 1 << 18
"""Pairs that are sorted at a time: 32 MB."""
_MOST_SHARES: Final = 256


def input_digest_of(files: Sequence[Path], scratch: Path) -> str:
    """Digest the columns `request_id` and `answer_key` of Parquet files, in whatever order their rows are.

    Many rows are first put apart by the beginning of their ids, one file for each share, so that each share
    can be sorted on its own.

    Parameters
    ----------
    files : sequence of Path
        Tables of requests and of refused ones; keys of 64 hexadecimal digits.
    scratch : Path
        Where the shares may lie meanwhile: 128 bytes for each row.

    Returns
    -------
    str
        64 hexadecimal digits.

    Raises
    ------
    ValueError
        If a key has another length.
    """
    rows = sum(pq.read_metadata(path).num_rows for path in files)
    shares = min(1 + rows // SHARE, _MOST_SHARES)
    found = hashlib.sha256(b"input")
    if shares == 1:
        found.update(_sorted(np.concatenate([np.zeros(0, _PAIR), *_pairs(files)])))
        return found.hexdigest()
    with TemporaryDirectory(dir=scratch) as folder:
        paths = [f"{folder}/{share}" for share in range(shares)]
        with ExitStack() as stack:
            outs = [stack.enter_context(open(path, "wb")) for path in paths]  # noqa: PTH123
            for pairs in _pairs(files):
                share_of = _first_bytes(pairs) * shares // 256
                order = np.argsort(share_of, kind="stable")
                bounds = np.searchsorted(share_of[order], np.arange(shares + 1))
                for share, out in enumerate(outs):
                    out.write(pairs[order[bounds[share] : bounds[share + 1]]].tobytes())
        for path in paths:
            found.update(_sorted(np.fromfile(path, _PAIR)))
    return found.hexdigest()


def _sorted(pairs: npt.NDArray[np.bytes_]) -> bytes:
    pairs.sort()
    return pairs.tobytes()


def _pairs(files: Sequence[Path]) -> Iterator[npt.NDArray[np.bytes_]]:
    for path in files:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1 << 16, columns=["request_id", "answer_key"]):
                halves = [_fixed(batch.column(name)) for name in ("request_id", "answer_key")]
                yield np.hstack(halves).view(_PAIR).ravel()


def _fixed(column: Any) -> npt.NDArray[np.uint8]:  # noqa: ANN401 - pyarrow has no types
    """Return texts of one length as uint8 [n, length]."""
    data = column.buffers()[2]
    offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1]
    if len(column) and (np.diff(offsets) != _DIGITS).any():
        raise ValueError(f"request_id and answer_key must have {_DIGITS} digits")
    if not len(column):
        return np.zeros((0, _DIGITS), np.uint8)
    return np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]].reshape(-1, _DIGITS)


def _first_bytes(pairs: npt.NDArray[np.bytes_]) -> npt.NDArray[np.int64]:
    """Return what the first two hexadecimal digits come to."""
    digits = pairs.view(np.uint8).reshape(-1, 2 * _DIGITS)[:, :2].astype(np.int64)
    values = np.where(digits >= ord("a"), digits - ord("a") + 10, digits - ord("0"))
    return values[:, 0] * 16 + values[:, 1]
