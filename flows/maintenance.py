"""The flow `maintain`, for a deployment with a weekly schedule: tables and store lose what is kept no longer.

entrypoint: flows.maintenance.maintain
parameters: {job: triage, store: "s3://results/nightblend", catalog: "postgresql+psycopg://..."}
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from prefect import flow, get_run_logger

from tasks.operations.retention import Retention, clean_up
from tasks.store.open import open_store
from tasks.warehouse.catalogs import choose_catalog


@flow(name="maintain", persist_result=False)
def maintain(
    job: str,
    store: str,
    catalog: str | None = None,
    runs_days: float | None = 90.0,
    parsed_days: float | None = 30.0,
    publications_days: float | None = 90.0,
    snapshots_days: float | None = 30.0,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Expire old snapshots of the tables and delete what a job keeps no longer, as `nightblend gc`.

    Parameters
    ----------
    job, store, catalog
        As of the nightly.
    runs_days, parsed_days, publications_days, snapshots_days
        How long each class is kept (`tasks.operations.retention.Retention`); empty keeps it for ever.
    dry_run
        Say what would be deleted, and delete nothing.

    Returns
    -------
    dict
        `folders, bytes`: deleted, or to be; `tables`: as `tasks.warehouse.maintenance.maintain_tables`.
    """
    log = get_run_logger()
    retention = Retention(runs_days, parsed_days, publications_days, snapshots_days)
    chosen = choose_catalog(catalog, store)
    garbage, tables = clean_up(open_store(store), job, retention, catalog=chosen, dry_run=dry_run)
    for found in garbage:
        log.info("%s %s %s: %d objects", found.kind, found.run_date, found.name, len(found.keys))
    size = sum(found.size for found in garbage)
    log.info("%d folders, %.1f MB, %s", len(garbage), size / 1e6, asdict(retention))
    return {"folders": len(garbage), "bytes": size, "tables": tables}
