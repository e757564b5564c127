"""The formats that logs may have, and which one an object has.

An object's format is decided once, by its content: the first record that one of the formats knows decides.
Its name plays no part. Objects in which no record is known are read as OpenAI Batch input, so that each of
their lines is told what it lacks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tasks.base.errors import ConfigurationError
from tasks.extract.readers import (
    anthropic_batch,
    azure,
    bedrock,
    bedrock_converse,
    bedrock_logs,
    burstgpt,
    canonical,
    databricks,
    gemini_batch,
    helicone,
    langfuse,
    litellm,
    mooncake,
    openai_batch,
    openai_body,
    openai_output,
    openai_responses,
    otel,
    sharegpt,
    wildchat,
)
from tasks.extract.readers.generic import FIELDS, generic_reader
from tasks.requests.formats import AUTO, FORMATS, GENERIC

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tasks.extract.readers.contract import Reader

READERS_VERSION: Final = 4
"""Raise it when a record would give another row: parsed rows of earlier nights are then not reused."""

READERS: Final[dict[str, Reader]] = {
    found.READER.name: found.READER
    for found in (
        openai_responses,
        openai_batch,
        openai_output,
        anthropic_batch,
        databricks,
        gemini_batch,
        litellm,
        bedrock,
        bedrock_logs,
        bedrock_converse,
        otel,
        langfuse,
        helicone,
        canonical,
        wildchat,
        sharegpt,
        mooncake,
        azure,
        burstgpt,
        openai_body,
    )
}
"""By name, in the order in which they are tried."""

DEFAULT: Final = openai_batch.READER


def find_reader(name: str, columns: Mapping[str, str]) -> Reader | None:
    """Return the reader that was asked for; None to let the content decide.

    Raises
    ------
    ConfigurationError
        If there is no such format, or columns are missing or of no use.
    """
    if columns and name in {AUTO, GENERIC}:
        return generic_reader(columns)
    if columns or name == GENERIC:
        raise ConfigurationError(
            "--columns",
            "go together with --format generic",
            "Give --columns prompt=COLUMN" if not columns else "Leave out one of the two",
        )
    if name == AUTO:
        return None
    if name not in READERS:
        raise ConfigurationError("--format", f"{name!r} is unknown", f"Choose one of {', '.join(FORMATS)}")
    return READERS[name]


def find_table_reader(name: str, columns: Mapping[str, str], found: Sequence[str]) -> Reader | None:
    """Return the reader of a table with the columns `found`.

    As `find_reader`, but all columns of a row come back with its answer, and a table with a column `prompt`
    or `messages` needs no mapping: its columns mean what their names say.

    Raises
    ------
    ConfigurationError
        As `find_reader`, or if a column of the mapping is not in the table.
    """
    if not columns and name in {AUTO, GENERIC} and {"prompt", "messages"} & set(found):
        columns = {field: field for field in FIELDS if field in found}
    chosen = find_reader(name, columns)
    if chosen is None or chosen.name != GENERIC:
        return chosen
    for column in columns.values():
        if column not in found and column.partition(".")[0] not in found:
            raise ConfigurationError(
                "--columns", f"the table has no column {column!r}", f"It has {', '.join(found)}"
            )
    return generic_reader(columns, keep_rest=True)


def detect(records: Iterable[Mapping[str, Any]]) -> Reader | None:
    """Return the format of the first record that has one."""
    for record in records:
        for reader in READERS.values():
            if reader.matches(record):
                return reader
    return None
