"""How many tokens a step computes: never none, and on average what the remaining work asks for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.cost.step import NOMINAL, ModelShape, step_cost, step_memory_seconds
from engine.runtime.schedule.buckets import FINE_LIMIT, FINE_STEP, GRAIN, GRAIN_LIMIT, token_sizes
from engine.runtime.schedule.pacing import AHEAD, OCCUPANCY, Outlook, remaining_ratio, step_budget

SHAPE = ModelShape(6_979_321_856, 525_336_576, 32, 4096, 131_072, 16_060_522_496)
COST = step_cost(SHAPE, NOMINAL["a100"], overlap=True)
CAPACITY, MOST = 400_000, 8192


@settings(deadline=None)
@given(
    st.integers(0, 300),
    st.floats(0.0, 4000.0),
    st.floats(0.0, 1e4),
    st.floats(0.0, 1e5),
    st.floats(0.0, 1e5),
    st.floats(0.0, 1e4),
    st.floats(0.0, 1e4),
    st.integers(0, 10**6),
)
def test_a_step_is_never_empty_and_fills_a_size_that_steps_are_padded_to(
    decoding, context, missing, seen, next_seen, compute, memory, number
) -> None:
    rho = remaining_ratio(COST, compute, memory, CAPACITY)
    outlook = Outlook(decoding, decoding * context, missing, missing * seen, next_seen, rho, memory, memory)
    tokens = step_budget(COST, outlook, MOST, number)
    assert decoding < tokens <= MOST
    assert tokens % FINE_STEP == 0 if tokens > FINE_LIMIT else tokens in token_sizes(MOST)


def outlook_of(compute: float, missing: float = 0.0, seen: float = 0.0) -> Outlook:
    """Return 40 sequences that decode, 100 s of KV reads, and prompts of which a token sees `seen`."""
    rho = remaining_ratio(COST, compute, 100.0, CAPACITY)
    return Outlook(40, 380_000.0, missing, missing * seen, seen, rho, 50.0, 50.0)


def wanted(compute: float, outlook: Outlook) -> float:
    """Return the tokens that the next step should compute, by the formula."""
    steps = 100.0 * COST.read_bytes / COST.kv_bytes_per_token / (OCCUPANCY * CAPACITY)
    rho = compute / (100.0 + steps * COST.weight_bytes / COST.read_bytes)
    rho += AHEAD * max(0.0, 1.0 - rho)
    flops = rho * step_memory_seconds(COST, outlook.decoding, outlook.kv_tokens) * COST.flops
    each = COST.flops_per_token + outlook.next_attended * COST.flops_per_attended
    own = outlook.decoding * (COST.flops_per_token + COST.flops_per_sample)
    return outlook.decoding + (flops - own) / each


@pytest.mark.parametrize("compute", [60.0, 100.0, 140.0, 180.0, 230.0])
@pytest.mark.parametrize("missing", [0.0, 100.0, 1e6])
def test_a_step_is_right_on_average_where_compute_binds_and_rounded_up_elsewhere(compute, missing) -> None:
    # Whether prompts are begun or wait makes no difference if their tokens see as many keys.
    outlook = outlook_of(compute, missing, 700.0)
    taken = [step_budget(COST, outlook, MOST, number) for number in range(1000)]
    assert {t % GRAIN for t in taken} == {0}
    assert max(taken) - min(taken) <= GRAIN
    assert max(taken) <= GRAIN_LIMIT
    if outlook.rho < 1.0:
        assert set(taken) == {int(np.ceil(wanted(compute, outlook) / GRAIN)) * GRAIN}
    else:
        assert np.mean(taken) == pytest.approx(wanted(compute, outlook), rel=0.02)


def test_prompts_that_attend_to_more_come_in_smaller_steps() -> None:
    means = [
        np.mean([step_budget(COST, outlook_of(200.0, m, seen), MOST, number) for number in range(500)])
        for seen, m in ((0.0, 0.0), (2000.0, 0.0), (2000.0, 1e4), (8000.0, 50.0), (8000.0, 1e4))
    ]
    assert means == sorted(means, reverse=True)
    assert means[0] > 1.05 * means[1] > 1.1 * means[-1]
