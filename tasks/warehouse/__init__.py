"""The Iceberg tables: one publication of each date, replaced in one commit a table.

Begin with `replace` (a date in all tables), then `tables` (one of them).
"""
