"""Parses objects in groups: a large one in blocks over all cores, small ones fetched side by side."""

from __future__ import annotations

import gc
import io
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final

from tasks.base.accounting import Account
from tasks.extract.parse.image_files import IMAGES, write_images
from tasks.extract.parse.one_object import ParsedObject, parse_object
from tasks.extract.parse.pool import ParsePool
from tasks.extract.parse.record_parser import Place
from tasks.extract.parse.row_files import RowFiles
from tasks.extract.parsed_rows import Group
from tasks.extract.text.lines import ReadFailure

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from tasks.extract.parse.record_parser import ParseSettings
    from tasks.extract.parsed_rows import Name
    from tasks.extract.readers.contract import Reader
    from tasks.extract.sources import Source
    from tasks.store.contract import ObjectInfo

log = logging.getLogger(__name__)

POOL_BYTES: Final = 48 << 20
"""Objects of at least this size are parsed in several processes, which take about a second to start."""
SMALL_BYTES: Final = 1 << 20
"""Objects up to this size are fetched whole, and parsed many at a time."""
GROUP_OBJECTS: Final = 2000
GROUP_BYTES: Final = 64 << 20
FETCHES: Final = 16
"""Small objects that are fetched at a time; as many again may wait to be parsed."""
_TOLD: Final = 3
"""Objects of no known format that a warning names."""
_UNREADABLE: Final = ParsedObject(
    Account(object_errors=1), "none", ReadFailure(0, 0, "its key has a step '..'"), 0, 0, 0
)


class GroupParser:
    """Parses objects in groups: a large one by itself, small ones many at a time."""

    def __init__(
        self,
        settings: ParseSettings,
        max_line_bytes: int,
        reader: Reader | None,
        place: Place,
        scratch: Path,
        processes: int | None,
    ) -> None:
        self._reader = reader
        self._place, self._scratch = place, scratch
        self._settings, self._limit = settings, max_line_bytes
        self._processes = processes
        self._groups = self._unknown = 0

    def parse(self, source: Source, named: Mapping[Name, ObjectInfo]) -> Iterator[tuple[Group, bool]]:
        """Yield groups, and whether each was read as it was listed, so that its rows can be kept.

        One with images that could not be had is not: the next run tries again.
        """
        climbing = [name for name in named if ".." in named[name].key.split("/")]
        if climbing:
            # A key is any text; a path made of this one could name something else.
            yield Group(dict.fromkeys(climbing, _UNREADABLE), {}), False
            named = {name: info for name, info in named.items() if name not in set(climbing)}
        small = [name for name in named if named[name].size <= SMALL_BYTES]
        with ExitStack() as stack:
            pool: ParsePool | None = None
            for name in named:
                size = named[name].size
                if size <= SMALL_BYTES:
                    continue
                if pool is None and size >= POOL_BYTES:
                    pool = stack.enter_context(
                        ParsePool(self._scratch / "blocks", self._limit, self._processes)
                    )
                with source.open_stream(named[name].key) as stream:
                    yield self._group([(name, stream)], pool if size >= POOL_BYTES else None)
            for names in _together(small):
                yield self._group(_fetched(source, names, named), None)

    def _tell_unknown(self, uri: str, looks: str) -> None:
        self._unknown += 1
        if self._unknown <= _TOLD:
            log.warning("%s: %s. `nightblend formats FILE` tells more", uri, looks)

    def _group(self, streams: Iterable[tuple[Name, BinaryIO]], pool: ParsePool | None) -> tuple[Group, bool]:
        folder = self._scratch / f"{self._groups:05d}"
        folder.mkdir(parents=True)
        self._groups += 1
        objects: dict[Name, ParsedObject] = {}
        whole = True
        with RowFiles(folder) as rows, _without_collector():
            for name, stream in streams:
                parsed = parse_object(
                    stream,
                    Place(self._place.job, self._place.run_date, name[0]),
                    self._settings,
                    reader=self._reader,
                    max_line_bytes=self._limit,
                    rows=rows,
                    pool=pool,
                    scratch=folder,
                    unknown=partial(self._tell_unknown, name[0]),
                )
                objects[name] = parsed
                # Damage ends the reading early; otherwise what was listed is what was read.
                left = name[2] - parsed.bytes_read
                if left < 0 or (left and parsed.failure is None):
                    log.warning("%s was written to while it was read; its rows are not kept", name[0])
                    whole = False
                if parsed.unread:
                    log.warning("%s: %d requests have images that cannot be read", name[0], parsed.unread)
                    whole = False
                if parsed.failure is not None:
                    message = "%s: %s at byte %d"
                    log.warning(message, name[0], parsed.failure.message, parsed.failure.byte_offset)
        files = {table: [path] for table, path in rows.files.items()}
        for made in pool.take_files() if pool is not None else ():
            for table, path in made.items():
                files.setdefault(table, []).append(path)
        images = {sha256 for parsed in objects.values() for sha256 in parsed.images}
        if images and self._settings.images is not None:
            files[IMAGES] = [folder / f"{IMAGES}.parquet"]
            write_images(self._settings.images.folder, images, files[IMAGES][0])
        return Group(objects, files), whole


@contextmanager
def _without_collector() -> Iterator[None]:
    """Look for no cycles while a group is parsed: it makes none to speak of, and looking takes long."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _together(names: Sequence[Name]) -> Iterator[list[Name]]:
    """Yield small objects in groups of bounded number and size."""
    group: list[Name] = []
    size = 0
    for name in names:
        if group and (len(group) >= GROUP_OBJECTS or size + name[2] > GROUP_BYTES):
            yield group
            group, size = [], 0
        group.append(name)
        size += name[2]
    if group:
        yield group


def _fetched(
    source: Source, names: Sequence[Name], named: Mapping[Name, ObjectInfo]
) -> Iterator[tuple[Name, BinaryIO]]:
    """Yield small objects in order, with the next ones on their way."""
    waiting = iter(names)
    with ThreadPoolExecutor(FETCHES) as pool:
        coming = [(name, pool.submit(source.get, named[name].key)) for name in islice(waiting, 2 * FETCHES)]
        while coming:
            name, data = coming.pop(0)
            yield name, io.BytesIO(data.result())
            coming += [(name, pool.submit(source.get, named[name].key)) for name in islice(waiting, 1)]
