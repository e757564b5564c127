"""What an NVIDIA device counts of itself, read beside the engine through NVML (`nvidia-ml-py`).

On Hopper and later its GPM counters tell how much of the time tensor cores and DRAM were busy; older devices
tell utilisation, power and energy. What a device does not tell is None, never 0, and a machine without an
NVIDIA driver has no such figures at all.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Self

from engine.cost.metrics import MEASURED

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

PERIOD_S: Final = 1.0
"""Least time between two readings; GPM needs a tenth of that between two of its samples."""


class DeviceCounters:
    """The counters of one device since they were read last."""

    def __init__(self, uuid: str, library: Any, clock: Callable[[], float] = time.time) -> None:  # noqa: ANN401 - a module
        """Open the device; `library` is `pynvml`, initialised.

        Raises
        ------
        pynvml.NVMLError
            If NVML does not know the device.
        """
        self.uuid = uuid
        self._nvml, self._clock = library, clock
        self._handle = library.nvmlDeviceGetHandleByUUID(uuid)
        self._gpm = self._allocate_gpm()
        self._at = clock()
        self._joules = self._energy()
        if self._gpm is not None:
            self._read(library.nvmlGpmSampleGet, self._handle, self._gpm[0])

    @classmethod
    def open(cls, uuid: str | None) -> Self | None:
        """Return the counters of a CUDA device, None where it has none; the reason is in the log."""
        if uuid is None:
            return None
        import pynvml

        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            log.warning("no figures of the device itself: %s", error)
            return None
        try:
            return cls(uuid, pynvml)
        except pynvml.NVMLError as error:
            log.warning("no figures of the device itself: %s: %s", uuid, error)
            pynvml.nvmlShutdown()
            return None

    def close(self) -> None:
        """Let go of the library."""
        for sample in self._gpm or ():
            self._read(self._nvml.nvmlGpmSampleFree, sample)
        self._gpm = None
        self._read(self._nvml.nvmlShutdown)

    def poll(self) -> dict[str, Any] | None:
        """Return a row of the table `device_samples` if `PERIOD_S` has passed since the last one."""
        now = self._clock()
        seconds = now - self._at
        if seconds < PERIOD_S:
            return None
        row: dict[str, Any] = dict.fromkeys(MEASURED)
        row |= {
            "device_uuid": self.uuid,
            "started_at": datetime.fromtimestamp(self._at, UTC),
            "seconds": seconds,
        }
        nvml = self._nvml
        rates = self._read(nvml.nvmlDeviceGetUtilizationRates, self._handle)
        if rates is not None:
            row["measured_gpu_utilization"] = rates.gpu / 100.0
            row["measured_memory_utilization"] = rates.memory / 100.0
        milliwatts = self._read(nvml.nvmlDeviceGetPowerUsage, self._handle)
        if milliwatts is not None:
            row["measured_power_watts"] = milliwatts / 1e3
        clock = self._read(nvml.nvmlDeviceGetClockInfo, self._handle, nvml.NVML_CLOCK_SM)
        if clock is not None:
            row["measured_sm_clock_mhz"] = float(clock)
        memory = self._read(nvml.nvmlDeviceGetMemoryInfo, self._handle)
        if memory is not None:
            row["measured_memory_used_bytes"] = float(memory.used)
        joules = self._energy()
        if joules is not None and self._joules is not None:
            row["measured_energy_joules"] = joules - self._joules
        row |= self._gpm_shares()
        self._at, self._joules = now, joules
        return row

    def _energy(self) -> float | None:
        """Return the joules since the driver was loaded."""
        millijoules = self._read(self._nvml.nvmlDeviceGetTotalEnergyConsumption, self._handle)
        return None if millijoules is None else millijoules / 1e3

    def _allocate_gpm(self) -> list[Any] | None:
        support = self._read(self._nvml.nvmlGpmQueryDeviceSupport, self._handle)
        if support is None or not support.isSupportedDevice:
            return None
        samples = [self._read(self._nvml.nvmlGpmSampleAlloc) for _ in range(2)]
        return None if None in samples else samples

    def _gpm_shares(self) -> dict[str, float]:
        """Return the GPM counters between the sample before and one taken now."""
        if self._gpm is None:
            return {}
        nvml, (before, now) = self._nvml, self._gpm
        if self._read(nvml.nvmlGpmSampleGet, self._handle, now) is None:
            return {}
        self._gpm = [now, before]
        wanted = {
            "measured_tensor_active": nvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL,
            "measured_dram_active": nvml.NVML_GPM_METRIC_DRAM_BW_UTIL,
            "measured_sm_active": nvml.NVML_GPM_METRIC_SM_UTIL,
        }
        asked = nvml.c_nvmlGpmMetricsGet_t()
        asked.version, asked.numMetrics = nvml.NVML_GPM_METRICS_GET_VERSION, len(wanted)
        asked.sample1, asked.sample2 = before, now
        for place, metric in enumerate(wanted.values()):
            asked.metrics[place].metricId = metric
        told = self._read(nvml.nvmlGpmMetricsGet, asked)
        if told is None:
            return {}
        answers = zip(wanted, told.metrics, strict=False)
        return {
            name: answer.value / 100.0 for name, answer in answers if answer.nvmlReturn == nvml.NVML_SUCCESS
        }

    def _read(self, function: Callable[..., Any], *arguments: Any) -> Any:  # noqa: ANN401 - whatever NVML tells
        """Return what NVML tells, None where the device or its driver does not tell it."""
        try:
            return function(*arguments)
        except self._nvml.NVMLError as error:
            log.debug("%s: %s", function.__name__, error)
            return None
