"""Bytes become lines and records, in bounded memory; no format of a log is known here.

Begin with `lines`; `containers` and `parquet_rows` are for objects that are not lines of JSON.
"""
