"""Mooncake traces: `{timestamp, input_length, output_length, hash_ids}`, one hash per 512-token block.

Equal leading hashes are a shared prefix. `timestamp` counts milliseconds from the start of the trace, so it
is no time of day and passes through.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tasks.extract.readers.contract import Logged, Reader, Shape, invalid, missing, required_count

if TYPE_CHECKING:
    from collections.abc import Mapping

BLOCK_TOKENS: Final = 512
_UINT64: Final = 2**64


def matches(record: Mapping[str, Any]) -> bool:
    """Tell the trace by its fields."""
    return {"input_length", "output_length", "hash_ids"} <= record.keys()


def read(record: Mapping[str, Any]) -> Logged:
    """Make a line a request of known lengths and known blocks."""
    length = required_count(record, "input_length")
    hashes = record.get("hash_ids")
    if hashes is None:
        raise missing("hash_ids")
    if not isinstance(hashes, list) or not all(_is_hash(item) for item in hashes):
        raise invalid("hash_ids", "must be a list of whole numbers from 0 to 2^64 - 1")
    if len(hashes) > -(-length // BLOCK_TOKENS):
        raise invalid("hash_ids", f"has more blocks of {BLOCK_TOKENS} tokens than input_length")
    return Logged(
        shape=Shape(length, hashes, BLOCK_TOKENS),
        endpoint="completions",
        rest={"timestamp": record["timestamp"]} if record.get("timestamp") is not None else {},
        output_tokens=required_count(record, "output_length"),
    )


def _is_hash(item: object) -> bool:
    return isinstance(item, int) and not isinstance(item, bool) and 0 <= item < _UINT64


READER = Reader("mooncake", "Mooncake traces", matches, read)
