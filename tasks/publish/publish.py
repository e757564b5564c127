"""Publish: checks that nothing got lost, writes a date's result files, and makes them the current ones.

The files of a publication lie under a name that is a digest of all that is in them, so writing them twice
does no harm, and nobody sees them before the `published` record of the date's log points to them. That record
is the commit; the date's log is held for it alone.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import polars as pl
import pyarrow.parquet as pq

from engine.choices import ENDPOINT
from engine.cost.profiles import DeviceProfile
from tasks.base.accounting import Account, AccountingError, check_run
from tasks.base.bad_rows import is_night_of_errors
from tasks.base.progress import tell
from tasks.base.schema import SCHEMAS
from tasks.night.fence import announce, check_first, check_newest
from tasks.night.model import model_name
from tasks.night.request import CANARY, KEPT, RETRY_OF
from tasks.publish.current import Publication, date_log, make_current
from tasks.publish.output_lines import ERROR_COLUMNS, OUTPUT_COLUMNS, dump_line, error_line, output_line
from tasks.publish.promises import STEP
from tasks.publish.summary import results_of, summarise
from tasks.runlog.parts import GroupedWriter, batches, request_parts
from tasks.runlog.places import publication_prefix
from tasks.runlog.records import utc_now
from tasks.runlog.state import current_publication

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tasks.night.night import Night
    from tasks.runlog.state import RunState

TABLES: Final = ("outputs", "errors", "quarantine", "profiles", "steps", "device_samples")
OPTIONAL_TABLES: Final = ("comparisons", "promises")
"""Only of a night of which a candidate has answered a share, or that has promised something to tenants."""
ID_LENGTH: Final = 16
ID_SHARE: Final = 250_000
"""About as many request ids are compared at a time."""

_SHOWN: Final = 3

_RETURNED: Final = (
    "requests",
    "outputs",
    "errors",
    "quarantined",
    "filtered",
    "input_tokens",
    "output_tokens",
    "seconds",
    "tokens_per_second",
    "hit_rate",
    "hit_rate_optimum",
    "recomputed_tokens",
    "mfu",
    "mbu",
    "overlap_fraction",
    "kv_occupancy",
    "idle_tail_seconds",
    "gpu_seconds_held",
    "gpu_seconds_busy",
    "measured_energy_joules",
    "gpu_hour_price",
    "currency",
    "cost",
    "cost_per_1000_requests",
    "cost_per_million_tokens",
    "run_key",
    "status",
    "exit_code",
    "bad_rows",
)


class NightOfErrorsError(Exception):
    """Nearly all rows of a night have no answer, and those of the publication that it would replace have."""


def publish(night: Night) -> dict[str, Any]:
    """Publish a run, or with `settings.publish` off write the same files into its directory.

    Returns
    -------
    dict
        Results of step `publish`: `publication_id`, `published`, `folder`, `output_file`, `error_file`,
        `summary_file`, `report_file` (or None), `run_dir` (URIs), and those of the summary's figures that
        `batch_runs` has.

    Raises
    ------
    AccountingError
        If a line or request was lost or answered twice, or too much is in quarantine. Nothing is published.
    StaleWriterError
        If another process has taken the run over.
    RunIsLiveError
        If another process holds the date's log for longer than two leases, or another run the date.
    NewerListingError
        If a run that read a newer listing has published the date, or holds it.
    NightOfErrorsError
        If nearly all rows have no answer, and those of the current publication have.
    StoreUnavailableError
        If the store or the catalog fails.
    """
    known = night.log.state.steps.get("publish")
    if known is not None and _stands(night, known.results):
        return known.results
    completed = _completed(night) if known is not None else None
    if completed is not None:
        return completed
    if night.settings.publish and night.reading is not None and night.reading.number is None:
        # A run that was finished before: only now it wants the date.
        night.reading = announce(night.log, night.reading)
        if not night.settings.force:
            check_first(night.log, night.reading)
    files = {kind: _files(night, kind) for kind in TABLES}
    files |= {kind: _files(night, kind) for kind in OPTIONAL_TABLES if night.parts(kind)}
    account = check_rows(night, files)
    summary = summarise(night, account, files)
    publication_id = _publication_id(night, summary)
    prefix = (
        publication_prefix(night.job, night.run_date, publication_id)
        if night.settings.publish
        else night.log.key("results")
    )
    local = night.scratch / "published"
    local.mkdir(parents=True, exist_ok=True)
    summary = {"publication_id": publication_id, **summary}
    kept = results_of(night, "tokenize").get("kept") or {}
    names = {night.run_key: model_name(night.model_dir), **kept.get("models", {})}
    written = _write_files(local, files, summary, names)
    if night.settings.report:
        from tasks.report.files import write_report

        written += write_report(night, summary, local)
    for path in written:
        night.store.put_file(f"{prefix}/{path.name}", path)
    uri = night.store.object_uri
    device = _device_profile(night)
    tables: dict[str, str] = {}
    if night.settings.publish and night.settings.catalog is not None:
        from tasks.warehouse.replace import location, write_table_files

        made = write_table_files(local, files, night.job, night.run_date, night.run_key, device)
        for kind, path in made.items():
            key = f"{prefix}/{path.relative_to(local).as_posix()}"
            if path not in written:
                night.store.put_file(key, path)
            tables[kind] = location(uri(key))
    results: dict[str, Any] = {
        "publication_id": publication_id,
        "published": night.settings.publish,
        "folder": uri(prefix),
        "output_file": uri(f"{prefix}/output.jsonl"),
        "error_file": uri(f"{prefix}/errors.jsonl"),
        "summary_file": uri(f"{prefix}/summary.json"),
        "report_file": uri(f"{prefix}/report.html") if (local / "report.html") in written else None,
        "run_dir": uri(night.log.prefix),
        "policy": summary["policy"],
        # Of an engine elsewhere the attempt says so; it tells no device.
        "device": night.attempt.device if night.attempt.device == ENDPOINT else device and device.name,
        # Published again, it is still the run that ended then.
        "ended_at": (known.results.get("ended_at") if known is not None else None) or utc_now(),
        "catalog": night.settings.catalog if night.settings.publish else None,
        "tables": tables,
        **{name: summary[name] for name in _RETURNED},
        **({STEP: summary[STEP]} if STEP in summary else {}),
    }
    if night.settings.publish and night.reading is not None:
        results |= {"listing": night.reading.listing, "listed": night.reading.number}
    defaults = kept.get("key_defaults") or night.settings.defaults.as_dict()
    results |= {"key_defaults": defaults, **{k: kept[k] for k in (RETRY_OF, CANARY, "models") if k in kept}}
    if night.settings.publish:
        make_current(
            night.store,
            Publication(publication_id, night.job, night.run_date, night.run_key, night.attempt.id, results),
            catalog=night.settings.catalog,
            lease_s=night.settings.lease_s,
            heartbeat_s=night.settings.heartbeat_s,
            check=partial(_check_publishable, night, results),
        )
    night.log.finish_step("publish", results)
    return results


def _completed(night: Night) -> dict[str, Any] | None:
    """Return what is published of a run that keeps the answers of this finished one, and has answered more.

    None if that is not the current publication, or was made of another listing of the source.
    """
    if not night.settings.publish or night.settings.force:
        return None
    current = current_publication(
        date_log(night.store, night.job, night.run_date, lease_s=night.settings.lease_s).refresh()
    )
    if current is None or night.run_key not in (current.details.get(RETRY_OF) or ()):
        return None
    same = night.reading is not None and night.reading.listing == current.details.get("listing")
    return dict(current.details) if same else None


def _check_publishable(night: Night, results: dict[str, Any], date_state: RunState) -> None:
    """Raise if this run may not publish; called as holder of the date's log."""
    # Whoever has taken over the run may have published more complete parts meanwhile.
    night.log.refresh()
    if night.settings.force:
        return
    if night.reading is not None:
        check_newest(night.log, night.reading, date_state)
    current = current_publication(date_state)
    if current is None or current.run_key == night.run_key or not _is_of_errors(results):
        return
    if not _is_of_errors(current.details):
        codes = ", ".join(f"{row['count']:,} {row['code']}" for row in results["bad_rows"][:_SHOWN])
        bad, rows = (results[name] + results["quarantined"] for name in ("errors", "requests"))
        raise NightOfErrorsError(
            f"{bad:,} of {rows:,} rows have no answer ({codes}), so the publication of before stays: "
            f"{current.publication_id}. Correct the cause and run it again; --force publishes it all the same"
        )


