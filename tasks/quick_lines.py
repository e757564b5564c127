"""The quick way for the commonest line: an OpenAI Batch request whose like has been seen before.

It takes a chat of plain text messages, named, whose fields beside the messages are byte for byte those of an
earlier line that could be answered. Everything else is left to the general way, which gives the same rows (a
test holds the two together); this one saves the steps between.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

import orjson

from tasks.bodies import InexactNumberError
from tasks.identity import settled_answer_key
from tasks.prompts import CONTENT_TAG, ROLES
from tasks.schema import SCHEMAS

if TYPE_CHECKING:
    from datetime import date

    from tasks.bodies import BodyReader
    from tasks.lines import RawLine
    from tasks.object_parser import Drafts

URL: Final = "/v1/chat/completions"
_MOST: Final = 1024
_COLUMNS: Final = SCHEMAS["requests"].names
_REQUEST_ID, _CUSTOM_ID = _COLUMNS.index("request_id"), _COLUMNS.index("custom_id")
_SOURCE_LINE, _ANSWER_KEY = _COLUMNS.index("source_line"), _COLUMNS.index("answer_key")
_MESSAGES: Final = _COLUMNS.index("messages_json")
_SORTED: Final = orjson.OPT_SORT_KEYS
_TAG: Final = CONTENT_TAG["messages_json"]
_FIELDS: Final = 4


class QuickLines:
    """Makes drafts of lines of one object as far as it can.

    Parameters
    ----------
    bodies : BodyReader
        Settles new combinations of fields.
    template : list
        A row with the columns that all rows of the object share.
    names : (str, date, str)
        Job, date and object, which enter the ids of requests.
    """

    def __init__(self, bodies: BodyReader, template: list[Any], names: tuple[str, date, str]) -> None:
        self._bodies = bodies
        self._template = template
        job, run_date, source_uri = names
        place = orjson.dumps(["request", job, run_date.isoformat(), source_uri])
        self._id_start = place[:-1] + b',["custom_id",'
        # Fields beside the messages -> row so far, settings of the answer key, digest; None: the general way.
        self._known: dict[bytes, tuple[list[Any], str, bytes] | None] = {}

    def add(self, line: RawLine, drafts: Drafts) -> bool:
        """Make a draft of a line; False, with nothing done, if it is for the general way."""
        if line.too_long:
            return False
        try:
            record = orjson.loads(line.data)
            body = record["body"]
            custom_id = record["custom_id"]
            messages = body.pop("messages")
            if (
                len(record) != _FIELDS
                or record["method"] != "POST"
                or record["url"] != URL
                or type(custom_id) is not str
                or not custom_id
                or type(messages) is not list
                or not messages
            ):
                return False
            for message in messages:
                if len(message) != 2 or message["role"] not in ROLES or type(message["content"]) is not str:
                    return False
            others = orjson.dumps(body)
            known = self._known[others] if others in self._known else self._learn(others, body)
            if known is None:
                return False
            content = orjson.dumps(messages, option=_SORTED)
            name = orjson.dumps(custom_id)
        except (TypeError, ValueError, KeyError, AttributeError):
            return False
        template, settings, rest = known
        row = template.copy()
        named = hashlib.sha256(_TAG + content)
        own = hashlib.sha256(self._id_start + name + b"]]").digest()
        row[_REQUEST_ID] = own.hex()
        row[_CUSTOM_ID] = custom_id
        row[_SOURCE_LINE] = line.number
        row[_ANSWER_KEY] = settled_answer_key("chat", named.hexdigest(), settings)
        # Arrow takes the bytes as they are.
        row[_MESSAGES] = content
        drafts.rows.append(row)
        drafts.lines.append(line)
        drafts.errors.append(None)
        drafts.names.append(own[:16])
        drafts.bodies.append(named.digest()[:8] + rest)
        drafts.counts.requests += 1
        return True

    def _learn(self, others: bytes, body: dict[str, Any]) -> tuple[list[Any], str, bytes] | None:
        if len(self._known) >= _MOST:
            self._known.clear()
        found = None
        try:
            settled = self._bodies.settle("chat", body, exact=False)
        except (InexactNumberError, ValueError, RecursionError):
            settled = None
        # Deeper nesting than a line may have is for the general way to tell.
        shallow = others.count(b"[") + others.count(b"{") <= _FIELDS
        if settled is not None and settled.error is None and shallow:
            row = {
                "workload": settled.workload,
                "tenant": settled.tenant,
                "endpoint": "chat",
                "requested_model": settled.requested_model,
                "passthrough_json": settled.passthrough_json,
                "max_tokens": settled.max_tokens,
                "sampling": settled.sampling,
            }
            template = [row.get(name, value) for name, value in zip(_COLUMNS, self._template, strict=True)]
            found = (template, settled.answer_settings, settled.digest)
        self._known[others] = found
        return found
