"""The order of the steps, the steps as Prefect tasks, and how failures are told."""
