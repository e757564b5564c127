"""The records of a run log: what each says and how it is written down.

A record is one JSON object, created once and never changed. Readers ignore fields they do not know and keep
records of kinds they do not know, so that an older program can read a newer log; `FORMAT_VERSION` is raised
only when that would mislead it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, ClassVar, TypeAlias
from uuid import uuid4

FORMAT_VERSION = 1


RESTORE_RECORD = (
    "Put it back from a backup or an earlier version of the object. If there is none, move the folder above "
    "log/ away, which nothing reads then, and run the same command again: it computes and publishes anew."
)
"""What to do about a record that is lost or damaged: without it nobody knows what came after."""


class LogFormatError(Exception):
    """A record cannot be read: it is damaged, or written by a newer format."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A process that holds a run.

    Attributes
    ----------
    host
        Name of the machine or container.
    pid
        Process id in its pid namespace.
    start_time
        Clock ticks from boot to the start of the process; tells a reused pid. None where unknown.
    boot_id
        Identifies the boot of the machine; '' where unknown.
    pid_namespace
        Two containers on one machine number their processes apart; '' where unknown.
    """

    host: str
    pid: int
    start_time: int | None = None
    boot_id: str = ""
    pid_namespace: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """A process takes the run over; records of lower epochs are refused from here on."""

    KIND: ClassVar[str] = "claim"
    owner: Owner
    params: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Released:
    """The holder let go, so that the next one need not wait."""

    KIND: ClassVar[str] = "released"
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt at the run begins; a fresh one uses nothing that was made before it."""

    KIND: ClassVar[str] = "attempt"
    id: str
    fresh: bool = False
    policy: str = ""
    device: str = ""
    params: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """A step is finished (extract, tokenize, profile, plan, infer, publish).

    Attributes
    ----------
    results
        What the next steps need.
    parts
        Kind -> names of the parts that the step has made of it, in order. Of these kinds nothing else counts
        that was written before: an attempt that was killed may have left parts of other content.
    """

    KIND: ClassVar[str] = "step"
    name: str
    attempt_id: str = ""
    results: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Part:
    """An object of the run directory that counts.

    Attributes
    ----------
    kind
        Its folder: requests, profiles, plan, outputs, errors, quarantine or steps.
    name
        Key below the run directory (`outputs/0123456789abcdef.parquet`), which is made from the content.
    sha256
        Of the whole object, in hex.
    count
        Rows or requests in it.
    ids_digest
        `digest_ids` of the request ids in it; '' for kinds without.
    size
        Bytes.
    """

    KIND: ClassVar[str] = "part"
    kind: str
    name: str
    sha256: str
    count: int
    ids_digest: str = ""
    size: int = 0
    attempt_id: str = ""


@dataclass(frozen=True, slots=True)
class StopRequested:
    """Someone asks the holder to stop; it does so when it next looks.

    Attributes
    ----------
    reason
        For people.
    by
        Prefix of the run that wants its device, if that is the reason; what was stopped goes on after it.
    """

    KIND: ClassVar[str] = "stop_requested"
    reason: str = ""
    by: str = ""


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """An attempt is over; written by its holder, or by the next one for an attempt that was killed.

    Attributes
    ----------
    status
        completed, completed_with_errors, failed or stopped.
    exit_code
        Of the command line (0, 3, 1, 4, ...).
    summary
        Figures of the attempt.
    """

    KIND: ClassVar[str] = "attempt_ended"
    attempt_id: str
    status: str
    exit_code: int
    summary: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Published:
    """A publication became the current one of its date."""

    KIND: ClassVar[str] = "published"
    publication_id: str
    run_key: str = ""
    attempt_id: str = ""
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Listed:
    """In a date's log: a run that is to publish it has listed the source. Appended without a claim.

    Attributes
    ----------
    listing
        Digest of the objects that it found.
    after
        How many records the log had before the source was listed.
    """

    KIND: ClassVar[str] = "listed"
    run_key: str
    listing: str = ""
    after: int = 0


