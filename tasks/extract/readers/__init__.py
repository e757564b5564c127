"""Readers of request logs: one format per file, behind `tasks.extract.readers.registry`."""
