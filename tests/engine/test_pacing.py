"""How many tokens a step computes: never none, and on average what the remaining work asks for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.cost import NOMINAL, ModelShape, step_cost, step_memory_seconds
from engine.runtime.pacing import GRAIN, OCCUPANCY, Outlook, step_budget

SHAPE = ModelShape(6_979_321_856, 525_336_576, 32, 4096, 131_072, 16_060_522_496)
COST = step_cost(SHAPE, NOMINAL["a100"], overlap=True)
CAPACITY, MOST = 400_000, 8192


@settings(deadline=None)
@given(
    st.integers(0, 300),
    st.floats(0.0, 4000.0),
    st.floats(0.0, 1e4),
    st.floats(0.0, 1e4),
    st.integers(0, 10**6),
)
def test_a_step_is_never_empty(decoding, context, compute, memory, number) -> None:
    outlook = Outlook(decoding, decoding * context, 0.0, compute, memory / 2, memory / 2)
    tokens = step_budget(COST, outlook, CAPACITY, MOST, number)
    assert max(1, decoding) <= tokens <= MOST
    assert tokens >= min(decoding + GRAIN, MOST)


@pytest.mark.parametrize("compute", [60.0, 100.0, 140.0, 180.0, 230.0])
def test_prefill_is_right_on_average_where_compute_binds_and_rounded_up_elsewhere(compute: float) -> None:
    outlook = Outlook(40, 380_000.0, 0.0, compute, 50.0, 50.0)
    taken = [step_budget(COST, outlook, CAPACITY, MOST, number) - 40 for number in range(1000)]
    assert {t % GRAIN for t in taken} == {0}
    assert max(taken) - min(taken) <= GRAIN
    steps = 100.0 * COST.read_bytes / COST.kv_bytes_per_token / (OCCUPANCY * CAPACITY)
    memory = 100.0 + steps * COST.weight_bytes / COST.read_bytes
    seconds = compute / memory * step_memory_seconds(COST, 40.0, 380_000.0)
    wanted = (seconds * COST.flops - 40 * COST.flops_per_sample) / COST.flops_per_token - 40
    if compute < memory:
        assert set(taken) == {int(np.ceil(wanted / GRAIN)) * GRAIN}
    else:
        assert np.mean(taken) == pytest.approx(wanted, rel=0.02)
