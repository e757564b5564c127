"""The steps of a night and what they stand on; no file here knows Prefect (rooms: `docs/architecture.md`)."""
