"""Takes requests out of everything that is kept: publications, tables, run directories, parsed rows.

A date that holds such requests is published again without them, as a publication of its own. Then the table
snapshots before it go, and with them the date's other publications, parsed rows and run directories, which
hold the texts as well: that date answers no more from what was computed. Source objects are not touched.
Interrupted, it can be repeated: run directories, by which a date is found, go last.
"""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.base.errors import ConfigurationError
from tasks.base.identity import digest
from tasks.publish.current import Publication, date_log, make_current
from tasks.runlog.log import RunLog
from tasks.runlog.parts import BATCH_ROWS, GroupedWriter
from tasks.runlog.places import publication_prefix
from tasks.runlog.state import current_publication

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tasks.runlog.records import Published
    from tasks.store.contract import Store

_DATE: Final = re.compile(r"(?:runs|published|parsed|dates)/run_date=(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2})/")
_ROWS: Final = re.compile(r"(^|/)(requests|outputs|errors)[^/]*(/[^/]*)?\.parquet$")
_ID_LENGTH: Final = 16
# Sums over the requests of a date that are not made anew.
_STALE: Final = (
    "workloads",
    "finish_reasons",
    "error_codes",
    "bad_rows",
    "profile",
    "cost_by_workload",
    "cost_by_tenant",
)
_OPTIONAL: Final = {"comparisons", "promises"}
"""The same, only of a date of which a candidate has answered a share, or with promises to tenants."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whose requests: those of a tenant, some by id, or some by the `custom_id` of their sender."""

    tenant: str | None = None
    request_ids: frozenset[str] = frozenset()
    custom_ids: frozenset[str] = frozenset()

    def mask(self, rows: pa.Table | pa.RecordBatch) -> pa.Array:
        """Tell for each row, with columns `request_id` and perhaps `tenant` and `custom_id`, if it is one."""
        found = pc.is_in(rows.column("request_id"), pa.array(sorted(self.request_ids), pa.string()))
        if self.tenant is not None and "tenant" in rows.schema.names:
            same = pc.equal(rows.column("tenant"), self.tenant)
            found = pc.or_(found, pc.fill_null(same, fill_value=pa.scalar(value=False)))
        if self.custom_ids and "custom_id" in rows.schema.names:
            found = pc.or_(
                found, pc.is_in(rows.column("custom_id"), pa.array(sorted(self.custom_ids), pa.string()))
            )
        return found


@dataclass(slots=True)
class Forgotten:
    """What was taken out of a date.

    Attributes
    ----------
    run_date
        The date.
    requests
        How many, over all its runs.
    publication_id
        Of the publication without them; None if the date has none or never held them.
    objects
        How many were deleted.
    """

    run_date: str
    requests: int
    publication_id: str | None = None
    objects: int = 0


@dataclass(slots=True)
class _Taken:
    """What was taken out of one publication."""

    rows: dict[str, int] = field(default_factory=dict)
    input_tokens: int = 0
    output_tokens: int = 0


def forget(
    store: Store,
    job: str,
    wanted: Wanted,
    *,
    catalog: str | None,
    dry_run: bool = False,
    lease_s: float = 90.0,
) -> list[Forgotten]:
    """Take requests out of all that a job keeps.

    A quarantined line belongs to nobody: those of an affected date go as well whose text names the tenant or
    one of the custom ids.

    Parameters
    ----------
    catalog
        URI of the Iceberg catalog; None leaves tables alone.
    dry_run
        Say of which dates, and change nothing.

    Returns
    -------
    list of Forgotten
        A date each; empty if nothing of them is kept.

    Raises
    ------
    ConfigurationError
        If nothing is asked for, or a date is in tables and their catalog is not given.
    RunIsLiveError
        If a run of such a date goes on.
    """
    if wanted.tenant is None and not wanted.request_ids and not wanted.custom_ids:
        raise ConfigurationError("--tenant", "is missing", "Give --tenant, --request-id or --custom-id")
    kept: dict[str, list[str]] = {}
    for info in store.list(f"{job}/"):
        match = _DATE.match(info.key, len(job) + 1)
        if match is not None:
            kept.setdefault(match["date"], []).append(info.key)
    done = []
    for day, keys in sorted(kept.items()):
        with TemporaryDirectory(prefix="nightblend-forget-") as scratch:
            place = Path(scratch)
            ids = _find(store, [key for key in keys if _names_requests(key)], wanted, place)
            if ids and not dry_run:
                known = replace(wanted, request_ids=frozenset(ids))
                done.append(_forget_date(store, job, day, keys, known, catalog, lease_s, place))
            elif ids:
                done.append(Forgotten(day, len(ids)))
    return done


