"""A request's body -> what it asks for, in one normal form with its digests.

Most bodies of a log differ in their prompt only, so what the other fields come to is worked out once for each
combination of them and remembered.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import orjson

from tasks.base.errors import ErrorCode, QuarantineCode, QuarantineError, RequestError
from tasks.base.identity import answer_settings, canonical_json, digest, settled_answer_key
from tasks.requests.adapters import NONE, Adapters
from tasks.requests.embeddings import ENCODING, embedding_content, embedding_settings
from tasks.requests.embeddings import ENDPOINT as EMBEDDINGS
from tasks.requests.images import ImageReader
from tasks.requests.prompts import chat_content, completion_content, content_digest
from tasks.requests.sampling import (
    CONTENT_FIELD,
    WITHOUT_EFFECT,
    Endpoint,
    SamplingDefaults,
    check_supported,
    effective_sampling,
    explicit_sampling,
)
from tasks.requests.tools import TOOLS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DEFAULT_WORKLOAD: Final = "default"
_REMEMBERED: Final = 1024
_REMEMBERED_BYTES: Final = 4096
ROUNDED: Final = re.compile(rb"[:\[,]-?\d[\d.]*e\d")
"""In JSON of `orjson`: a number that may have been a whole one beyond 64 bits, which it reads as a float."""


_CONTENT: Final[dict[Endpoint, Callable[[Mapping[str, Any]], dict[str, Any]]]] = {
    "completions": completion_content,
    EMBEDDINGS: embedding_content,
}


class InexactNumberError(Exception):
    """A number of the body may have been rounded while it was parsed; parse the line exactly."""


@dataclass(slots=True)
class ParsedLine:
    """What one record asks for, before it has a place among its neighbours.

    Attributes
    ----------
    content
        At most one of `messages_json`, `prompt`, `token_ids`.
    max_tokens, sampling
        The settings the request gave itself; None if unset.
    answer_key
        Of a request that cannot be answered: the digest of its body as it came.
    body
        16 bytes, equal for two lines of one name that are the same request in all fields of the body.
    error
        Why it cannot be answered, if so.
    images
        Digests of its images.
    """

    endpoint: Endpoint
    custom_id: str | None
    requested_model: str | None = None
    workload: str = DEFAULT_WORKLOAD
    tenant: str | None = None
    content: dict[str, Any] = field(default_factory=dict)
    max_tokens: int | None = None
    sampling: dict[str, Any] | None = None
    answer_key: str = ""
    body: bytes = b""
    passthrough_json: str | None = None
    error: RequestError | None = None
    images: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Settled:
    """What the fields of a body beside its prompt come to.

    Attributes
    ----------
    canonical, digest
        All of them in canonical JSON, and 8 bytes of its SHA-256.
    passthrough, passthrough_json
        Those without effect.
    answer_settings
        What of the effective settings enters the answer key, in canonical JSON.
    error
        Why such bodies cannot be answered, if so.
    """

    canonical: str
    digest: bytes
    passthrough: dict[str, Any]
    passthrough_json: str | None
    workload: str
    tenant: str | None
    requested_model: str | None = None
    max_tokens: int | None = None
    sampling: dict[str, Any] | None = None
    answer_settings: str = ""
    error: RequestError | None = None


class BodyReader:
    """Reads bodies under one set of defaults.

    Parameters
    ----------
    defaults : SamplingDefaults
        The run's defaults; they are part of every answer key.
    images : ImageReader or None
        What reads the images of chats; None takes those in data URLs and keeps nothing of them.
    adapters : Adapters
        Those that the field `model` may name.
    """

    def __init__(
        self, defaults: SamplingDefaults, images: ImageReader | None = None, adapters: Adapters = NONE
    ) -> None:
        self._defaults, self._adapters = defaults, adapters
        self._images = images or ImageReader()
        self._settled: dict[tuple[str, bytes], Settled] = {}

    def read(
        self,
        rest: Mapping[str, Any],
        endpoint: Endpoint,
        custom_id: str | None,
        body: Mapping[str, Any],
        *,
        exact: bool = True,
    ) -> ParsedLine:
        """Read a body; what cannot be answered gives a line with its `error` set, never an exception.

        Parameters
        ----------
        rest : mapping
            Fields beside the body, which pass through.
        exact : bool
            False if numbers may have been rounded while the line was parsed.

        Raises
        ------
        QuarantineError
            `invalid_json`, if it holds a number or text beyond what JSON can be written with.
        InexactNumberError
            If `exact` is False and a number may have been rounded.
        """
        try:
            return self._read(rest, endpoint, custom_id, body, exact=exact)
        except ValueError:
            raise QuarantineError(
                QuarantineCode.INVALID_JSON, None, "the line holds a number or text beyond JSON"
            ) from None

    def _read(
        self,
        rest: Mapping[str, Any],
        endpoint: Endpoint,
        custom_id: str | None,
        body: Mapping[str, Any],
        *,
        exact: bool,
    ) -> ParsedLine:
        settled = self.settle(endpoint, body, exact=exact)
        passthrough = settled.passthrough_json
        if rest:
            if not exact and _may_be_rounded(rest):
                raise InexactNumberError
            passthrough = _passthrough(rest, settled.passthrough)
        parsed = ParsedLine(
            endpoint,
            custom_id,
            workload=settled.workload,
            tenant=settled.tenant,
            passthrough_json=passthrough,
        )
        try:
            if settled.error is not None:
                # Settings are told before the prompt.
                parsed.requested_model = settled.requested_model
                raise settled.error
            parsed.requested_model = settled.requested_model
            parsed.max_tokens, parsed.sampling = settled.max_tokens, settled.sampling
            self._images.take()
            given = chat_content(body, self._images) if endpoint == "chat" else _CONTENT[endpoint](body)
            parsed.content, parsed.images = given, tuple(self._images.take())
            content = content_digest(parsed.content)
            parsed.answer_key = settled_answer_key(endpoint, content.hex(), settled.answer_settings)
        except RequestError as error:
            parsed.error = error
            content = hashlib.sha256(canonical_json(body.get(CONTENT_FIELD[endpoint])).encode()).digest()
            parsed.answer_key = digest("unanswerable", endpoint, content.hex(), settled.canonical)
        parsed.body = content[:8] + settled.digest
        return parsed

    def settle(self, endpoint: Endpoint, body: Mapping[str, Any], *, exact: bool) -> Settled:
        """Return what the fields of a body beside its prompt come to; see `read`."""
        prompt = CONTENT_FIELD[endpoint]
        others = {name: value for name, value in body.items() if name != prompt}
        key: tuple[str, bytes] | None = None
        try:
            key = (endpoint, orjson.dumps(others))
        except (TypeError, ValueError):
            # A number or text that only the slow way can tell about.
            if not exact:
                raise InexactNumberError from None
        else:
            if not exact and ROUNDED.search(key[1]):
                raise InexactNumberError
            known = self._settled.get(key) if not exact else None
            if known is not None:
                return known
        settled = self._work_out(endpoint, others)
        if key is not None and not exact and len(key[1]) <= _REMEMBERED_BYTES:
            if len(self._settled) >= _REMEMBERED:
                self._settled.clear()
            self._settled[key] = settled
        return settled

    def _work_out(self, endpoint: Endpoint, others: dict[str, Any]) -> Settled:
        passes = WITHOUT_EFFECT | {ENCODING} if endpoint == EMBEDDINGS else WITHOUT_EFFECT
        kept = {name: others[name] for name in others if name in passes}
        canonical = canonical_json(others)
        workload, tenant = labels(others)
        common: dict[str, Any] = {
            "canonical": canonical,
            "digest": hashlib.sha256(f"{endpoint} {canonical}".encode()).digest()[:8],
            "passthrough": kept,
            "passthrough_json": _passthrough({}, kept),
            "workload": workload,
            "tenant": tenant,
        }
        model = others.get("model")
        named = model if isinstance(model, str) else None
        try:
            _check_model(model)
            if endpoint == EMBEDDINGS:
                found = embedding_settings(others, WITHOUT_EFFECT)
                settings = canonical_json(found)
                return Settled(
                    **common, requested_model=named, sampling=found or None, answer_settings=settings
                )
            check_supported(others, endpoint)
            explicit = explicit_sampling(others, endpoint) | self._adapters.settings(named)
        except RequestError as error:
            return Settled(**common, requested_model=named, error=error)
        for name in explicit.keys() & {"constraint", TOOLS}:
            # The order of keys, which canonical JSON does not show, is that of the answer or of the prompt.
            common["digest"] = hashlib.sha256(common["digest"] + explicit[name].encode()).digest()[:8]
        return Settled(
            **common,
            requested_model=named,
            max_tokens=explicit.get("max_tokens"),
            sampling={name: explicit[name] for name in explicit if name != "max_tokens"} or None,
            answer_settings=canonical_json(answer_settings(effective_sampling(explicit, self._defaults))),
        )


def labels(body: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return the workload and the tenant that a body's metadata name."""
    metadata = body.get("metadata")
    given = metadata if isinstance(metadata, dict) else {}
    return _label(given.get("workload")) or DEFAULT_WORKLOAD, _label(given.get("tenant"))


def _may_be_rounded(rest: Mapping[str, Any]) -> bool:
    try:
        return ROUNDED.search(orjson.dumps(rest)) is not None
    except (TypeError, ValueError):
        # A number or text that only the slow way can tell about.
        return True


def _passthrough(rest: Mapping[str, Any], body: Mapping[str, Any]) -> str | None:
    present = {name: fields for name, fields in (("envelope", rest), ("body", body)) if fields}
    return canonical_json(present) if present else None


def _check_model(model: object) -> None:
    if model is not None and not isinstance(model, str):
        raise RequestError(ErrorCode.INVALID_PARAMETER, "model", "must be a string")


def _label(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
