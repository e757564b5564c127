"""The objects of a date become rows: requests, refused ones, quarantine.

Begin with `extract`. Bytes become lines in `text/`, lines become rows in `parse/`, and `readers/` knows the
formats of logs.
"""
