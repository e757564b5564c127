"""Where the fitted cost of reading shared pages once says that it gains, it does."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from engine.cost.step import NOMINAL, ModelShape, step_cost
from tests.benchmarks.gpu.bench import Bench
from tests.benchmarks.gpu.engine import LLAMA_8B
from tests.benchmarks.overlap import cascade


def test_the_fitted_switch_keeps_cascade_where_it_gains() -> None:
    device, shape = NOMINAL["h200"], ModelShape.of(replace(LLAMA_8B, layers=1), 2)
    each, kept, constant = shape.kv_bytes_per_token / device.read_bytes, 0.3, 4e-6
    times = {}
    for prefix, suffix, group in itertools.product((512, 4096, 16384), (256, 2048), (8, 64)):
        cell = cascade.Cell(prefix, suffix, group)
        plain = group * (prefix + suffix) * each
        # A float32 per element of the queries is written and read for each of the group.
        result = 8 * 4096 * group / device.read_bytes
        shared = prefix * (1 + kept * (group - 1)) * each
        times[cell] = cascade.Times(plain, shared + group * suffix * each + result + constant, 0.0)
    found = cascade.fit(shape, device, times)
    assert found.shared_read == pytest.approx(kept)
    assert found.shared_seconds == pytest.approx(constant)
    layer = cascade.Layer(Bench(torch.device("cpu"), torch.float32, dry=True), 200_000)
    layer.__dict__["cache"] = torch.zeros(200_000 // 16, 1)
    used = {cell: layer.used(cell, step_cost(shape, found)) for cell in times}
    assert all(used[cell] == (found.cascade < found.plain) for cell, found in times.items())
    # One that loses is left out, and with it those of which no more is expected.
    lost = cascade.Cell(512, 256, 64)
    times[lost] = times[lost]._replace(cascade=2 * times[lost].plain)
    cost = step_cost(shape, cascade.fit(shape, device, times))
    assert not layer.used(lost, cost)
    assert layer.used(cascade.Cell(16384, 256, 64), cost)
