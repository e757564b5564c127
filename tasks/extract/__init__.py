"""The objects of a date become rows."""
