"""What became of the objects of a date: the input of a run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tasks.extract.parsed_rows import files_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date
    from pathlib import Path

    from tasks.base.accounting import Account
    from tasks.extract.parsed_rows import Group


@dataclass(frozen=True, slots=True)
class ObjectError:
    """A part of an object that could not be read: from `byte_offset` of the object as it is stored.

    `text_offset` is where its last whole line ends in the uncompressed text.
    """

    source_uri: str
    byte_offset: int
    text_offset: int
    message: str


@dataclass(frozen=True, slots=True)
class ExtractedObject:
    """One object, parsed.

    Attributes
    ----------
    source_uri, etag, size
        The object as it was listed.
    account
        Its counts; the equation holds.
    format
        Name of the format it was read by.
    outside
        Requests made outside of the date; filtered, unless the path of the source holds the date.
    shapes
        Requests of which only lengths are known.
    error
        What could not be read of it, if anything.
    reused
        Whether its rows came from an earlier parse.
    late
        Whether the date was read before without it.
    filtered_by
        Of the records filtered: how many for which reason.
    """

    source_uri: str
    etag: str
    size: int
    account: Account
    format: str
    outside: int
    shapes: int
    error: ObjectError | None
    reused: bool
    late: bool
    filtered_by: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExtractResult:
    """The input of a run: all objects of its date, sorted by key.

    Attributes
    ----------
    account
        Sum over the objects.
    input_digest
        Over all requests, those refused while parsing included.
    ignored
        Objects listed whose names are of no kind that is read.
    """

    run_date: date
    objects: tuple[ExtractedObject, ...]
    account: Account
    input_digest: str
    ignored: int
    groups: tuple[Group, ...]

    def files(self, table: str) -> list[Path]:
        """Return the Parquet files of `requests`, `errors`, `quarantine` or `images`."""
        return files_of(self.groups, table)

    @property
    def object_errors(self) -> list[ObjectError]:
        """What could not be read."""
        return [found.error for found in self.objects if found.error is not None]

    @property
    def late(self) -> list[str]:
        """Objects that came after the date was read first."""
        return [found.source_uri for found in self.objects if found.late]

    @property
    def filtered_by(self) -> dict[str, int]:
        """How many records were filtered, by the reason: most first."""
        reasons: Counter[str] = Counter()
        for found in self.objects:
            reasons.update(found.filtered_by)
        return dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))

    @property
    def outside(self) -> int:
        """Requests made outside of the date."""
        return sum(found.outside for found in self.objects)

    @property
    def shapes(self) -> int:
        """Requests of which only lengths are known."""
        return sum(found.shapes for found in self.objects)
