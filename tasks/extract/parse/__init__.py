"""Lines and records become rows.

Begin with `one_object`: `sniff` tells what an object is, `record_parser` makes its rows, `pool` does it over
several processes, and `quick_lines` does the most usual lines many times faster.
"""