def _forget_date(
    store: Store,
    job: str,
    day: str,
    keys: list[str],
    wanted: Wanted,
    catalog: str | None,
    lease_s: float,
    scratch: Path,
) -> Forgotten:
    runs = sorted({"/".join(key.split("/")[:4]) for key in keys if key.startswith(f"{job}/runs/")})
    done = Forgotten(day, len(wanted.request_ids))
    with ExitStack() as held:
        for run in runs:
            held.enter_context(RunLog(store, run, lease_s=lease_s, heartbeat_s=lease_s / 4).hold())
        of_date = date_log(store, job, date.fromisoformat(day), lease_s=lease_s)
        current = current_publication(of_date.refresh())
        stays = None
        if current is not None:
            _check_catalog(store, job, day, current, catalog)
            stays = _publish_without(store, job, day, current, wanted, catalog, lease_s, scratch)
            done.publication_id = stays
        if catalog is not None:
            # pyiceberg is slow to import.
            from tasks.warehouse.catalogs import catalog_errors
            from tasks.warehouse.maintenance import maintain_tables
            from tasks.warehouse.replace import clear_date, open_warehouse

            with catalog_errors(catalog):
                opened = open_warehouse(catalog, store.uri)
                if current is None:
                    # A run that was killed before it was published can have left rows, in files that go now.
                    with of_date.hold():
                        clear_date(opened, job, date.fromisoformat(day), check_owner=of_date.refresh)
                # Manifests hold the least and greatest values of columns: those of before go at once.
                maintain_tables(opened, keep_days=0.0)
    places = [f"{job}/{kind}/run_date={day}/" for kind in ("published", "parsed")]
    doomed = [info.key for place in places for info in store.list(place)]
    if stays is not None:
        safe = f"{publication_prefix(job, day, stays)}/"
        doomed = [key for key in doomed if not key.startswith(safe)]
    # The rows by which this date is found go last.
    doomed.sort(key=_names_requests)
    for run in runs:
        found = [info.key for info in store.list(f"{run}/")]
        logs = sorted((key for key in found if key.startswith(f"{run}/log/")), reverse=True)
        doomed += [*logs, *sorted(set(found) - set(logs), key=_names_requests)]
    for key in doomed:
        store.delete(key)
    done.objects = len(doomed)
    return done


def _check_catalog(store: Store, job: str, day: str, current: Published, catalog: str | None) -> None:
    """Refuse to delete files that the tables of another catalog are made of."""
    if not current.details.get("tables"):
        return
    if catalog is not None:
        from tasks.warehouse.catalogs import catalog_errors
        from tasks.warehouse.replace import has_date, open_warehouse

        with catalog_errors(catalog):
            if has_date(open_warehouse(catalog, store.uri), job, date.fromisoformat(day)):
                return
    raise ConfigurationError(
        "--catalog",
        f"{day} is in tables" + (f", but not in those of {catalog}" if catalog is not None else ""),
        f"Give the catalog of its runs, so that they forget too: {current.details.get('catalog')}",
    )


def _names_requests(key: str) -> bool:
    return _ROWS.search(key) is not None


def _find(store: Store, keys: Iterable[str], wanted: Wanted, scratch: Path) -> set[str]:
    """Return the ids of the requests that these Parquet objects hold of them."""
    ids: set[str] = set()
    path = scratch / "looked-at.parquet"
    for key in keys:
        store.get_file(key, path)
        names = [name for name in ("request_id", "tenant", "custom_id") if name in pq.read_schema(path).names]
        if "request_id" in names:
            rows = pq.read_table(path, columns=names)
            ids.update(rows.filter(wanted.mask(rows)).column("request_id").to_pylist())
    return ids


