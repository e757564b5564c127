"""Columns of Arrow arrays as what JSON has, whatever their type: nothing of a table is fatal.

| Arrow | becomes |
|---|---|
| null, boolean, text, whole number | itself; a whole number beyond 64 bits its text |
| floating point | itself; NaN is null, infinities are the texts `Infinity` and `-Infinity` |
| decimal | a number where a double has the same digits, else its text |
| date, time of day, timestamp | ISO 8601, cut to microseconds |
| duration, interval | an ISO 8601 duration: `P2D`, `PT1.5S` |
| binary | its text if it is UTF-8, else base64; a UUID its text |
| list, struct | list, object |
| map | an object; a list of pairs if keys repeat |
| dictionary, run-end encoded, extension | what they stand for |

What Python does not have (a date of the year 290000) becomes Arrow's text of it, or null. Text that is no
UTF-8 is an error of its row.
"""

from __future__ import annotations

import base64
import math
from datetime import date, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.base.errors import QuarantineCode, QuarantineError

if TYPE_CHECKING:
    from collections.abc import Callable

    Values: TypeAlias = list[Any]

_INT64: Final = (-(2**63), 2**64)
_UNREAD: Final = (pa.ArrowException, ValueError, OverflowError, TypeError, LookupError)
"""What arrays raise for values or types that Python does not have."""


def json_values(name: str, array: pa.Array | pa.ChunkedArray) -> Values:
    """Return the values of a column.

    Parameters
    ----------
    name
        The column's.
    array
        Its values, of any type.

    Returns
    -------
    list
        As above; a `QuarantineError` in the place of a text that is no UTF-8.
    """
    plain = _plain_array(array)
    found: Values
    try:
        found = plain.to_pylist()
    except _UNREAD:
        found = [_scalar(name, item) for item in plain]
    if _is_json(plain.type):
        return found
    return [item if isinstance(item, QuarantineError) else json_value(item) for item in found]


def json_value(value: Any) -> Any:  # noqa: ANN401 - any value, a case for each type
    """Return a Python value of an array as JSON has it."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        return value if _INT64[0] <= value < _INT64[1] else str(value)
    if isinstance(value, float | np.floating):
        return _number(float(value))
    if isinstance(value, dict):
        return {str(name): json_value(item) for name, item in value.items()}
    if isinstance(value, list):
        return _list(value)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return _decimal(value)
    if isinstance(value, timedelta):
        return _duration(0, 0, value // timedelta(microseconds=1) * 1000)
    if isinstance(value, pa.MonthDayNano):
        return _duration(*value)
    return str(value)


def _plain_array(array: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Return an array of types that have Python values where one of the same values can be made."""
    if pa.types.is_run_end_encoded(array.type):
        array = pc.run_end_decode(array)
    wanted = _plain_type(array.type)
    if wanted == array.type:
        return array
    try:
        return array.cast(wanted, safe=False)
    except pa.ArrowException:
        return array


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """Return a type without nanoseconds and dictionaries; 'us' is the finest that Python has."""
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    if pa.types.is_time64(kind):
        return pa.time64("us")
    if pa.types.is_duration(kind) and kind.unit == "ns":
        return pa.duration("us")
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_plain_type(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(_plain_type(kind.key_type), kind.item_field.with_type(_plain_type(kind.item_type)))
    inner: Callable[[pa.Field], pa.DataType] | None = None
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_plain_type(kind.value_type)), kind.list_size)
    if pa.types.is_list(kind):
        inner = pa.list_
    elif pa.types.is_large_list(kind):
        inner = pa.large_list
    return inner(kind.value_field.with_type(_plain_type(kind.value_type))) if inner is not None else kind


def _is_json(kind: pa.DataType) -> bool:
    """Tell whether all values of a type are what JSON has: then none need be looked at."""
    if pa.types.is_struct(kind):
        return all(_is_json(field.type) for field in kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_json(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind))


def _scalar(name: str, item: pa.Scalar) -> Any:  # noqa: ANN401 - any value
    try:
        return item.as_py()
    except UnicodeDecodeError:
        return QuarantineError(QuarantineCode.INVALID_UTF8, name, "the column's text is not UTF-8")
    except _UNREAD:
        pass
    try:
        if pa.types.is_timestamp(item.type) and item.type.tz is not None:
            # The zone may be one that is not known here; the instant is the same in each.
            item = item.cast(pa.timestamp(item.type.unit, "UTC"))
            return item.as_py()
    except _UNREAD:
        pass
    try:
        return item.cast(pa.string()).as_py()
    except _UNREAD:
        return None


def _list(value: list[Any]) -> Any:  # noqa: ANN401 - an object or a list
    # Lists of (key, value) pairs are what pyarrow makes of maps.
    if value and all(isinstance(item, tuple) and len(item) == 2 for item in value):
        found = {_key(name): json_value(item) for name, item in value}
        return found if len(found) == len(value) else [[json_value(part) for part in item] for item in value]
    return [json_value(item) for item in value]


def _key(value: object) -> str:
    found = json_value(value)
    return found if isinstance(found, str) else str(found)


def _number(value: float) -> float | str | None:
    if math.isfinite(value):
        return value
    return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _decimal(value: Decimal) -> float | str | None:
    if not value.is_finite():
        return _number(float(value))
    if value == value.to_integral_value():
        whole: float | str = json_value(int(value))
        return whole
    number = float(value)
    return number if math.isfinite(number) and Decimal(repr(number)) == value else str(value)


def _duration(months: int, days: int, nanoseconds: int) -> str:
    """Return an ISO 8601 duration; each of its parts may be negative."""
    years, months = _parts(months, 12)
    whole, nanoseconds = _parts(nanoseconds, 10**9)
    minutes, seconds = _parts(whole, 60)
    hours, minutes = _parts(minutes, 60)
    day = "".join(f"{count}{unit}" for count, unit in ((years, "Y"), (months, "M"), (days, "D")) if count)
    clock = "".join(f"{count}{unit}" for count, unit in ((hours, "H"), (minutes, "M")) if count)
    if seconds or nanoseconds:
        fraction = f".{abs(nanoseconds):09d}".rstrip("0") if nanoseconds else ""
        clock += f"{'-' if min(seconds, nanoseconds) < 0 else ''}{abs(seconds)}{fraction}S"
    return f"P{day}{'T' if clock else ''}{clock}" if day or clock else "PT0S"


def _parts(value: int, size: int) -> tuple[int, int]:
    """Divide towards zero."""
    count, rest = divmod(abs(value), size)
    return (count, rest) if value >= 0 else (-count, -rest)
