"""JSON schemas by kinds, some hundreds of them, and the check that an answer is what its schema asks for.

Numbers are compared in decimal: 0.3 is a multiple of 0.1, as the specification has it.
"""

from __future__ import annotations

import decimal
import itertools
import json
from decimal import Decimal
from typing import Any

import jsonschema

Schema = dict[str, Any]

SCALARS: dict[str, Schema] = {
    "string": {"type": "string", "maxLength": 12},
    "short": {"type": "string", "minLength": 1, "maxLength": 3},
    "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
    "slug": {"type": "string", "pattern": "^[a-z]+(-[a-z]+){0,2}$", "maxLength": 20},
    "date": {"type": "string", "format": "date"},
    "time": {"type": "string", "format": "date-time", "maxLength": 25},
    "uuid": {"type": "string", "format": "uuid"},
    "ipv4": {"type": "string", "format": "ipv4"},
    "note": {"type": "string", "format": "password", "maxLength": 8},
    "integer": {"type": "integer", "minimum": -9999, "maximum": 99999},
    "age": {"type": "integer", "minimum": 0, "maximum": 120},
    "even": {"type": "integer", "multipleOf": 2, "minimum": 0, "maximum": 1000},
    "share": {"type": "number", "minimum": 0, "maximum": 1, "multipleOf": 0.001},
    "price": {"type": "number", "multipleOf": 0.01, "exclusiveMinimum": 0, "maximum": 999},
    "flag": {"type": "boolean"},
    "null": {"type": "null"},
    "enum": {"enum": ["low", "medium", "high"]},
    "mixed enum": {"enum": ["a\"b\\c/d", 1, -2.5, None, True, ["x", {"y": 1}]]},
    "const": {"const": "caf\u00e9 \u2615"},
    "const object": {"const": {"b": 1, "a": [None, {"c": "\n\t"}]}},
    "nullable": {"type": ["string", "null"], "maxLength": 5},
    "several": {"type": ["integer", "boolean", "null"], "minimum": 0, "maximum": 9},
}  # fmt: skip
"""Schemas whose values have few characters, by kind."""


def closed(properties: Schema, required: list[str] | None = None, **more: Any) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
        "additionalProperties": False,
        **more,
    }


def _around(name: str, inner: Schema) -> dict[str, Schema]:
    """Return the ways in which a schema is used in others."""
    return {
        f"{name}": inner,
        f"{name}, property": closed({"value": inner}),
        f"{name}, optional": closed({"first": inner, "last": {"type": "boolean"}}, ["last"]),
        f"{name}, items": {"type": "array", "items": inner, "minItems": 1, "maxItems": 3},
        f"{name}, tuple": {"type": "array", "prefixItems": [inner, {"type": "boolean"}], "items": False,
                           "minItems": 2},
        f"{name}, first of any": {"anyOf": [inner, {"const": "other"}]},
        f"{name}, by name": {"$defs": {"It": inner}, **closed({"it": {"$ref": "#/$defs/It"}})},
        f"{name}, old name": {"definitions": {"a/b": inner}, "type": "array", "maxItems": 2,
                              "items": {"$ref": "#/definitions/a~1b"}},
        f"{name}, all of": {"allOf": [inner, {"description": "a note", "title": "It"}]},
        f"{name}, map": {"type": "object", "additionalProperties": inner, "maxProperties": 2},
        f"{name}, keys": {"type": "object", "patternProperties": {"^x_[a-z]{1,4}$": inner},
                          "additionalProperties": False, "maxProperties": 2},
        f"{name}, deep": closed({"a": closed({"b": {"type": "array", "items": closed({"c": inner}),
                                                    "maxItems": 2}})}),
    }  # fmt: skip


def _pairs() -> dict[str, Schema]:
    """Return objects with two different values, one of them optional or open to more keys."""
    made = {}
    for (one, first), (two, second) in itertools.combinations(SCALARS.items(), 2):
        properties = {"one": first, "two": second}
        made[f"{one} and {two}"] = closed(properties, ["two"])
    return made


