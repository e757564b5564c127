"""Readers of request logs: one format per file, behind `tasks.readers.registry`."""
