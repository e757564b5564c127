"""One step of a night each: a thin Prefect task over a plain function."""
