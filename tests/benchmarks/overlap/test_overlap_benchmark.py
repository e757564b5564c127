"""What the overlap benchmark makes of its measurements: surface, profile, predicted gain, divided devices."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import numpy as np
import pytest

from engine.cost.profiles import read_profile, write_profile
from engine.cost.step import NOMINAL, ModelShape
from tests.benchmarks.gpu.bench import Unmeasured
from tests.benchmarks.gpu.engine import LLAMA_8B
from tests.benchmarks.overlap import gain, green, pair

H200, SHAPE = NOMINAL["h200"], ModelShape.of(LLAMA_8B, 2)


def with_interference(g: float):
    return replace(H200, pair=((0.0, g), (1.0, g)), overlaps=True)


def test_better_overlap_predicts_more() -> None:
    gains = [gain.predicted(SHAPE, H200, with_interference(g), 1000, 1)[0] for g in (0.0, 0.3, 1.0)]
    assert gains[0] > 1.2
    assert gains[0] > gains[1] > gains[2]
    # Work that gains nothing by running together is not cut.
    assert gains[2] == pytest.approx(1.0, abs=0.02)
    assert gain.verdict(gains[0]).startswith("go on")
    assert gain.verdict(gains[2]).startswith("stop here")


def test_the_made_up_night_is_balanced() -> None:
    prompts, output = gain.made_up_night(800, SHAPE, H200)
    assert len(prompts) == len(output) == 800
    p, d = (np.array(x, float) for x in (prompts, output))
    compute, memory = SHAPE.request_flops(p, 0 * p, d).sum() / H200.flops, SHAPE.request_kv_bytes(p, d).sum()
    assert compute / (memory / H200.read_bytes) == pytest.approx(gain.DENSITY, rel=0.02)


def test_the_measured_profile_is_one_that_can_be_read(tmp_path) -> None:
    rates = {"128": 300.0, "256": 500.0, "512": 700.0, "1024": 690.0, "2048": 650.0}
    figures = {
        "device": "some device",
        "products_by_rows": {n: {"0": rate, "64": rate / 2} for n, rate in rates.items()},
        "read_gb_s": 4000.0,
        "matmul_tflops": 720.0,
        "pair_surface": [[0.2, 0.1], [0.5, 0.3]],
    }
    plain, beside = gain.profiles(figures)
    assert (plain.flops, plain.pair, beside.pair) == (7e14, (), ((0.2, 0.1), (0.5, 0.3)))
    assert dict(plain.gemm)[512.0] == 1.0
    write_profile(beside, tmp_path / "profile.json")
    assert read_profile(tmp_path / "profile.json") == beside


def test_the_surface_is_that_of_the_best_k() -> None:
    by_k = {"16": [(0.2, 0.1), (0.8, 0.6)], "48": [(0.8, 0.2), (0.2, 0.5)]}
    assert pair.envelope(by_k) == [(0.2, 0.1), (0.8, 0.2)]
    assert pair.family("k-limited and carveout 32, captured") == ("k-limited and carveout", 32)
    assert pair.family("streams, captured") == ("streams", None)
    assert pair.family("green contexts 64") == ("green contexts", 64)


class Divided:
    """A stand-in for the driver's library on a device of 132 multiprocessors."""

    def __init__(self, refuses: str = "") -> None:
        self.calls: list[str] = []
        self._refuses, self._streams = refuses, 100

    def __getattr__(self, name: str):
        if not name.startswith("cu"):
            raise AttributeError(name)

        def call(*arguments):
            self.calls.append(name)
            self._answer(name, arguments)
            return 801 if name == self._refuses else 0

        return call

    def _answer(self, name: str, arguments) -> None:
        def resource(place: int) -> green.Resource:
            return ctypes.cast(arguments[place], ctypes.POINTER(green.Resource)).contents

        if name == "cuDeviceGetDevResource":
            resource(1).count = 132
        elif name == "cuDevSmResourceSplitByCount":
            # In steps of 8, as the hardware has them.
            taken = -(-arguments[5].value // 8) * 8
            resource(0).count, resource(3).count = taken, resource(2).count - taken
        elif name == "cuGreenCtxStreamCreate":
            self._streams += 1
            ctypes.cast(arguments[0], ctypes.POINTER(ctypes.c_void_p))[0] = self._streams


def test_a_device_is_divided_by_one_call() -> None:
    assert ctypes.sizeof(green.Resource) == 144
    library = Divided()
    (first, kept), (second, others) = green.divide(30, 0, green.Driver(library))
    assert (kept, others) == (32, 100)
    assert (first.value, second.value) == (101, 102)
    assert library.calls.count("cuDevSmResourceSplitByCount") == 1
    with pytest.raises(Unmeasured, match="cuGreenCtxCreate gives error 801"):
        green.divide(30, 0, green.Driver(Divided("cuGreenCtxCreate")))
    with pytest.raises(Unmeasured, match="has no cuDeviceGet"):
        green.divide(30, 0, green.Driver(object()))
