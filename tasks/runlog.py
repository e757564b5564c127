"""The run log: an append-only list of records, each created by one conditional PUT.

Claims and commits share one sequence of slots, so a writer that has been taken over finds the claim of its
successor in the slot it wanted, and stops. Nothing here depends on clocks or on the heartbeat for
correctness; those only decide how soon a successor dares to claim.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tasks.identity import file_digest
from tasks.liveness import Heartbeat, is_gone, this_process
from tasks.runrecords import (
    STATUSES,
    Attempt,
    AttemptEnded,
    Body,
    Claim,
    LogFormatError,
    LogRecord,
    Part,
    Published,
    Released,
    Step,
    StopRequested,
    utc_now,
)
from tasks.runstate import EMPTY, RunState, describe, fold
from tasks.slots import Slots
from tasks.storage import ObjectNotFoundError, check_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tasks.storage import Store

log = logging.getLogger(__name__)

PART_KINDS = frozenset(
    {
        *("requests", "profiles", "plan", "outputs", "errors", "quarantine"),
        *("steps", "device_samples", "work", "lengths"),
    }
)


class RunIsLiveError(Exception):
    """Another process holds the run and is alive."""


class StaleWriterError(Exception):
    """The run is not, or no longer, held by this process: another has claimed it."""


def run_prefix(job: str, run_date: str, run_key: str) -> str:
    """Return the prefix of a run directory."""
    return check_key(f"{job}/runs/run_date={run_date}/{run_key}")


def date_prefix(job: str, run_date: str) -> str:
    """Return the prefix of the log that fences the publication of a date."""
    return check_key(f"{job}/dates/run_date={run_date}")


def digest_ids(ids: Iterable[str]) -> str:
    """Return the SHA-256 of the sorted ids, in hex."""
    digest = hashlib.sha256()
    for one in sorted(ids):
        digest.update(one.encode() + b"\n")
    return digest.hexdigest()


class RunLog:
    """The log below `{prefix}/log/`, the objects beside it, and this process's hold on them.

    Reading needs no claim. `hold` makes this process the writer; a `RunLog` may then be used from several
    threads.

    Parameters
    ----------
    store
        Where; probe it first.
    prefix
        `run_prefix(...)` or `date_prefix(...)`.
    lease_s
        A holder without a sign of life for longer than this is taken over.
    heartbeat_s
        Time between signs of life, well below `lease_s`.
    patience_s
        How long an append is tried while the store fails, before `StoreUnavailableError`.
    """

    def __init__(
        self,
        store: Store,
        prefix: str,
        *,
        lease_s: float = 90.0,
        heartbeat_s: float = 20.0,
        patience_s: float = 60.0,
    ) -> None:
        self.store = store
        self.prefix = check_key(prefix)
        self.lease_s = lease_s
        self.heartbeat_s = heartbeat_s
        self._slots = Slots(store, f"{self.prefix}/log", patience_s)
        self.lost = False
        self._state = EMPTY
        self._claim: LogRecord | None = None
        # Guards state and slot choice; two threads must not fight for one slot.
        self._lock = threading.RLock()

    # ---- reading -------------------------------------------------------------------------------------

    @property
    def state(self) -> RunState:
        """The fold of the records read so far; `refresh` reads on."""
        return self._state

    @property
    def is_holder(self) -> bool:
        """Whether this process holds the run, as far as it knows."""
        return self._claim is not None and not self.lost

    def refresh(self) -> RunState:
        """Read the records that others have appended and return the state.

        Raises
        ------
        StaleWriterError
            If this process held the run and has been taken over.
        LogFormatError
            If a record is damaged or of a newer format.
        """
        with self._lock:
            if self._state.next_seq == 0:
                self._state = fold(self._slots.read_all())
            while (record := self._slots.read(self._state.next_seq)) is not None:
                self._state = fold([record], self._state)
            if self._claim is not None and self._state.epoch > self._claim.epoch:
                self.lost = True
            self._check_not_lost()
            return self._state

    # ---- holding -------------------------------------------------------------------------------------

    @contextmanager
    def hold(
        self, *, wait: bool = False, take_over: bool = False, params: dict[str, Any] | None = None
    ) -> Iterator[RunLog]:
        """Claim the run, keep the heartbeat going inside the block, and release at its end.

        Arguments and errors are those of `claim`. The release is left out when the run was lost, and
        a store that fails at that moment does not hide what ended the block.
        """
        self.claim(wait=wait, take_over=take_over, params=params)
        try:
            with Heartbeat(self._beat, self.heartbeat_s):
                yield self
        finally:
            self.release()

    def claim(
        self, *, wait: bool = False, take_over: bool = False, params: dict[str, Any] | None = None
    ) -> None:
        """Become the writer, under the next epoch. Use `hold` unless something else beats.

        Parameters
        ----------
        wait
            If the holder gives no sign of life, wait until the last one is `lease_s` old instead of
            raising at once. A holder that gives one meanwhile is alive: that raises.
        take_over
            Claim although the present holder may be alive; it is refused at its next append.
        params
            Kept in the record for people.

        Raises
        ------
        RunIsLiveError
            If another process holds the run and has not certainly ended.
        """
        if self._claim is not None:
            raise ValueError(f"{self.prefix} is claimed already")
        seen: tuple[int, bytes] | None = None
        forced_epoch: int | None = None
        while True:
            state = self.refresh()
            if forced_epoch is None:
                forced_epoch = state.epoch if take_over else 0
            # Force holds against the holder that the caller knew of, not against one that came in between.
            if state.holder is not None and state.epoch > forced_epoch and not _owner_is_gone(state.holder):
                age = self.sign_of_life_age()
                # Strictly older: ages of whole seconds (S3) are then never too high by the fraction.
                if age <= self.lease_s:
                    sign = (state.epoch, self._heartbeat_content())
                    if not wait or (seen is not None and seen != sign):
                        raise RunIsLiveError(self._live_message(state.holder, age))
                    seen = sign
                    time.sleep(max(0.05, min(1.0, self.lease_s - age)))
                    continue
            record = LogRecord.new(state.epoch + 1, Claim(this_process(), params or {}))
            with self._lock:
                if self._slots.settle(self._state.next_seq, record).nonce == record.nonce:
                    self._state = fold([record], state)
                    self._claim = record
                    return

    def release(self) -> None:
        """Let go, so that the next one need not wait. Does nothing for a run that was lost."""
        if self._claim is None:
            return
        try:
            if not self.lost:
                self.append(Released())
        except StaleWriterError:
            pass
        except Exception as error:  # noqa: BLE001 - must not hide what ended the block; a lease covers it
            log.warning(
                "%s was not released and can be claimed in %.0f s: %s", self.prefix, self.lease_s, error
            )
        self._claim = None
        self.lost = False

    def request_stop(self, reason: str = "", *, by: str = "") -> bool:
        """Ask whoever holds the run to stop; from any process, without a claim. For `by` see `StopRequested`.

        Returns
        -------
        bool
            False if nobody holds it.
        """
        while True:
            with self._lock:
                state = self.refresh()
                if state.holder is None:
                    return False
                record = LogRecord.new(state.epoch, StopRequested(reason, by))
                found = self._slots.settle(self._state.next_seq, record)
                self._state = fold([found], state)
                if found.nonce == record.nonce:
                    return True

    # ---- appending -----------------------------------------------------------------------------------

    def append(self, body: Body) -> LogRecord:
        """Append a record as the holder.

        Raises
        ------
        StaleWriterError
            If another process has claimed the run. Nothing was appended, nor will be.
        StoreUnavailableError
            If the store failed for `patience_s`. Whether the record is in the log shows at the next
            `refresh`; appending it again is harmless.
        """
        with self._lock:
            self._check_not_lost()
            if self._claim is None:
                raise StaleWriterError(f"{self.prefix} is not held by this process")
            record = LogRecord.new(self._claim.epoch, body)
            while True:
                found = self._slots.settle(self._state.next_seq, record)
                self._state = fold([found], self._state)
                if found.nonce == record.nonce:
                    return record
                if found.epoch > self._claim.epoch:
                    self.lost = True
                    self._check_not_lost()

    def open_attempt(
        self, *, fresh: bool = False, policy: str = "", device: str = "", params: dict[str, Any] | None = None
    ) -> Attempt:
        """Append the record that opens an attempt, and return it with its id."""
        attempt = Attempt(uuid4().hex[:12], fresh, policy, device, params or {})
        self.append(attempt)
        return attempt

    def finish_step(self, name: str, results: dict[str, Any] | None = None) -> Step:
        """Append that a step of the current attempt is finished."""
        step = Step(name, self._attempt_id(), results or {})
        self.append(step)
        return step

    def end_attempt(
        self,
        status: str,
        exit_code: int,
        summary: dict[str, Any] | None = None,
        *,
        attempt_id: str | None = None,
    ) -> AttemptEnded:
        """Append how the current attempt (or an earlier one that was killed) ended."""
        if status not in STATUSES:
            raise ValueError(f"status must be one of {', '.join(STATUSES)}, not {status!r}")
        ended = AttemptEnded(attempt_id or self._attempt_id(), status, exit_code, summary or {})
        self.append(ended)
        return ended

    def publish(
        self, publication_id: str, *, run_key: str, attempt_id: str, details: dict[str, Any] | None = None
    ) -> Published:
        """Append to a date's log that a publication is now the current one."""
        published = Published(publication_id, run_key, attempt_id, details or {})
        self.append(published)
        return published

    # ---- objects -------------------------------------------------------------------------------------

    def write_part(
        self, kind: str, content: bytes | Path, *, ext: str, count: int, ids_digest: str = "", label: str = ""
    ) -> Part:
        """Upload an object named by its content, then append the record that makes it count.

        Parameters
        ----------
        kind
            One of `PART_KINDS`.
        content
            Bytes, or a local file.
        ext
            Extension without the dot.
        count, ids_digest
            See `Part`.
        label
            Put before the digest in the name, for people.

        Returns
        -------
        Part
            The record; the earlier one if this content is recorded already.
        """
        if kind not in PART_KINDS:
            raise ValueError(f"kind must be one of {', '.join(sorted(PART_KINDS))}, not {kind!r}")
        sha256 = file_digest(content) if isinstance(content, Path) else hashlib.sha256(content).hexdigest()
        name = f"{kind}/{label}{'-' if label else ''}{sha256[:16]}.{ext}"
        known = self._state.parts.get(name)
        if known is not None and known.sha256 == sha256:
            return known
        self._check_not_lost()
        if isinstance(content, Path):
            self.store.put_file(self.key(name), content)
            size = content.stat().st_size
        else:
            self.store.put(self.key(name), content)
            size = len(content)
        part = Part(kind, name, sha256, count, ids_digest, size, self._attempt_id())
        self.append(part)
        return part

    def read_part(self, part: Part) -> bytes:
        """Return the content of a part; raise `LogFormatError` if it is not what was recorded."""
        data = self.store.get(self.key(part.name))
        if hashlib.sha256(data).hexdigest() != part.sha256:
            raise LogFormatError(
                f"{self.store.object_uri(self.key(part.name))} does not have the recorded content"
            )
        return data

    def fetch_part(self, part: Part, path: Path) -> None:
        """Copy a part to a local file; raise `LogFormatError` if it is not what was recorded."""
        self.store.get_file(self.key(part.name), path)
        if file_digest(path) != part.sha256:
            raise LogFormatError(
                f"{self.store.object_uri(self.key(part.name))} does not have the recorded content"
            )

    def write_manifest(self) -> None:
        """Write `manifest.json`, the view for people, from the state as known."""
        data = json.dumps(describe(self._state), ensure_ascii=False, indent=2).encode() + b"\n"
        self.store.put(self.key("manifest.json"), data)

    def key(self, name: str) -> str:
        """Return the store key of an object of this run."""
        return f"{self.prefix}/{name}"

    # ---- signs of life -------------------------------------------------------------------------------

    def _attempt_id(self) -> str:
        attempt = self._state.attempt
        return attempt.id if attempt else ""

    def _check_not_lost(self) -> None:
        if self.lost:
            holder = self._state.holder
            by = holder.body.owner if holder is not None and isinstance(holder.body, Claim) else None
            whom = f"{by.host} pid {by.pid}" if by else "another process"
            raise StaleWriterError(f"{self.prefix} was taken over by {whom} (epoch {self._state.epoch})")

    def _beat(self) -> bool:
        # A thread that is appending holds the lock and finds out by itself; the beat must not wait for it.
        if self._lock.acquire(timeout=self.heartbeat_s / 4):
            try:
                self.refresh()
            except StaleWriterError:
                return False
            finally:
                self._lock.release()
        if self.lost:
            return False
        self._put_heartbeat()
        return True

    def _put_heartbeat(self) -> None:
        if self._claim is not None:
            beat = {
                "epoch": self._claim.epoch,
                "nonce": self._claim.nonce,
                "beat": uuid4().hex,
                "at": utc_now(),
            }
            self.store.put(self.key("heartbeat.json"), json.dumps(beat).encode())

    def _heartbeat_content(self) -> bytes:
        try:
            return self.store.get(self.key("heartbeat.json"))
        except ObjectNotFoundError:
            return b""

    def sign_of_life_age(self) -> float:
        """Return how old the last sign of life of the present (or last) holder is, in seconds.

        By the store's own clock. The run must have been claimed once.
        """
        # The claim counts as a sign of life too: its first heartbeat comes a moment after it.
        keys = (self._slots.key(self._state.holder_seq), self.key("heartbeat.json"))
        ages = [self.store.age_seconds(key) for key in keys]
        return min(age for age in ages if age is not None)

    def _live_message(self, holder: LogRecord, age: float) -> str:
        owner = holder.body.owner if isinstance(holder.body, Claim) else None
        whom = f"pid {owner.pid} on {owner.host}" if owner else "another process"
        return (
            f"{self.prefix} is held by a live run: {whom} since {holder.at}, "
            f"last sign of life {age:.0f} s ago. "
            f"Wait until it ends, or pass --take-over to stop it at its next write; "
            f"if it has died, it can be claimed {max(0.0, self.lease_s - age):.0f} s from now."
        )


def _owner_is_gone(holder: LogRecord) -> bool:
    return isinstance(holder.body, Claim) and is_gone(holder.body.owner)
