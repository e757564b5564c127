"""Prefect makes the form of a flow from its annotations when a run begins: they must be there by then."""

from __future__ import annotations

from importlib import import_module
from typing import get_type_hints

import pytest
from prefect import Flow

from tests.support.paths import ROOT

MODULES = sorted(path.stem for path in (ROOT / "flows").glob("[a-z]*.py") if path.stem != "cli")
FLOWS = {
    flow.name: flow
    for module in MODULES
    for flow in vars(import_module(f"flows.{module}")).values()
    if isinstance(flow, Flow)
}


@pytest.mark.parametrize("name", sorted(FLOWS))
def test_the_parameters_of_a_flow_are_known_when_it_runs(name: str) -> None:
    assert "return" in get_type_hints(FLOWS[name].fn)


def test_every_flow_is_looked_at() -> None:
    assert {"nightly", "on-demand", "compute", "backfill", "estimate", "watch", "recover"} <= set(FLOWS)
