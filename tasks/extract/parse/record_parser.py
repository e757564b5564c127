"""Records of one object -> canonical rows, error rows or quarantine rows, with their identity in the object.

Two steps, so that blocks of one object can be parsed apart: `RecordParser` makes drafts that are right unless
an earlier request of the object has the same name, and `settle` corrects those few, in order.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tasks.base.errors import ErrorCode, QuarantineCode, QuarantineError, RequestError, bounded
from tasks.base.identity import canonical_json, digest, request_id
from tasks.base.schema import SAMPLING
from tasks.extract.parse.drafts import COLUMNS, CONFLICT, Drafts
from tasks.extract.parse.image_files import ImageFiles
from tasks.extract.parse.named import CUSTOM_ID, name_in, name_in_text
from tasks.extract.parse.quick_lines import Frame, QuickLines
from tasks.extract.parse.quick_logs import PER_REQUEST, Kind, QuickLogs
from tasks.extract.readers.contract import RESPONSES, Filtered, Logged
from tasks.extract.readers.registry import DEFAULT
from tasks.extract.text.decode import decode_line
from tasks.extract.text.lines import RawLine
from tasks.requests.adapters import NONE, Adapters
from tasks.requests.bodies import BodyReader, InexactNumberError, ParsedLine, labels
from tasks.requests.images import ImageReader
from tasks.requests.sampling import TURN_FIELDS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date, datetime

    import numpy.typing as npt

    from tasks.extract.parse.image_files import ImageSettings
    from tasks.extract.parse.quick_lines import QuickRows
    from tasks.extract.readers.contract import Own, Reader
    from tasks.extract.text.lines import Block
    from tasks.requests.sampling import SamplingDefaults

PARSER_VERSION: Final = 7
"""Raise it when the same line would give another row: parsed rows of earlier nights are then not reused."""
RAW_TEXT_CHARACTERS: Final = 2000
_NO_BODY: Final = bytes(16)
_AT: Final = {name: place for place, name in enumerate(COLUMNS)}
_REQUEST_ID, _CUSTOM_ID = _AT["request_id"], _AT["custom_id"]
_ANSWER_KEY, _DUPLICATE_OF = _AT["answer_key"], _AT["duplicate_of"]
_IN_SAMPLING: Final = frozenset(field.name for field in SAMPLING)
_HASHES: Final = _AT["prefix_block_hashes"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where rows belong and come from."""

    job: str
    run_date: date
    source_uri: str


@dataclass(frozen=True, slots=True)
class ParseSettings:
    """What decides which rows come out of a record.

    Attributes
    ----------
    defaults
        The run's sampling defaults; part of every answer key.
    model_filter
        Patterns (`*`, `?`) of requested models; requests that match none are filtered. Empty: all pass.
    window
        Requests made outside of these instants are counted, where the log says when they were made. None: all
        are inside.
    window_filters
        Whether they are filtered as well.
    images
        Where images are read from and kept; None: those in data URLs are looked at, and nothing is kept.
    adapters
        Adapters of the model that the field `model` of a request may name.
    """

    defaults: SamplingDefaults
    model_filter: tuple[str, ...] = ()
    window: tuple[datetime, datetime] | None = None
    window_filters: bool = True
    images: ImageSettings | None = None
    adapters: Adapters = NONE