def _alternatives() -> dict[str, Schema]:
    made: dict[str, Schema] = {}
    for one, two in itertools.pairwise(["code", "age", "flag", "null", "const object", "price"]):
        shapes = [closed({"kind": {"const": name}, "value": SCALARS[name]}) for name in (one, two)]
        made[f"one of {one}, {two}"] = {"oneOf": shapes}
        made[f"any of {one}, {two}"] = {"anyOf": shapes}
        made[f"any of {one}, {two} with siblings"] = {
            "type": "object",
            "properties": {"id": {"type": "integer", "minimum": 1, "maximum": 99}},
            "required": ["id", "value"],
            "anyOf": [{"properties": {"value": SCALARS[name]}} for name in (one, two)],
            "maxProperties": 3,
        }
    return made


REAL: dict[str, Schema] = {
    "sentiment": closed({"label": {"type": "string", "enum": ["positive", "negative", "neutral"]},
                         "confidence": SCALARS["share"], "reason": {"type": "string", "maxLength": 30}}),
    "extraction": {
        "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Invoice",
        "description": "As pydantic writes it",
        "$defs": {
            "Line": closed({"text": {"title": "Text", "type": "string", "maxLength": 10},
                            "quantity": {"title": "Quantity", "type": "integer", "exclusiveMinimum": 0,
                                         "maximum": 99},
                            "price": {"anyOf": [SCALARS["price"], {"type": "null"}], "default": None}},
                           ["text", "quantity"], title="Line"),
            "Currency": {"enum": ["EUR", "USD"], "title": "Currency", "type": "string"},
        },
        **closed({"number": SCALARS["code"], "issued": SCALARS["date"],
                  "currency": {"$ref": "#/$defs/Currency", "default": "EUR"},
                  "lines": {"items": {"$ref": "#/$defs/Line"}, "type": "array", "minItems": 1,
                            "maxItems": 2}},
                 ["number", "issued", "lines"]),
    },
    "tree": {"$defs": {"Node": closed({"v": SCALARS["age"], "next": {
        "anyOf": [{"type": "null"}, {"$ref": "#/$defs/Node"}]}})}, "$ref": "#/$defs/Node"},
    "filter": {"$defs": {
        "Leaf": closed({"field": {"enum": ["a", "b"]}, "op": {"enum": ["=", "<"]},
                        "value": SCALARS["several"]}),
        "Group": closed({"op": {"enum": ["and", "or"]}, "of": {
            "type": "array", "minItems": 1, "maxItems": 2,
            "items": {"anyOf": [{"$ref": "#/$defs/Leaf"}, {"$ref": "#/$defs/Group"}]}}})},
        "$ref": "#/$defs/Group"},
    "chat title": {"type": "object",
                   "properties": {"title": {"type": "string", "minLength": 3, "maxLength": 20}},
                   "required": ["title"], "additionalProperties": False},
    "quiz": closed({"question": {"type": "string", "maxLength": 20},
                    "options": {"type": "array", "items": {"type": "string", "maxLength": 6}, "minItems": 2,
                                "maxItems": 3}, "answer": {"type": "integer", "enum": [0, 1, 2]}}),
    "entities": {"type": "array", "maxItems": 3, "items": closed({
        "text": {"type": "string", "maxLength": 8}, "type": {"enum": ["PER", "ORG", "LOC"]},
        "span": {"type": "array", "prefixItems": [SCALARS["age"], SCALARS["age"]], "items": False,
                 "minItems": 2}})},
    "draft 7": {"$schema": "http://json-schema.org/draft-07/schema#", "type": "array",
                "items": [{"type": "integer", "minimum": 0, "maximum": 9}, {"type": "boolean"}],
                "additionalItems": False, "minItems": 1},
    "escaped keys": {"type": "object", "properties": {
        "a/b": {"type": "integer", "maximum": 9, "minimum": 0}, "\u00e9": {"type": "null"},
        "line\nend": {"type": "boolean"}, 'quo"te': {"type": "null"}},
        "additionalProperties": {"type": "boolean"}, "maxProperties": 6, "required": [
            "a/b", "\u00e9", "line\nend", 'quo"te']},
    "open": {"type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}},
             "required": ["a"], "additionalProperties": {"enum": ["x", "y"]}, "maxProperties": 3},
    "anything short": {"type": "object", "maxProperties": 0},
    "rectangle": {"allOf": [{"$ref": "#/$defs/Named"}, {
        "type": "object", "properties": {"w": SCALARS["age"], "h": SCALARS["age"]}, "required": ["w", "h"]}],
        "$defs": {"Named": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 6}},
                            "required": ["name"]}}, "maxProperties": 3},
}  # fmt: skip
"""Schemas as programs write them."""

