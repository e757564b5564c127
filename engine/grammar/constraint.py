"""Constraints: what a whole answer has to be, as a text, and the grammar of llguidance that is made of it.

The text is a JSON object with one key: ``{"json": SCHEMA}``, ``{"regex": PATTERN}``,
``{"choice": [TEXT, ...]}`` or ``{"grammar": GRAMMAR}`` (Lark as llguidance reads it, or GBNF), or that of
`engine.grammar.calls`. Schemas keep the order of their keys: the answer has its own in that order.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal

from llguidance import LLMatcher, LLTokenizer, regex_to_lark
from llguidance.gbnf_to_lark import GbnfToLarkError, any_to_lark

from engine.grammar.calls import CALLS, calls_grammar
from engine.grammar.errors import ConstraintError
from engine.grammar.schema import settled_schema

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

Kind = Literal["json", "regex", "choice", "grammar"]
MOST_CHARACTERS: Final = 1_000_000
"""Of a constraint."""
_JSON_OPTIONS: Final[JsonCompileOptions] = {
    "whitespace_flexible": False,
    # With one spelling for every text, a declared key cannot come in another spelling as an extra one.
    "json_allowed_escapes": 'nrbtf\\"',
}
# Of a rule: what llguidance reads there is no part of what a text may be.
_ATTRIBUTE: Final = re.compile(
    r"^\s*\w+\s*\[[^\]\n]*\b(temperature|max_tokens|capture|stop|suffix|lazy|stop_capture)\b[^\]\n]*\]\s*:",
    re.MULTILINE,
)
_EMBEDDED: Final = re.compile(r"(%(?:json|llguidance|import|ignore))\b")
_MOST_FORCED: Final = 50_000
_MARK: Final = "%llguidance"


def constraint(kind: Kind, value: object) -> str:
    """Return a constraint as a text, checked.

    Parameters
    ----------
    kind
        What `value` is.
    value
        A schema, a pattern, a list of texts, a grammar.

    Raises
    ------
    ConstraintError
        If it cannot be enforced exactly; of a schema it names the keyword.
    """
    try:
        text = json.dumps({kind: value}, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:
        raise ConstraintError("it holds a number that JSON does not have") from None
    if len(text) > MOST_CHARACTERS:
        raise ConstraintError(f"it has more than {MOST_CHARACTERS} characters")
    check(text)
    return text


@lru_cache(maxsize=4096)
def check(text: str) -> None:
    """Check a constraint; see `constraint`."""
    made = grammar(text)
    (kind,) = json.loads(text)
    failed, said = LLMatcher.validate_grammar_with_warnings(made)
    if failed or said:
        # What is only warned of needs special tokens of one tokenizer.
        raise ConstraintError(_said(kind, said[0]))
    # Whether there is any text at all shows with any vocabulary that has every byte.
    matcher = LLMatcher(_bytes_alone(), made, log_level=0)
    if not matcher.is_error():
        matcher.compute_bitmask()
    if matcher.is_error():
        raise ConstraintError(_said(kind, matcher.get_error()))
    if len(matcher.compute_ff_bytes()) > _MOST_FORCED:
        raise ConstraintError(
            "it begins with too long a text, or one without an end, such as an object that requires itself"
        )


def field_of(text: str) -> str:
    """Return the field of a body that a constraint is told by: its usual one, whichever asked for it."""
    if text.startswith(f'{{"{CALLS}"'):
        return "tools"
    return "response_format" if text.startswith('{"json"') else "structured_outputs"


def grammar(text: str) -> str:
    """Return the grammar of llguidance for a constraint.

    Raises
    ------
    ConstraintError
        If there is none.
    """
    ((kind, value),) = json.loads(text).items()
    if kind == "json":
        schema = json.dumps(settled_schema(value), ensure_ascii=False)
        return LLMatcher.grammar_from_json_schema(schema, overrides=_JSON_OPTIONS)
    return LLMatcher.grammar_from_lark(_rules(kind, value))


def as_lark(text: str) -> str:
    """Return a constraint in Lark as llguidance reads it, for engines that take it in no other form.

    The same texts satisfy it as `grammar`.

    Raises
    ------
    ConstraintError
        If there is none.
    """
    ((kind, value),) = json.loads(text).items()
    if kind != "json":
        rules = _rules(kind, value)
        # By one of these lines it is known for Lark.
        return rules if rules.startswith(_MARK) else f"{_MARK} {{}}\n{rules}"
    schema = settled_schema(value) | {"x-guidance": _JSON_OPTIONS}
    return f"{_MARK} {{}}\nstart: %json {json.dumps(schema, ensure_ascii=False)}\n"


def _rules(kind: str, value: Any) -> str:  # noqa: ANN401 - JSON
    """Return the rules, in Lark, of what is no JSON schema."""
    if kind == CALLS:
        return calls_grammar(value, _JSON_OPTIONS)
    if kind == "regex":
        # Classes such as \\w as JSON schemas and JavaScript have them, so those of texts are of ASCII.
        return f"start: /{regex_to_lark(_text('regex', value), 'dw')}/"
    if kind == "choice":
        return _choices(value)
    return _lark(_text("grammar", value))


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ConstraintError(f"{name} must be a text that is not empty")
    return value


def _choices(value: object) -> str:
    if not isinstance(value, list) or not value or not all(isinstance(c, str) and c for c in value):
        raise ConstraintError("choice must be a list of texts, none of them empty")
    return "start: " + " | ".join(f"/{_literal(choice)}/" for choice in value)


def _literal(text: str) -> str:
    """Return a regular expression that matches a text alone, without any character that means something."""
    return "".join(c if c.isascii() and c.isalnum() else f"\\x{{{ord(c):x}}}" for c in text)


def _lark(text: str) -> str:
    for what in (_ATTRIBUTE, _EMBEDDED):
        found = what.search(text)
        if found:
            raise ConstraintError(f"grammar: {found[1]} is not supported")
    try:
        lark: str = any_to_lark(text)
    except GbnfToLarkError as error:
        raise ConstraintError(f"grammar: {error}") from None
    return lark


def _said(kind: str, message: str) -> str:
    """Return what llguidance says in our words, without the piece of grammar that it points to."""
    if message.startswith("NoExtension"):
        return "no text satisfies it"
    keywords = re.match(r"Unimplemented keys: \[(.*)\]$", message)
    if keywords:
        return f"{keywords[1].replace(chr(34), '')} cannot be enforced exactly"
    lines = [line.strip() for line in message.partition("<state>")[0].splitlines() if line.strip()]
    kept = [line for line in lines if not re.match(r"\d+ \||\^|regex parse error:$", line)]
    said = re.sub(r"^at \d+\(\d+\): ", "", " ".join(kept) or message)
    return f"pattern: {said}" if kind == "json" and "regex" in message else said


@lru_cache(maxsize=1)
def _bytes_alone() -> LLTokenizer:
    """Return a vocabulary of the 256 bytes and an end."""
    return LLTokenizer(json.dumps(_byte_tokenizer()), n_vocab=257, eos_token=[256])


def _byte_tokenizer() -> dict[str, Any]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    names = {byte: chr(byte) for byte in printable} | {b: chr(0x100 + i) for i, b in enumerate(others)}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "added_tokens": [
            {
                "id": 256,
                "content": "<end>",
                **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False),
                "special": True,
            }
        ],
        "pre_tokenizer": level,
        "decoder": level,
        "model": {"type": "BPE", "vocab": {name: byte for byte, name in names.items()}, "merges": []},
    }
