#!/usr/bin/env bash
# fastparquet 2026.9.0 writes microseconds as nanoseconds when it is asked for INT96 times.
#
# Tried: a frame of pandas 3.1.1 with one time, whose unit is microseconds as pandas 3 chooses by itself, written
# with `times="int96"`, the form that older Spark and Impala want.
# Guessed: whoever reads the file has the time of the frame.
# Seen: PyArrow and fastparquet itself read a time in January 1970: the count of microseconds was stored as
# nanoseconds. With `datetime64[ns]` and with the default form the time is right. No error, no warning.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check fastparquet==2026.9.0 pandas==3.1.1 pyarrow==26.0.1
cd "$work"
"$work/env/bin/python" - <<'PY'
from datetime import UTC, datetime
from importlib.metadata import version

import fastparquet
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

at = datetime(2026, 11, 29, 22, 0, 0, 123456, UTC)
frame = pd.DataFrame({"at": [at]})


def read(frame, **how):
    fastparquet.write("t.parquet", frame, **how)
    other = pq.read_table("t.parquet").column("at").cast(pa.timestamp("ns", "UTC")).to_pandas()[0]
    own = pd.Timestamp(fastparquet.ParquetFile("t.parquet").to_pandas()["at"][0])
    own = own.tz_localize("UTC") if own.tzinfo is None else own
    assert own == other, (own, other)
    return other


print("fastparquet", version("fastparquet"), "pandas", version("pandas"), "dtype", frame["at"].dtype)
assert str(frame["at"].dtype) == "datetime64[us, UTC]", "the behaviour of pandas has changed"
plain, wrong = read(frame), read(frame, times="int96")
right = read(frame.astype({"at": "datetime64[ns, UTC]"}), times="int96")
print("written:", at, "default:", plain, "int96:", wrong, "int96 of nanoseconds:", right)
assert plain == right == pd.Timestamp(at)
assert wrong == pd.Timestamp(round(at.timestamp() * 1_000_000), unit="ns", tz="UTC"), "the behaviour has changed"
print("as described: microseconds are stored as nanoseconds")
PY