class RecordParser:
    """Makes drafts of the records of one object.

    Parameters
    ----------
    place : Place
        Where the rows belong and come from.
    settings : ParseSettings
        What decides on them.
    reader : Reader
        The format of the object.
    """

    def __init__(self, place: Place, settings: ParseSettings, reader: Reader) -> None:
        self._place = place
        self._common = {"job": place.job, "run_date": place.run_date, "source_uri": place.source_uri}
        self._names = (place.job, place.run_date, place.source_uri)
        self._settings = settings
        images = settings.images
        self._bodies = BodyReader(
            settings.defaults,
            None if images is None else ImageReader(ImageFiles(images, place.source_uri), images.keep),
            settings.adapters,
        )
        self._reader = reader
        self._read = reader.read
        self._name_field = (reader.mapping or {}).get(CUSTOM_ID, CUSTOM_ID)
        # It knows the names of one format.
        self._quick: QuickLines | QuickLogs | None = None
        if reader is DEFAULT:
            self._quick = QuickLines(self._learn, self._names)
        elif reader.outline is not None:
            self._quick = QuickLogs(reader.outline, self._learn_kind, self._names, settings.window)

    def add_block(self, block: Block, max_line_bytes: int, drafts: Drafts) -> None:
        """Make drafts of lines of JSON; the block's memory must stay as it is until they are settled."""
        if block.length:
            self.add_line(block.long_line(), drafts)
            return
        block = block.joined()
        begins, ends = block.bounds()
        lengths = ends - begins
        left = lengths > 0
        # Before anything that costs: a small object can hold a billion of them.
        drafts.counts.blank += len(left) - int(np.count_nonzero(left))
        if self._quick is not None:
            found = self._quick.read(block, begins, ends, max_line_bytes)
            if found is not None:
                drafts.quick = found
                drafts.counts.requests += len(found)
                left[found.numbers - block.first] = False
        for index in np.flatnonzero(left).tolist():
            line = block.line(block.first + index, int(begins[index]), int(ends[index]), max_line_bytes)
            self.add_line(line, drafts)

    def add_line(self, line: RawLine, drafts: Drafts) -> None:
        """Make a draft of a line of JSON."""
        record: Mapping[str, Any] | None = None
        try:
            record = decode_line(line, exact=False)
            if record is None:
                drafts.counts.blank += 1
                return
            try:
                self._add(record, line, drafts, exact=False)
            except InexactNumberError:
                record = decode_line(line) or {}
                self._add(record, line, drafts, exact=True)
        except QuarantineError as reason:
            self._set_aside(record, line, reason, drafts)

    def add_record(
        self, record: Mapping[str, Any] | QuarantineError | None, line: RawLine, drafts: Drafts
    ) -> None:
        """Make a draft of a record that was decoded before, or of the reason why there is none."""
        if record is None:
            drafts.counts.blank += 1
            return
        if isinstance(record, QuarantineError):
            self._set_aside(None, line, record, drafts)
            return
        try:
            self._add(record, line, drafts, exact=True)
        except QuarantineError as reason:
            self._set_aside(record, line, reason, drafts)

    def settle(self, drafts: Drafts, ordinals: npt.NDArray[np.int64]) -> None:
        """Correct the drafts whose name was used before; `ordinals` are of `RepeatCounter.resolve`."""
        if not ordinals.any():
            return
        if drafts.quick is not None:
            unsorted = np.empty_like(ordinals)
            unsorted[drafts.order()] = ordinals
            ordinals, quick = np.split(unsorted, [len(drafts.lines)])
            self._settle_quick(drafts, drafts.quick, quick)
        conflicts = False
        for index in np.flatnonzero(ordinals).tolist():
            row, ordinal = drafts.rows[index], int(ordinals[index])
            if ordinal != CONFLICT:
                name, answer = row[_CUSTOM_ID], row[_ANSWER_KEY]
                row[_REQUEST_ID] = request_id(*self._names, name, answer, ordinal)
                if name is not None:
                    row[_DUPLICATE_OF] = request_id(*self._names, name, answer, 0)
                continue
            conflicts = True
            drafts.counts.requests -= 1
            drafts.counts.errors -= drafts.errors[index] is not None
            drafts.counts.shapes -= row[_HASHES] is not None
            self._quarantine(drafts.lines[index], _conflict(), drafts)
        if conflicts:
            kept = (ordinals != CONFLICT).tolist()
            drafts.rows = [row for row, keep in zip(drafts.rows, kept, strict=True) if keep]
            drafts.lines = [line for line, keep in zip(drafts.lines, kept, strict=True) if keep]
            drafts.errors = [error for error, keep in zip(drafts.errors, kept, strict=True) if keep]
        drafts.quarantine.sort(key=lambda row: row["source_line"])

    def _settle_quick(self, drafts: Drafts, quick: QuickRows, ordinals: npt.NDArray[np.int64]) -> None:
        conflicts = set()
        for row in np.flatnonzero(ordinals).tolist():
            if ordinals[row] == CONFLICT:
                conflicts.add(row)
                drafts.counts.requests -= 1
                self._quarantine(quick.line(row), _conflict(), drafts)
            else:
                quick.duplicate_of[row] = quick.id_of(row)
                own = request_id(*self._names, quick.name(row), "", int(ordinals[row]))
                quick.ids[row] = np.frombuffer(bytes.fromhex(own), np.uint8)
        if conflicts:
            drafts.quick = quick.without(conflicts)

    def _learn(self, sample: bytes, marker: str) -> Frame | None:
        """Work out what requests come to that differ from `sample` in name and messages only."""
        try:
            record = decode_line(RawLine(0, 0, len(sample), sample, False), exact=False)  # noqa: FBT003
            logged = self._read(record or {})
            if isinstance(logged, Filtered) or logged.body is None or not self._wanted(logged):
                return None
            messages = [{"role": "user", "content": marker}]
            if logged.custom_id != marker or logged.body.get("messages") != messages:
                return None
            body, endpoint = logged.body, logged.endpoint
            if any(body.get(name) is not None for name in TURN_FIELDS):
                # What they mean depends on the messages.
                return None
            parsed = self._bodies.read(logged.rest, endpoint, marker, body, exact=False)
            if parsed.error is not None or endpoint != "chat":
                return None
            settings = self._bodies.settle(endpoint, body, exact=False)
        except (QuarantineError, InexactNumberError):
            return None
        values = self._values(logged, parsed)
        for name in ("request_id", "custom_id", "source_line", "answer_key", "messages_json"):
            values.pop(name, None)
        return Frame(values, settings.answer_settings, settings.digest)

    def _learn_kind(self, record: Mapping[str, Any], own: Own, mark: str) -> Kind | None:
        """Work out what requests of one kind come to, from a record with stand-ins for its texts."""
        try:
            logged = self._read(record)
            if isinstance(logged, Filtered) or logged.error is not None or logged.body is None:
                return None
            found = (logged.custom_id, logged.event_time, logged.output_tokens, logged.latency_s)
            if found != own or not self._wanted(logged) or logged.endpoint != "chat":
                return None
            body, endpoint = logged.body, logged.endpoint
            parsed = self._bodies.read(logged.rest, endpoint, logged.custom_id, body, exact=False)
            settings = self._bodies.settle(endpoint, body, exact=False)
        except (QuarantineError, InexactNumberError):
            return None
        values = self._values(logged, parsed)
        for name in ("custom_id", "answer_key", *PER_REQUEST):
            values.pop(name, None)
        messages = values.pop("messages_json", None)
        told = repr((values, settings.canonical, settings.answer_settings))
        if parsed.error is not None or messages is None or mark in told or parsed.images:
            # Its texts are not in messages alone, or there is more than texts.
            return None
        return Kind(Frame(values, settings.answer_settings, settings.digest), messages)

    def _add(self, record: Mapping[str, Any], line: RawLine, drafts: Drafts, *, exact: bool) -> None:
        logged = self._read(record)
        counts = drafts.counts
        if isinstance(logged, Filtered):
            counts.filter(logged.reason)
            return
        if not self._wanted(logged):
            counts.filter("another model")
            return
        if self._settings.window is not None and logged.event_time is not None:
            start, end = self._settings.window
            if not start <= logged.event_time < end:
                counts.outside += 1
                if self._settings.window_filters:
                    counts.filter("another date")
                    return
        if logged.error is not None:
            parsed = _failed_line(logged, logged.error)
        elif logged.body is not None:
            parsed = self._bodies.read(
                logged.rest, logged.endpoint, logged.custom_id, logged.body, exact=exact
            )
        else:
            parsed = _shape_line(logged)
        self._draft(logged, parsed, line, drafts)

    def _set_aside(
        self, record: Mapping[str, Any] | None, line: RawLine, reason: QuarantineError, drafts: Drafts
    ) -> None:
        """Make what is no request an error under its own name; without one it goes to quarantine."""
        if record is None:
            name = name_in_text(line, reason.code, self._name_field)
        else:
            name = name_in(record, self._name_field)
        if name is None:
            self._quarantine(line, reason, drafts)
            return
        body = record.get("body") if record is not None else None
        model = body.get("model") if isinstance(body, dict) else None
        logged = Logged(custom_id=name, requested_model=model if isinstance(model, str) else None)
        if logged.requested_model is not None and not self._wanted(logged):
            drafts.counts.filter("another model")
            return
        error = RequestError(ErrorCode(reason.code.value), reason.field, reason.message)
        parsed = _failed_line(logged, error)
        labelled = body if isinstance(body, dict) else {}
        parsed.workload, parsed.tenant = labels(labelled)
        # Another line of the same name is the same one only if its bytes are.
        text = digest("line", line.length, hashlib.sha256(line.data + line.end).hexdigest())
        parsed.answer_key, parsed.body = text, bytes.fromhex(text[:32])
        self._draft(logged, parsed, line, drafts)

    def _draft(self, logged: Logged, parsed: ParsedLine, line: RawLine, drafts: Drafts) -> None:
        counts = drafts.counts
        counts.requests += 1
        counts.errors += parsed.error is not None
        counts.shapes += logged.shape is not None
        counts.images.update(parsed.images)
        counts.unread += parsed.error is not None and parsed.error.code == ErrorCode.IMAGE_UNAVAILABLE
        own = request_id(*self._names, parsed.custom_id, parsed.answer_key, 0)
        values = self._values(logged, parsed) | {"request_id": own, "source_line": line.number}
        drafts.rows.append([values.get(name) for name in COLUMNS])
        drafts.lines.append(line)
        drafts.errors.append(parsed.error)
        drafts.names.append(bytes.fromhex(own[:32]))
        drafts.bodies.append(_NO_BODY if parsed.custom_id is None else parsed.body)

    def _values(self, logged: Logged, parsed: ParsedLine) -> dict[str, Any]:
        return {
            **self._common,
            "workload": logged.workload or parsed.workload,
            "tenant": logged.tenant or parsed.tenant,
            "custom_id": parsed.custom_id,
            "event_time": logged.event_time,
            "endpoint": parsed.endpoint if logged.told_again is None else RESPONSES,
            "requested_model": parsed.requested_model or logged.requested_model,
            "answer_key": parsed.answer_key,
            "passthrough_json": _with_told_again(parsed.passthrough_json, logged.told_again),
            "observed_output_tokens": logged.output_tokens,
            "observed_latency_s": logged.latency_s,
            "max_tokens": parsed.max_tokens,
            **_columns(parsed.sampling),
            "priority": logged.priority,
            "deadline": logged.deadline,
            **parsed.content,
        }

    def _wanted(self, logged: Logged) -> bool:
        patterns = self._settings.model_filter
        if not patterns:
            return True
        model = logged.body.get("model") if logged.body is not None else None
        model = model or logged.requested_model
        return isinstance(model, str) and any(fnmatchcase(model, pattern) for pattern in patterns)

    def _quarantine(self, line: RawLine, reason: QuarantineError, drafts: Drafts) -> None:
        drafts.counts.quarantined += 1
        # A character has at most four bytes.
        text = line.data[: 4 * RAW_TEXT_CHARACTERS].decode(errors="replace")
        drafts.quarantine.append(
            self._common
            | {
                "source_line": line.number,
                "byte_offset": line.offset,
                "byte_length": line.length,
                "code": reason.code.value,
                "field": bounded(reason.field) if reason.field else None,
                "message": reason.message,
                "raw_text": bounded(text, RAW_TEXT_CHARACTERS),
            }
        )