@dataclass(frozen=True, slots=True)
class Staged:
    """Where the candidate of a job is, in a log of its own (`tasks.canary.stages`).

    Attributes
    ----------
    candidate
        Its name.
    percent
        Its share from here on.
    stage, good_nights
        See `tasks.canary.stages.Stage`.
    run_date, action, reason, by
        The night that this is about ('' by hand), what was done, why, and by whom.
    steps
        Shares to go through, percent.
    baseline
        The baseline's figures of the last night that had some.
    """

    KIND: ClassVar[str] = "canary_stage"
    candidate: str
    percent: float
    stage: str
    good_nights: int
    run_date: str
    action: str
    reason: str
    by: str
    steps: list[float] = field(default_factory=list)
    baseline: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PromiseAtRisk:
    """A tenant's requests will not all be answered by the time that was promised, if it goes on like this.

    Attributes
    ----------
    tenant
        Whose promise it is.
    ready_by, expected
        Until when, and when they are expected to be answered: UTC, ISO 8601.
    seen
        When that was seen, UTC, ISO 8601.
    answered, requests
        Of the tenant's requests, then.
    """

    KIND: ClassVar[str] = "promise_at_risk"
    tenant: str
    ready_by: str
    expected: str
    seen: str = ""
    answered: int = 0
    requests: int = 0
    attempt_id: str = ""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A record of a kind that this program does not know."""

    kind: str
    body: dict[str, Any] = field(default_factory=dict)


Body: TypeAlias = (
    Claim
    | Released
    | Attempt
    | Step
    | Part
    | StopRequested
    | AttemptEnded
    | Published
    | Listed
    | Staged
    | PromiseAtRisk
    | Unknown
)
STATUSES = ("completed", "completed_with_errors", "failed", "stopped")
_KINDS: dict[str, type[Any]] = {
    cls.KIND: cls
    for cls in (
        *(Claim, Released, Attempt, Step, Part, StopRequested, AttemptEnded, Published, Listed, Staged),
        *(PromiseAtRisk,),
    )
}


@dataclass(frozen=True, slots=True)
class LogRecord:
    """A record of the log.

    Attributes
    ----------
    epoch
        Number of the claim under which it was written, from 1.
    nonce
        Unique to this record: after a refused or unanswered PUT it tells whose record has the number.
    at
        UTC, ISO 8601, by the writer's clock; for people only.
    """

    epoch: int
    nonce: str
    at: str
    body: Body

    @classmethod
    def new(cls, epoch: int, body: Body) -> LogRecord:
        """Return a record with a new nonce, of now."""
        return cls(epoch, uuid4().hex, utc_now(), body)

    @property
    def kind(self) -> str:
        """Name of the kind of record."""
        return self.body.kind if isinstance(self.body, Unknown) else self.body.KIND

    def to_json(self) -> bytes:
        """Write the record down."""
        body = self.body.body if isinstance(self.body, Unknown) else asdict(self.body)
        record = {
            "version": FORMAT_VERSION,
            "kind": self.kind,
            "epoch": self.epoch,
            "nonce": self.nonce,
            "at": self.at,
            "body": body,
        }
        return json.dumps(record, ensure_ascii=False, allow_nan=False, indent=1).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes, where: str = "record") -> LogRecord:
        """Read a record; `where` names it in a `LogFormatError`."""
        try:
            record = json.loads(data)
            version = int(record["version"])
            if version > FORMAT_VERSION:
                raise LogFormatError(
                    f"{where} has format {version}, this program reads up to {FORMAT_VERSION}: upgrade it"
                )
            body = _body(record["kind"], record["body"])
            return cls(int(record["epoch"]), str(record["nonce"]), str(record["at"]), body)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LogFormatError(f"{where} is damaged ({type(error).__name__}). {RESTORE_RECORD}") from error


def _body(kind: str, values: dict[str, Any]) -> Body:
    cls = _KINDS.get(kind)
    if cls is None:
        return Unknown(str(kind), dict(values))
    known = _known(cls, values)
    if cls is Claim:
        known["owner"] = Owner(**_known(Owner, known["owner"]))
    body: Body = cls(**known)
    return body


def _known(cls: type[Any], values: dict[str, Any]) -> dict[str, Any]:
    names = {item.name for item in fields(cls)}
    return {name: value for name, value in values.items() if name in names}


def utc_now() -> str:
    """Return the time as ISO 8601 in UTC with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
