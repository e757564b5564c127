"""A fake of the NVML library: the functions of `pynvml` that are used, with their names and parameters."""

from __future__ import annotations

from types import SimpleNamespace

import pynvml

UUID = "GPU-00000000-1111-2222-3333-444444444444"
CONSTANTS = ("NVML_CLOCK_SM", "NVML_SUCCESS", "NVML_GPM_METRICS_GET_VERSION")
GPM = ("NVML_GPM_METRIC_ANY_TENSOR_UTIL", "NVML_GPM_METRIC_DRAM_BW_UTIL", "NVML_GPM_METRIC_SM_UTIL")


class FakeNvml:
    """A device of a generation: functions in `unsupported` fail as the real ones do."""

    NVMLError = pynvml.NVMLError
    c_nvmlGpmMetricsGet_t = pynvml.c_nvmlGpmMetricsGet_t

    def __init__(self, *, hopper: bool = True, unsupported: tuple[str, ...] = ()) -> None:
        for name in (*CONSTANTS, *GPM):
            setattr(self, name, getattr(pynvml, name))
        self.hopper, self.unsupported = hopper, unsupported
        self.joules, self.taken, self.freed, self.down = 1000.0, 0, 0, False
        self.broken_metrics: tuple[int, ...] = ()
        self.now = 100.0

    def __getattribute__(self, name):
        if name.startswith("nvml") and name in object.__getattribute__(self, "unsupported"):

            def refuse(*_: object) -> None:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

            return refuse
        return object.__getattribute__(self, name)

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid != UUID:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return "handle"

    def nvmlDeviceGetUtilizationRates(self, handle):
        return SimpleNamespace(gpu=87, memory=45)

    def nvmlDeviceGetPowerUsage(self, handle):
        return 412_500

    def nvmlDeviceGetClockInfo(self, handle, type):
        assert type == pynvml.NVML_CLOCK_SM
        return 1755

    def nvmlDeviceGetMemoryInfo(self, handle, version=None):
        return SimpleNamespace(used=70_000_000_000)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        return round(1000 * (self.joules + 400 * (self.now - 100)))

    def nvmlGpmQueryDeviceSupport(self, device):
        return SimpleNamespace(isSupportedDevice=int(self.hopper))

    def nvmlGpmSampleAlloc(self):
        self.taken += 1
        return pynvml.c_nvmlGpmSample_t()

    def nvmlGpmSampleFree(self, gpmSample):
        self.freed += 1

    def nvmlGpmSampleGet(self, device, gpmSample):
        return gpmSample

    def nvmlGpmMetricsGet(self, metricsGet):
        assert metricsGet.version == pynvml.NVML_GPM_METRICS_GET_VERSION
        values = dict(zip(GPM, (61.0, 72.5, 93.0), strict=True))
        known = {getattr(pynvml, name): value for name, value in values.items()}
        for metric in metricsGet.metrics[: metricsGet.numMetrics]:
            metric.value = known[metric.metricId]
            metric.nvmlReturn = int(metric.metricId in self.broken_metrics)
        return metricsGet

    def nvmlShutdown(self):
        self.down = True