def _is_of_errors(results: Mapping[str, Any]) -> bool:
    names = ("requests", "errors", "quarantined")
    return all(name in results for name in names) and is_night_of_errors(*(int(results[n]) for n in names))


def check_rows(night: Night, files: dict[str, list[Path]]) -> Account:
    """Check the equations of a run against the rows of its recorded parts.

    Parameters
    ----------
    files
        Local Parquet files of the tables outputs, errors and quarantine.

    Returns
    -------
    Account
        Sum over the objects, as step `extract` recorded it.

    Raises
    ------
    AccountingError
        If a part has not the rows it was recorded with, the lines of the objects or the rows in quarantine do
        not add up, or a request has no row or more than one in outputs and errors together.
    """
    asked_file = night.fetch(request_parts(night.log.state)[0])
    account = Account(**night.log.state.steps["extract"].results["account"])
    account.check("run")
    for kind in ("outputs", "errors", "quarantine"):
        parts = [part for part in night.parts(kind) if part.name.endswith(".parquet")]
        for part in parts:
            rows = pq.read_metadata(night.fetch(part)).num_rows
            if rows != part.count:
                raise AccountingError(f"{part.name} has {rows} rows, recorded were {part.count}")
    quarantined = sum(pq.read_metadata(path).num_rows for path in files["quarantine"])
    if quarantined != account.quarantined:
        raise AccountingError(f"{account.quarantined} lines were quarantined, {quarantined} are recorded")
    # Requests whose answers are kept have no tokens here: they are those that the answers are of.
    kept = [night.fetch(part) for part in night.parts("outputs", KEPT)]
    _check_ids([asked_file, *kept], files["outputs"], files["errors"], account.requests)
    return account


