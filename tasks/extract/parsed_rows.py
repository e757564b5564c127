"""Parsed rows of earlier runs of a date, found again by (uri, etag, size) of their object.

Objects that were parsed together share their files: a *group*. Its record names its objects, so that a later
run takes over what it still lists and parses the rest. Groups are kept apart by everything beside the objects
that decides on rows.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.base.accounting import Account
from tasks.base.identity import digest, file_digest
from tasks.extract.parse.image_files import IMAGES
from tasks.extract.parse.one_object import ParsedObject
from tasks.extract.parse.row_files import TABLES
from tasks.extract.text.lines import ReadFailure
from tasks.store.contract import ObjectNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from tasks.store.contract import Store

_RECORD = "group.json"
Name = tuple[str, str, int]
"""uri, etag, size."""


@dataclass(frozen=True, slots=True)
class Group:
    """Objects parsed together.

    Attributes
    ----------
    objects
        By uri, etag and size.
    files
        Table -> its files, local.
    """

    objects: dict[Name, ParsedObject]
    files: dict[str, list[Path]]


class ParsedRows:
    """Keeps groups in the store of a run.

    Parameters
    ----------
    store : Store
        Where they are.
    folder : str
        Key of the folder of this job and date.
    settings : str
        Digest of all that decides on rows beside the objects.
    """

    def __init__(self, store: Store, folder: str, settings: str) -> None:
        self._store = store
        self._folder = folder
        self._mine = f"{folder}/{settings[:32]}"
        self._known: dict[str, dict[str, Any]] | None = None

    def seen(self) -> set[str]:
        """Return the uris of all objects that were parsed for this date before, under any settings."""
        return {name[0] for key, record in self._records().items() for name in _names(record)}

    def find(self, wanted: Iterable[Name], scratch: Path) -> list[Group]:
        """Fetch the groups that have wanted objects, with these objects only.

        Parameters
        ----------
        wanted : iterable of Name
            Objects as they are listed now.
        scratch : Path
            Folder for the files.

        Returns
        -------
        list of Group
            In the order of their first objects. No object is in two; a group that is not whole is left out.
        """
        open_names = set(wanted)
        found = []
        for key, record in self._records().items():
            if not key.startswith(f"{self._mine}/"):
                continue
            names = [name for name in _names(record) if name in open_names]
            if not names:
                continue
            group = self._fetch(key.rpartition("/")[0], record, set(names), scratch / key.split("/")[-2])
            if group is not None:
                found.append(group)
                open_names.difference_update(names)
        return sorted(found, key=lambda group: min(group.objects))

    def keep(self, group: Group) -> None:
        """Store a group."""
        names = sorted(group.objects)
        place = f"{self._mine}/{digest('group', [list(name) for name in names])[:32]}"
        files = []
        for table, paths in group.files.items():
            for number, path in enumerate(paths):
                key = f"{table}-{number:05d}.parquet"
                self._store.put_file(f"{place}/{key}", path)
                files.append({"table": table, "key": key, "sha256": file_digest(path)})
        objects = [
            {"uri": uri, "etag": etag, "size": size, **_described(group.objects[uri, etag, size])}
            for uri, etag, size in names
        ]
        # Last: rows without this record are not found.
        record = {"objects": objects, "files": files}
        self._store.put(f"{place}/{_RECORD}", json.dumps(record, sort_keys=True).encode())

    def _records(self) -> dict[str, dict[str, Any]]:
        if self._known is None:
            keys = [
                info.key for info in self._store.list(f"{self._folder}/") if info.key.endswith(f"/{_RECORD}")
            ]
            self._known = {}
            for key in keys:
                try:
                    record = json.loads(self._store.get(key))
                    _names(record)
                except (ObjectNotFoundError, ValueError, KeyError, TypeError):
                    continue
                self._known[key] = record
        return self._known

    def _fetch(self, place: str, record: dict[str, Any], names: set[Name], folder: Path) -> Group | None:
        files: dict[str, list[Path]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        try:
            objects = {
                name: _parsed(entry) for name, entry in zip(_names(record), record["objects"], strict=True)
            }
            for entry in record["files"]:
                path = folder / str(entry["key"]).replace("/", "-")
                self._store.get_file(f"{place}/{entry['key']}", path)
                if entry["table"] not in (*TABLES, IMAGES) or file_digest(path) != entry["sha256"]:
                    return None
                files.setdefault(entry["table"], []).append(path)
        except (ObjectNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return None
        if len(names) < len(objects):
            uris = {name[0] for name in names}
            # An image may be of several objects.
            files = {
                table: paths if table == IMAGES else [_only(path, uris) for path in paths]
                for table, paths in files.items()
            }
        return Group({name: objects[name] for name in objects if name in names}, files)


def _only(path: Path, uris: set[str]) -> Path:
    """Write the rows of some objects beside `path`."""
    kept = path.with_name(f"some-{path.name}")
    with pq.ParquetFile(path) as file, pq.ParquetWriter(kept, file.schema_arrow, compression="zstd") as out:
        for batch in file.iter_batches():
            wanted = pc.is_in(batch.column("source_uri"), value_set=_array(uris))
            out.write_batch(batch.filter(wanted))
    return kept


def _array(texts: Iterable[str]) -> Any:  # noqa: ANN401 - pyarrow has no types
    import pyarrow as pa

    return pa.array(sorted(texts), pa.string())


def _names(record: Mapping[str, Any]) -> list[Name]:
    return [(str(entry["uri"]), str(entry["etag"]), int(entry["size"])) for entry in record["objects"]]


def _described(parsed: ParsedObject) -> dict[str, Any]:
    return {
        "account": parsed.account.counts(),
        "format": parsed.format,
        "failure": asdict(parsed.failure) if parsed.failure else None,
        "outside": parsed.outside,
        "shapes": parsed.shapes,
        "filtered_by": parsed.filtered_by,
    }


def _parsed(entry: Mapping[str, Any]) -> ParsedObject:
    failure = ReadFailure(**entry["failure"]) if entry["failure"] else None
    return ParsedObject(
        Account(**entry["account"]),
        str(entry["format"]),
        failure,
        int(entry["outside"]),
        int(entry["shapes"]),
        int(entry["size"]),
        # Not in what earlier versions kept.
        {str(reason): int(count) for reason, count in entry.get("filtered_by", {}).items()},
    )


def files_of(groups: Sequence[Group], table: str) -> list[Path]:
    """Return the files of a table, in the order of the groups."""
    return [path for group in groups for path in group.files.get(table, [])]
