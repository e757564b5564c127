"""The digest of a run's input knows every pair and no order, in whatever number of shares it is made."""

from __future__ import annotations

import hashlib
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.extract import input_digest
from tasks.extract.input_digest import input_digest_of

KEYS = st.binary(min_size=32, max_size=32).map(bytes.hex)
PAIRS = st.lists(st.tuples(KEYS, KEYS), max_size=30)
Pairs = list[tuple[str, str]]


def digest_of(pairs: Pairs, files: int = 1) -> str:
    with TemporaryDirectory() as place:
        paths = []
        for number in range(files):
            part = pairs[number::files]
            table = pa.table({"answer_key": [b for _, b in part], "request_id": [a for a, _ in part]})
            paths.append(Path(place) / f"{number}.parquet")
            pq.write_table(
                table.cast(pa.schema([("answer_key", pa.string()), ("request_id", pa.string())])), paths[-1]
            )
        return input_digest_of(paths, Path(place))


@settings(deadline=None, max_examples=40)
@given(PAIRS, st.randoms(use_true_random=False), st.integers(1, 3), st.integers(1, 40))
def test_it_is_the_digest_of_the_sorted_pairs(pairs: Pairs, random: object, files: int, share: int) -> None:
    expected = hashlib.sha256(b"input" + "".join(sorted(a + b for a, b in pairs)).encode()).hexdigest()
    random.shuffle(pairs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(input_digest, "SHARE", share)
        assert digest_of(pairs, files) == expected


@settings(deadline=None, max_examples=30)
@given(PAIRS.filter(bool), KEYS)
def test_it_knows_every_pair(pairs: Pairs, other: str) -> None:
    whole = digest_of(pairs)
    assert digest_of(pairs[1:]) != whole
    assert digest_of([*pairs, (other, other)]) != whole
    first, answer = pairs[0]
    if answer != other:
        assert digest_of([(first, other), *pairs[1:]]) != whole


def test_it_refuses_other_lengths() -> None:
    with pytest.raises(ValueError, match="64"):
        digest_of([("ab", "cd")])
