"""Whether a place may define tools is told by its names, which are remembered within bounds."""

from __future__ import annotations

import pytest

from tasks.extract.readers import tools
from tasks.extract.readers.tools import NAMES, may_define


@pytest.fixture(autouse=True)
def _nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "_known", {})


@pytest.mark.parametrize("name", [*NAMES, "llm.tools.0.json_schema", "llm.request.functions.1.name"])
def test_each_name_is_found_again_and_no_other_is(name: str) -> None:
    other = name[:-1]
    for _ in range(2):
        assert may_define({"a": 1, name: None, "b": 2})
        assert not may_define({"a": 1, other.replace(".", "_"): None, "b": 2})
        assert not may_define({"a": name, "b": {name: 1}})
        assert not may_define({})


def test_the_values_do_not_count_and_the_names_are_all_looked_at() -> None:
    assert not may_define({"a": 1, "b": 2})
    assert may_define({"a": 1, "b": 2, "tools": []})
    assert not may_define({"a": [], "b": {}})


def test_what_is_remembered_is_bounded() -> None:
    long = "k" * 5000
    assert not may_define({long: 1})
    assert may_define({long: 1, "tools": 1})
    assert tools._known == {}
    for number in range(3 * tools._MOST):
        assert not may_define({f"name {number}": 1})
    assert 0 < len(tools._known) <= tools._MOST