def _publish_without(
    store: Store,
    job: str,
    day: str,
    current: Published,
    wanted: Wanted,
    catalog: str | None,
    lease_s: float,
    scratch: Path,
) -> str:
    """Publish the current publication of a date again without these requests; return the id of the result."""
    old = publication_prefix(job, day, current.publication_id)
    names = [info.key.removeprefix(f"{old}/") for info in store.list(f"{old}/")]
    # A report names tenants, and its figures are of all requests.
    names = [name for name in names if not name.startswith("report.")]
    taken, left = _Taken(), {}
    for name in names:
        path = scratch / "new" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        store.get_file(f"{old}/{name}", path)
        if name.endswith(".parquet"):
            left[name] = _filter_table(path, wanted, taken)
        elif name in {"output.jsonl", "errors.jsonl"}:
            _filter_lines(path, wanted)
    if not any(taken.rows.values()):
        if "tables" in current.details:
            # They may hold a later publication that was never recorded, whose files go now.
            same = Publication(
                *(current.publication_id, job, date.fromisoformat(day), current.run_key, current.attempt_id),
                current.details,
            )
            make_current(store, same, catalog=catalog, lease_s=lease_s, heartbeat_s=lease_s / 4)
        return current.publication_id
    new_id = digest("forgotten", [current.publication_id, sorted(wanted.request_ids)])[:_ID_LENGTH]
    new = publication_prefix(job, day, new_id)
    summary = json.loads((scratch / "new" / "summary.json").read_text())
    stale = [*_STALE, *(_OPTIONAL & summary.keys())]
    summary = _lowered(summary, taken) | {"publication_id": new_id} | dict.fromkeys(stale)
    (scratch / "new" / "summary.json").write_text(
        json.dumps(summary, ensure_ascii=False, allow_nan=False, indent=2) + "\n"
    )
    for name in names:
        store.put_file(f"{new}/{name}", scratch / "new" / name)

    def moved(value: object) -> object:
        if not isinstance(value, str):
            return value
        # In URIs of files the equals sign of a key is quoted.
        return value.replace(quote(old), quote(new)).replace(old, new)

    results = {key: moved(value) for key, value in _lowered(current.details, taken).items()}
    results |= {"publication_id": new_id, "report_file": None}
    # A run that listed the source before now has read them, and may not publish over this.
    results |= {"listed": date_log(store, job, date.fromisoformat(day), lease_s=lease_s).refresh().next_seq}
    results |= {"listing": None, "bad_rows": None} | dict.fromkeys(_OPTIONAL & results.keys())
    tables = {kind: str(moved(uri)) for kind, uri in current.details.get("tables", {}).items()}
    results["tables"] = {kind: uri for kind, uri in tables.items() if left[uri.partition(f"{new}/")[2]]}
    publication = Publication(
        new_id, job, date.fromisoformat(day), current.run_key, current.attempt_id, results
    )
    make_current(store, publication, catalog=catalog, lease_s=lease_s, heartbeat_s=lease_s / 4)
    return new_id


def _filter_table(path: Path, wanted: Wanted, taken: _Taken) -> int:
    """Rewrite a Parquet file without the rows that are wanted; return how many are left."""
    kept = path.with_name(f"{path.name}.kept")
    left = removed = 0
    with pq.ParquetFile(path) as file, GroupedWriter(kept, file.schema_arrow) as writer:
        names = file.schema_arrow.names
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            rows = pa.Table.from_batches([batch])
            if "request_id" in names:
                mask = wanted.mask(rows)
            elif "kept" in names and wanted.tenant is not None:
                mask = pc.equal(rows.column("tenant"), wanted.tenant)
            elif "raw_text" in names:
                mask = _names_one(rows.column("raw_text"), wanted)
            else:
                mask = pa.array([False] * rows.num_rows, pa.bool_())
            gone = rows.filter(mask)
            removed += gone.num_rows
            left += rows.num_rows - gone.num_rows
            if "usage" in names and path.parent.name != "tables":
                usage = gone.column("usage").to_pylist()
                taken.input_tokens += sum(row["prompt_tokens"] for row in usage)
                taken.output_tokens += sum(row["completion_tokens"] for row in usage)
            writer.write(rows.filter(pc.invert(mask)))
    kept.replace(path)
    if path.parent.name != "tables":
        taken.rows[path.stem] = removed
    return left


def _names_one(texts: pa.ChunkedArray, wanted: Wanted) -> pa.Array:
    """Tell for each quarantined text whether the tenant or one of the custom ids is in it."""
    found = pa.array([False] * len(texts), pa.bool_())
    # A short id would be found in many a word: in quotes it is a value of JSON.
    words = [json.dumps(name, ensure_ascii=False) for name in sorted(wanted.custom_ids)]
    for word in [*([wanted.tenant] if wanted.tenant is not None else []), *words]:
        same = pc.fill_null(pc.match_substring(texts, word), fill_value=pa.scalar(value=False))
        found = pc.or_(found, same)
    return found


def _filter_lines(path: Path, wanted: Wanted) -> None:
    kept = path.with_name(f"{path.name}.kept")
    with path.open("rb") as lines, kept.open("wb") as out:
        for line in lines:
            if json.loads(line)["nightblend"]["request_id"] not in wanted.request_ids:
                out.write(line)
    kept.replace(path)


def _lowered(figures: dict[str, Any], taken: _Taken) -> dict[str, Any]:
    """Return figures of a publication less what was taken out of it; the equations of the account hold."""
    outputs, errors = taken.rows.get("outputs", 0), taken.rows.get("errors", 0)
    lines = taken.rows.get("quarantine", 0)
    less = {
        "requests": outputs + errors,
        "outputs": outputs,
        "errors": errors,
        "quarantined": lines,
        "input_tokens": taken.input_tokens,
        "output_tokens": taken.output_tokens,
    }
    changed = {name: figures[name] - less[name] if name in less else value for name, value in figures.items()}
    if isinstance(figures.get("account"), dict):
        account = dict(figures["account"])
        account["requests"] -= outputs + errors
        account["quarantined"] -= lines
        account["lines"] -= outputs + errors + lines
        changed["account"] = account
    return changed
