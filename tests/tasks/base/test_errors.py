from __future__ import annotations

import ast
import inspect
import pickle

import pytest

from tasks.base import errors
from tasks.base.errors import (
    ConfigurationError,
    ErrorCode,
    QuarantineCode,
    QuarantineError,
    RequestError,
    bounded,
)


def test_configuration_error_is_one_line_with_field_and_remedy() -> None:
    error = ConfigurationError("--store", "bucket 'x'\ndoes not exist", "Create it")
    assert str(error) == "--store: bucket 'x' does not exist. Create it."


@pytest.mark.parametrize(
    "error",
    [
        ConfigurationError("--store", "a", "b"),
        RequestError(ErrorCode.ENGINE_ERROR, None, "m", retryable=True),
        QuarantineError(QuarantineCode.MISSING_FIELD, "url", "m"),
    ],
)
def test_errors_survive_a_process_boundary(error: Exception) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert vars(again) == vars(error)
    assert str(again) == str(error)


def test_every_code_is_documented() -> None:
    tree = ast.parse(inspect.getsource(errors))
    documented = 0
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name in {"ErrorCode", "QuarantineCode"}:
            for code, text in zip(node.body[1::2], node.body[2::2], strict=True):
                assert isinstance(code, ast.Assign)
                assert isinstance(text, ast.Expr)
                documented += 1
    assert documented == len(ErrorCode) + len(QuarantineCode)


def test_codes_overlap_only_where_a_custom_id_makes_a_line_an_error() -> None:
    """What a line with a name and one without are set aside for has one code in both tables."""
    common = {code.value for code in ErrorCode} & {code.value for code in QuarantineCode}
    assert common == {
        "invalid_field",
        "invalid_json",
        "line_too_long",
        "missing_field",
        "unsupported_method",
        "unsupported_url",
    }


def test_bounded_marks_the_cut() -> None:
    assert bounded("abc", 3) == "abc"
    assert bounded("abcd", 3) == "ab…"