def _check_ids(asked_files: list[Path], outputs: list[Path], errors: list[Path], requests: int) -> None:
    """Check that each request has one row in outputs and errors together, a share of the ids at a time."""
    shares = 1 + requests // ID_SHARE
    found = {"outputs": 0, "errors": 0}
    wrong: dict[str, list[pl.Series]] = {}
    for share in range(shares):
        asked, answered, failed = (_ids(files, share, shares) for files in (asked_files, outputs, errors))
        found["outputs"] += len(answered)
        found["errors"] += len(failed)
        ended = pl.concat([answered, failed])
        for what, ids in (
            ("answered more than once", ended.filter(ended.is_duplicated()).unique()),
            ("recorded more than once", asked.filter(asked.is_duplicated()).unique()),
            ("without an answer", asked.filter(~asked.is_in(ended.implode()))),
            ("answered that nobody asked", answered.filter(~answered.is_in(asked.implode()))),
        ):
            wrong.setdefault(what, []).append(ids)
    for what, shared in wrong.items():
        ids = pl.concat(shared)
        if len(ids):
            raise AccountingError(f"{len(ids)} requests {what}, one of them {ids.sort()[0]}")
    check_run(requests, found["outputs"], found["errors"])


def _ids(files: list[Path], share: int, shares: int) -> pl.Series:
    """Return the request ids of a share, by their hash."""
    if not files:
        return pl.Series("request_id", [], pl.String)
    name = pl.col("request_id")
    # Files of several tables have this column in common.
    scan = pl.concat([pl.scan_parquet(path).select(name) for path in files])
    if shares > 1:
        scan = scan.filter(name.hash(seed=0) % shares == share)
    return scan.collect(engine="streaming").to_series()


