"""Tables of results, read when somebody asks for them."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import polars as pl

from tasks.store.open import open_store

if TYPE_CHECKING:
    from typing import Literal


def read_table(folder: str, kind: Literal["outputs", "errors"]) -> pl.DataFrame:
    """Return a table of the files of a publication.

    Parameters
    ----------
    folder
        Path or URI of the files.

    Raises
    ------
    ObjectNotFoundError
        If the file is gone.
    StoreUnavailableError
        If the store fails for longer than it is tried.
    """
    with TemporaryDirectory(prefix="nightblend-") as place:
        path = Path(place) / f"{kind}.parquet"
        open_store(folder, "folder").get_file(path.name, path)
        # Read, not mapped: the file is gone in a moment.
        return pl.read_parquet(path, memory_map=False)
