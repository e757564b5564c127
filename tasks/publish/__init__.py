"""Answers become the current publication of a date."""
