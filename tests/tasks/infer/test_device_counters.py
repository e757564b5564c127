"""Counters of the device, against a fake of NVML that is held to the functions of the real library."""

from __future__ import annotations

import inspect
import logging

import pynvml
import pytest

from engine.cost.metrics import MEASURED
from tasks.base.schema import SCHEMAS
from tasks.infer.device_counters import PERIOD_S, DeviceCounters
from tests.support.fake_nvml import UUID, FakeNvml


def read(library: FakeNvml, seconds: float = PERIOD_S) -> dict:
    counters = DeviceCounters(UUID, library, lambda: library.now)
    assert counters.poll() is None
    library.now += seconds
    row = counters.poll()
    assert row is not None
    assert counters.poll() is None
    counters.close()
    assert library.down
    assert library.freed == library.taken
    return row


def test_the_fake_has_the_functions_of_the_library() -> None:
    ours = {name: value for name, value in vars(FakeNvml).items() if name.startswith("nvml")}
    assert len(ours) > 10
    for name, function in ours.items():
        theirs = list(inspect.signature(getattr(pynvml, name)).parameters)
        assert list(inspect.signature(function).parameters)[1:] == theirs, name


def test_a_hopper_tells_tensor_and_dram_activity() -> None:
    row = read(FakeNvml(), 2.0)
    told = {name: row[name] for name in MEASURED}
    assert told == {
        "measured_tensor_active": 0.61,
        "measured_dram_active": 0.725,
        "measured_sm_active": 0.93,
        "measured_gpu_utilization": 0.87,
        "measured_memory_utilization": 0.45,
        "measured_power_watts": 412.5,
        "measured_energy_joules": 800.0,
        "measured_sm_clock_mhz": 1755.0,
        "measured_memory_used_bytes": 7e10,
    }
    assert (row["seconds"], row["device_uuid"]) == (2.0, UUID)
    assert set(row) == set(SCHEMAS["device_samples"].names)


@pytest.mark.parametrize("library", [FakeNvml(hopper=False), FakeNvml(unsupported=("nvmlGpmSampleAlloc",))])
def test_an_older_device_tells_utilisation_power_and_energy(library: FakeNvml) -> None:
    row = read(library)
    assert row["measured_gpu_utilization"] == 0.87
    assert row["measured_energy_joules"] == 400.0
    assert [row[f"measured_{name}_active"] for name in ("tensor", "dram", "sm")] == [None] * 3


def test_what_is_not_told_is_none_and_not_zero() -> None:
    names = [name for name in vars(FakeNvml) if name.startswith(("nvmlDeviceGet", "nvmlGpm"))]
    names.remove("nvmlDeviceGetHandleByUUID")
    row = read(FakeNvml(unsupported=tuple(names)))
    assert [row[name] for name in MEASURED] == [None] * len(MEASURED)
    library = FakeNvml()
    library.broken_metrics = (pynvml.NVML_GPM_METRIC_DRAM_BW_UTIL,)
    row = read(library)
    assert (row["measured_tensor_active"], row["measured_dram_active"]) == (0.61, None)


def test_a_machine_without_a_driver_has_no_counters(monkeypatch, caplog) -> None:
    assert DeviceCounters.open(None) is None

    def missing() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    with caplog.at_level(logging.WARNING):
        assert DeviceCounters.open(UUID) is None
    assert "no figures of the device itself" in caplog.text


def test_a_device_that_nvml_does_not_know(monkeypatch) -> None:
    library = FakeNvml()
    for name in ("nvmlDeviceGetHandleByUUID", "nvmlShutdown"):
        monkeypatch.setattr(pynvml, name, getattr(library, name))
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    assert DeviceCounters.open("GPU-other") is None
    assert library.down
