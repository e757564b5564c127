"""The run log: an append-only list of records, each created by one conditional PUT.

Claims and commits are numbered together, so a writer that has been taken over finds the claim of its
successor under the number it wanted, and stops. Nothing here depends on clocks or on the heartbeat for
correctness; those only decide how soon a successor dares to claim.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from tasks.runlog.liveness import Heartbeat, HeartbeatObject, held_by_live, holder_is_gone, this_process
from tasks.runlog.numbered import NumberedRecords
from tasks.runlog.objects import RunObjects
from tasks.runlog.records import (
    STATUSES,
    Attempt,
    AttemptEnded,
    Body,
    Claim,
    LogRecord,
    Published,
    Released,
    Step,
    StopRequested,
)
from tasks.runlog.state import EMPTY, RunState, fold
from tasks.store.contract import check_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tasks.runlog.records import Part
    from tasks.store.contract import Store

log = logging.getLogger(__name__)

HANDED_EPOCH: Final = "handed_epoch"
"""In the parameters of a claim: the epoch whose holder handed the run over."""


class RunIsLiveError(Exception):
    """Another process holds the run and is alive."""


class StaleWriterError(Exception):
    """The run is not, or no longer, held by this process: another has claimed it."""


class NotHandedOverError(StaleWriterError):
    """The run was to be handed over to this process, and its holder of then has it no more."""


class RunLog(RunObjects):
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

    Attributes
    ----------
    lost
        Whether another process is known to have taken the run over.
    told
        What this process's signs of life tell besides (JSON): what is worth knowing as long as it lives.
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
        self._records = NumberedRecords(store, f"{self.prefix}/log", patience_s)
        self._heartbeat = HeartbeatObject(store, f"{self.prefix}/heartbeat.json")
        self.lost = False
        self.told: Mapping[str, Any] = {}
        # The attempt for which another process may have the run; None: nobody else may.
        self._handed: str | None = None
        self._state = EMPTY
        self._claim: LogRecord | None = None
        # Guards state and the next number; two threads must not fight for one.
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

    def check_held(self) -> None:
        """Raise `StaleWriterError` if the run is known to be lost to another process."""
        if self.lost:
            holder = self._state.holder
            by = holder.body.owner if holder is not None and isinstance(holder.body, Claim) else None
            whom = f"{by.host} pid {by.pid}" if by else "another process"
            raise StaleWriterError(f"{self.prefix} was taken over by {whom} (epoch {self._state.epoch})")

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
                self._state = fold(self._records.read_all())
            while (record := self._records.read(self._state.next_seq)) is not None:
                self._state = fold([record], self._state)
            if self._claim is not None and self._state.epoch > self._claim.epoch:
                self.lost = True
            self.check_held()
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
            if state.holder is not None and state.epoch > forced_epoch and not holder_is_gone(state.holder):
                age = self.sign_of_life_age()
                # Strictly older: ages of whole seconds (S3) are then never too high by the fraction.
                if age <= self.lease_s:
                    sign = (state.epoch, self._heartbeat.content())
                    if not wait or (seen is not None and seen != sign):
                        raise RunIsLiveError(held_by_live(self.prefix, state.holder, age, self.lease_s))
                    seen = sign
                    time.sleep(max(0.05, min(1.0, self.lease_s - age)))
                    continue
            if self._claim_after(state, params or {}):
                return

    def _claim_after(self, state: RunState, params: dict[str, Any]) -> bool:
        """Claim the run as it was last seen; return False if something was appended meanwhile."""
        record = LogRecord.new(state.epoch + 1, Claim(this_process(), params))
        with self._lock:
            if self._records.settle(self._state.next_seq, record).nonce != record.nonce:
                return False
            self._state = fold([record], state)
            self._claim = record
            return True

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
                if self.refresh().holder is None:
                    return False
                if self._note_after(StopRequested(reason, by)):
                    return True

    def note(self, body: Body) -> int:
        """Append a record from any process, without a claim, and return its number."""
        while True:
            with self._lock:
                self.refresh()
                if self._note_after(body):
                    return self._state.next_seq - 1

    def _note_after(self, body: Body) -> bool:
        """Append to the log as it was last seen; return False if something else was appended meanwhile."""
        record = LogRecord.new(self._state.epoch, body)
        found = self._records.settle(self._state.next_seq, record)
        self._state = fold([found], self._state)
        return found.nonce == record.nonce

    # ---- handing over --------------------------------------------------------------------------------

    @contextmanager
    def handing_over(self) -> Iterator[int]:
        """Let another process have the run for its holder, which this one is, by `hold_for` in the block.

        Yields the epoch that the other process has to know. The heartbeat goes on until it claims, and again
        after `take_back`.
        """
        if self._claim is None:
            raise StaleWriterError(f"{self.prefix} is not held by this process")
        self._handed = self._state.attempt_id
        try:
            yield self._claim.epoch
        finally:
            self._handed = None

    @contextmanager
    def hold_for(self, epoch: int, params: dict[str, Any] | None = None) -> Iterator[RunLog]:
        """Hold the run inside the block in the place of its holder of `epoch`, who hands it over.

        Left as it is at the end of the block, so that nobody else comes in before that one takes it back;
        released if the block ends with an error.

        Raises
        ------
        NotHandedOverError
            If that holder has let go, or somebody else has claimed the run.
        """
        self._claim_from(epoch, {**(params or {}), HANDED_EPOCH: epoch}, held=True)
        try:
            with Heartbeat(self._beat, self.heartbeat_s):
                yield self
        except BaseException:
            self.release()
            raise
        self._claim = None

    def take_back(self) -> None:
        """Hold the run again inside the block of `handing_over`, after whoever held it meanwhile has ended.

        Does nothing if nobody has claimed it.

        Raises
        ------
        StaleWriterError
            If it was claimed by somebody to whom it was not handed over.
        """
        mine = self._claim
        if mine is None:
            raise StaleWriterError(f"{self.prefix} is not held by this process")
        with suppress(StaleWriterError):
            self.refresh()
        if not self.lost:
            return
        state = self._state
        claim = state.holder.body if state.holder is not None else None
        stranger = isinstance(claim, Claim) and claim.params.get(HANDED_EPOCH) != mine.epoch
        if stranger or state.epoch != mine.epoch + 1 or state.attempt_id != self._handed:
            self.check_held()
        self._claim, self.lost = None, False
        try:
            self._claim_from(state.epoch, {}, held=False)
        except BaseException:
            # As before, so that it can be tried again.
            if self._claim is None:
                self._claim, self.lost = mine, True
            raise

    def _claim_from(self, epoch: int, params: dict[str, Any], *, held: bool) -> None:
        while True:
            state = self.refresh()
            if state.epoch != epoch or (held and state.holder is None):
                raise NotHandedOverError(f"{self.prefix} is no longer handed over by its holder of then")
            if self._claim_after(state, params):
                return

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
            self.check_held()
            if self._claim is None:
                raise StaleWriterError(f"{self.prefix} is not held by this process")
            record = LogRecord.new(self._claim.epoch, body)
            while True:
                found = self._records.settle(self._state.next_seq, record)
                self._state = fold([found], self._state)
                if found.nonce == record.nonce:
                    return record
                if found.epoch > self._claim.epoch:
                    self.lost = True
                    self.check_held()

    def open_attempt(
        self, *, fresh: bool = False, policy: str = "", device: str = "", params: dict[str, Any] | None = None
    ) -> Attempt:
        """Append the record that opens an attempt, and return it with its id."""
        attempt = Attempt(uuid4().hex[:12], fresh, policy, device, params or {})
        self.append(attempt)
        return attempt

    def finish_step(
        self,
        name: str,
        results: dict[str, Any] | None = None,
        *,
        parts: Mapping[str, Sequence[Part]] | None = None,
    ) -> Step:
        """Append that a step of the current attempt is finished.

        Parameters
        ----------
        parts
            Kind -> the parts that the step has made, in order: only these count of what was written so far.
        """
        named = {kind: [part.name for part in made] for kind, made in (parts or {}).items()}
        step = Step(name, self._state.attempt_id, results or {}, named)
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
        ended = AttemptEnded(attempt_id or self._state.attempt_id, status, exit_code, summary or {})
        self.append(ended)
        return ended

    def publish(
        self, publication_id: str, *, run_key: str, attempt_id: str, details: dict[str, Any] | None = None
    ) -> Published:
        """Append to a date's log that a publication is now the current one."""
        published = Published(publication_id, run_key, attempt_id, details or {})
        self.append(published)
        return published

    # ---- signs of life -------------------------------------------------------------------------------

    def _beat(self) -> bool:
        # A thread that is appending holds the lock and finds out by itself; the beat must not wait for it.
        if self._lock.acquire(timeout=self.heartbeat_s / 4):
            try:
                self.refresh()
            except StaleWriterError:
                return self._handed is not None
            finally:
                self._lock.release()
        if self.lost:
            return self._handed is not None
        if self._claim is not None:
            self._heartbeat.put(self._claim, self.told)
        return True

    def sign_of_life_age(self) -> float:
        """Return how old the last sign of life of the present (or last) holder is, in seconds.

        By the store's own clock. The run must have been claimed once.
        """
        # The claim counts as a sign of life too: its first heartbeat comes a moment after it.
        keys = (self._records.key(self._state.holder_seq), self._heartbeat.key)
        ages = [self.store.age_seconds(key) for key in keys]
        return min(age for age in ages if age is not None)

    def told_by_holder(self) -> dict[str, Any]:
        """Return what the last sign of life of the present holder tells; empty without one."""
        holder = self._state.holder
        return {} if holder is None else self._heartbeat.told_by(holder)


def is_live(log: RunLog) -> bool:
    """Tell whether somebody holds a run and is there; its log is read to the end."""
    holder = log.refresh().holder
    if holder is None or holder_is_gone(holder):
        return False
    return log.sign_of_life_age() <= log.lease_s
