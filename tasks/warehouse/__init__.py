"""The tables of a date, replaced in one commit."""