SCHEMAS: dict[str, Schema] = {
    **{name: made for scalar, inner in SCALARS.items() for name, made in _around(scalar, inner).items()},
    **_pairs(),
    **_alternatives(),
    **REAL,
}
"""All of them, by name."""

REFUSED: dict[str, tuple[Any, str]] = {
    "false": (False, "schema"),
    "text": ("a", "schema"),
    "uniqueItems": ({"type": "array", "uniqueItems": True}, "uniqueItems"),
    "not": ({"not": {"type": "null"}}, "not"),
    "if": ({"if": {"type": "null"}, "then": {"const": 1}}, "if"),
    "contains": ({"contains": {"type": "null"}}, "contains"),
    "dependentRequired": ({"dependentRequired": {"a": ["b"]}}, "dependentRequired"),
    "propertyNames": ({"propertyNames": {"pattern": "a"}}, "propertyNames"),
    "unevaluatedProperties": ({"unevaluatedProperties": False}, "unevaluatedProperties"),
    "overlapping oneOf": ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
    "remote $ref": ({"$ref": "https://example.com/a.json"}, "$ref"),
    "$ref to no schema": ({"x": {"type": "null"}, "properties": {"a": {"$ref": "#/x"}}}, "$ref"),
    "$ref to nothing": ({"properties": {"a": {"$ref": "#/$defs/b"}}}, "$ref"),
    "$ref to itself": ({"$ref": "#"}, "no text"),
    "$id inside": ({"properties": {"a": {"$id": "b", "type": "null"}}}, "$id"),
    "17 digits, const": ({"const": 12345678901234567}, "const"),
    "17 digits, enum": ({"properties": {"a": {"enum": ["x", [12345678901234567]]}}}, "enum"),
    "17 digits, minimum": ({"type": "integer", "minimum": 9007199254740993}, "minimum"),
    "large float": ({"const": 1e300}, "const"),
    "control character": ({"enum": ["a", "b\x01"]}, "enum"),
    "control character in a key": ({"properties": {"\x7f": {}}}, "properties"),
    "keys that come twice": ({"type": "object", "minProperties": 2}, "minProperties"),
    "x-guidance": ({"type": "object", "x-guidance": {"lenient": True}}, "x-guidance"),
    "look-ahead": ({"type": "string", "pattern": "^(?=a)b"}, "pattern"),
    "back reference": ({"type": "string", "pattern": "(a)\\1"}, "pattern"),
    "broken pattern": ({"type": "string", "pattern": "["}, "pattern"),
    "overlapping patterns": ({"patternProperties": {"a": {"type": "null"}, "b": {"const": 1}}},
                             "patternProperty"),
    "minLength over maxLength": ({"type": "string", "minLength": 5, "maxLength": 3}, "minLength"),
    "nothing left": ({"type": "integer", "enum": ["a"]}, "Unsatisfiable"),
    "an object that requires itself": (closed({"a": {"$ref": "#"}}), "requires itself"),
    "type": ({"type": "text"}, "type"),
    "required": ({"required": True}, "required"),
    "maxItems": ({"maxItems": -1}, "maxItems"),
    "minimum": ({"minimum": "1"}, "minimum"),
    "properties": ({"properties": []}, "properties"),
    "items": ({"items": 3}, "items"),
    "allOf": ({"allOf": {}}, "allOf"),
    "enum": ({"enum": "a"}, "enum"),
}  # fmt: skip
"""Schemas that are refused, and what the refusal names."""


def check(schema: Schema, text: str) -> None:
    """Raise if a text is no JSON of the schema, formats included."""
    draft = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    exact = json.loads(json.dumps(schema), parse_float=Decimal)
    with decimal.localcontext(prec=400):
        draft(exact, format_checker=draft.FORMAT_CHECKER).validate(json.loads(text, parse_float=Decimal))
