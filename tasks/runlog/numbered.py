"""The records of a log as objects: numbered without gaps, each created once and never changed."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from tasks.runlog.records import RESTORE_RECORD, LogFormatError, LogRecord
from tasks.store.contract import ObjectNotFoundError, StoreUnavailableError

if TYPE_CHECKING:
    from tasks.store.contract import Store

log = logging.getLogger(__name__)

_AMBIGUOUS = (StoreUnavailableError, OSError)
_READERS = 16


class NumberedRecords:
    """Records below a prefix by number; the store's conditional PUT decides whose record has a number."""

    def __init__(self, store: Store, prefix: str, patience_s: float) -> None:
        self.store = store
        self.prefix = prefix
        self.patience_s = patience_s

    def key(self, seq: int) -> str:
        """Return the store key of a number."""
        return f"{self.prefix}/{seq:08d}.json"

    def read(self, seq: int) -> LogRecord | None:
        """Return the record of a number, or None if it is free."""
        key = self.key(seq)
        try:
            return LogRecord.from_json(self.store.get(key), self.store.object_uri(key))
        except ObjectNotFoundError:
            return None

    def read_all(self) -> list[LogRecord]:
        """Return the records that a listing shows, many at once; later ones may follow."""
        # Listing only tells how many to read at once; what counts is what is read.
        count = sum(1 for _ in self.store.list(self.prefix + "/"))
        with ThreadPoolExecutor(_READERS) as pool:
            found = list(pool.map(self.read, range(count)))
        records = [record for record in found if record is not None]
        if len(records) != count:
            missing = self.store.object_uri(self.key(found.index(None)))
            raise LogFormatError(f"{missing} is missing from the log. {RESTORE_RECORD}")
        return records

    def settle(self, seq: int, record: LogRecord) -> LogRecord:
        """Try to give `record` a number, and return the record that has it for certain.

        Raises
        ------
        StoreUnavailableError, OSError
            If the store failed for `patience_s`; the record may have the number all the same.
        """
        data = record.to_json()
        deadline = time.monotonic() + self.patience_s
        pause = 0.05
        while True:
            try:
                if self.store.put_if_absent(self.key(seq), data):
                    return record
                found = self.read(seq)
            except _AMBIGUOUS as error:
                log.warning("append to %s: %s", self.prefix, error)
                try:
                    # The PUT may have been applied all the same; only a read can tell.
                    found = self.read(seq)
                except _AMBIGUOUS:
                    found = None
                if found is None and time.monotonic() >= deadline:
                    raise
            if found is not None:
                return found
            if time.monotonic() >= deadline:
                raise StoreUnavailableError(f"{self.store.object_uri(self.key(seq))} is refused but absent")
            time.sleep(pause)
            pause = min(5.0, pause * 2)