def _columns(settings: dict[str, Any] | None) -> dict[str, Any]:
    """Return the columns of the settings that a request gave itself."""
    own = {name: value for name, value in (settings or {}).items() if name in _IN_SAMPLING}
    more = {name: value for name, value in (settings or {}).items() if name not in _IN_SAMPLING}
    return {"sampling": own or None, "settings_json": canonical_json(more) if more else None}


def _with_told_again(passthrough: str | None, told: Mapping[str, Any] | None) -> str | None:
    """Return what passes through with what the answer tells again of its call."""
    if not told:
        return passthrough
    return canonical_json({**(json.loads(passthrough) if passthrough else {}), RESPONSES: told})


def _shape_line(logged: Logged) -> ParsedLine:
    """Name a request of lengths by these."""
    shape = logged.shape
    if shape is None:
        raise RuntimeError("a reader returned neither a body nor a shape")
    content = {"prefix_block_hashes": shape.block_hashes, "block_size": shape.block_size}
    key = digest(
        "shape",
        logged.endpoint,
        shape.input_tokens,
        shape.block_hashes,
        shape.block_size,
        logged.output_tokens,
    )
    parsed = ParsedLine(logged.endpoint, logged.custom_id, logged.requested_model, content=content)
    parsed.content["input_tokens"] = shape.input_tokens
    if shape.choices > 1:
        parsed.sampling = {"n": shape.choices}
        key = digest("choices", key, shape.choices)
    parsed.answer_key = key
    parsed.body = bytes.fromhex(key[:32])
    if logged.rest:
        try:
            parsed.passthrough_json = canonical_json({"envelope": dict(logged.rest)})
        except ValueError:
            raise QuarantineError(
                QuarantineCode.INVALID_JSON, None, "the record holds a number beyond JSON"
            ) from None
    return parsed


def _failed_line(logged: Logged, error: RequestError) -> ParsedLine:
    """Name a request that the log calls failed by how it failed: its prompt is not known."""
    key = digest("failed", logged.endpoint, logged.custom_id, error.code.value, error.field, error.message)
    parsed = ParsedLine(logged.endpoint, logged.custom_id, logged.requested_model, error=error)
    parsed.answer_key, parsed.body = key, bytes.fromhex(key[:32])
    return parsed


def _conflict() -> QuarantineError:
    return QuarantineError(
        QuarantineCode.DUPLICATE_CUSTOM_ID_CONFLICT,
        "custom_id",
        "an earlier line has this custom_id and another body",
    )