def _files(night: Night, kind: str) -> list[Path]:
    return [night.fetch(part) for part in night.parts(kind) if part.name.endswith(".parquet")]


def _publication_id(night: Night, summary: dict[str, Any]) -> str:
    """Return the digest of all that a publication holds: its run, its parts by content, its summary.

    The attempts are in it through the parts they wrote. The present one is not: what a killed publisher left
    is finished by its successor under the same name.
    """
    parts = sorted(
        [kind, part.name, part.sha256] for kind in (*TABLES, *OPTIONAL_TABLES) for part in night.parts(kind)
    )
    content = json.dumps([night.run_key, parts, summary], sort_keys=True, allow_nan=False)
    return hashlib.sha256(content.encode()).hexdigest()[:ID_LENGTH]


def _write_files(
    folder: Path, files: dict[str, list[Path]], summary: dict[str, Any], models: Mapping[str, str]
) -> list[Path]:
    """Write all files of a publication to a local folder, part by part, and return them, the summary last.

    `models` has the name of the model that answered in a run, by the run's key.
    """
    written = []
    own = models[summary["run_key"]]
    lines: dict[str, tuple[str, tuple[str, ...], Callable[[dict[str, Any]], dict[str, Any]]]] = {
        "outputs": (
            "output.jsonl",
            OUTPUT_COLUMNS,
            lambda row: output_line(row, models.get(row["run_key"], own)),
        ),
        "errors": ("errors.jsonl", ERROR_COLUMNS, error_line),
    }
    done, total = 0, sum(pq.read_metadata(path).num_rows for parts in files.values() for path in parts)
    for kind, parts in files.items():
        table = folder / f"{kind}.parquet"
        with ExitStack() as stack:
            writer = stack.enter_context(GroupedWriter(table, SCHEMAS[kind]))
            name, columns, line = lines.get(kind, ("", (), dict))
            text = stack.enter_context((folder / name).open("wb")) if name else None
            for part in parts:
                for rows in batches(part, SCHEMAS[kind]):
                    writer.write(rows)
                    done += rows.num_rows
                    tell(done, total, "rows")
                    if text is not None:
                        text.writelines(dump_line(line(row)) for row in rows.select(columns).to_pylist())
        written += [table, folder / name] if name else [table]
    path = folder / "summary.json"
    path.write_text(json.dumps(summary, ensure_ascii=False, allow_nan=False, indent=2) + "\n")
    return [*written, path]


def _device_profile(night: Night) -> DeviceProfile | None:
    """Return the profile of the device that step `infer` computed on."""
    infer = night.log.state.steps.get("infer")
    device = infer.results.get("device") if infer is not None else None
    return DeviceProfile(**device) if device else None


def _stands(night: Night, results: dict[str, Any]) -> bool:
    """Tell whether an earlier publish of this run is still what is asked for."""
    if results["published"] != night.settings.publish:
        return False
    if not night.settings.publish:
        return True
    log_of_date = date_log(night.store, night.job, night.run_date, lease_s=night.settings.lease_s)
    current = current_publication(log_of_date.refresh())
    if current is None or current.publication_id != results["publication_id"]:
        return False
    if night.settings.catalog is None:
        return True
    from tasks.warehouse.catalogs import catalog_errors
    from tasks.warehouse.replace import holds, open_warehouse

    if results.get("catalog") != night.settings.catalog:
        return False
    with catalog_errors(night.settings.catalog):
        catalog = open_warehouse(night.settings.catalog, night.store.uri)
        return holds(catalog, night.job, night.run_date, results["tables"])
