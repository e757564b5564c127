"""Bytes become lines and records, in bounded memory."""
