"""Calibrate: what this machine achieves with a model, measured by running the engine on made-up requests."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from engine.backends.process import device_lock
from engine.cost.devices import (
    DeviceError,
    default_step,
    find_device,
    find_dtype,
    model_shape,
    nominal_profile,
    torch_dtype,
)
from engine.cost.step import measure_cpu
from engine.models.config import load_config
from engine.models.decoder import Decoder
from engine.models.weights import load_weights
from engine.runtime.calibrate import Calibration, calibrate
from engine.runtime.settings import EngineSettings
from engine.runtime.setup import RunnerSizes, make_runner
from tasks.base.errors import ConfigurationError
from tasks.night.model import find_model

if TYPE_CHECKING:
    from engine.cost.profiles import DeviceProfile

PAGE_SIZE = 16
_CPU_CONTEXT, _GPU_CONTEXT = 1024, 8192


def calibrate_device(
    model: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    seconds: float = 60.0,
) -> Calibration:
    """Measure a device with a model, on steps up to the largest of a run that sets none.

    Parameters
    ----------
    model
        Folder or hub id.
    device, dtype
        As `engine.cost.devices` names them; `auto` takes what a run would.
    seconds
        How long steps are measured.

    Raises
    ------
    ConfigurationError
        If the model or the device is not there.
    EngineError
        If the device is in use, or too few steps could be measured.
    """
    folder = find_model(model)
    try:
        place = find_device(device)
        precision = find_dtype(dtype, place)
    except DeviceError as error:
        raise ConfigurationError(error.option, error.message, error.remedy) from None
    budget, sequences = default_step(place)
    config = load_config(folder)
    shape = model_shape(config, precision)
    longest = min(config.max_positions, _CPU_CONTEXT if place == "cpu" else _GPU_CONTEXT)
    with device_lock(place):
        decoder = Decoder(config, load_weights(folder, config, torch_dtype(precision), place))
        sizes = RunnerSizes(
            kv_tokens=None,
            page_size=PAGE_SIZE,
            token_budget=budget,
            max_sequences=sequences,
            longest=longest,
            least=longest,
            most=sequences * longest,
        )
        runner = make_runner(decoder, sizes, shape.kv_bytes_per_token)
        settings = EngineSettings(
            kv_tokens=runner.kv_tokens,
            page_size=PAGE_SIZE,
            token_budget=budget,
            max_sequences=sequences,
        )
        return calibrate(runner, shape, _known(place), settings, seconds)


def _known(place: str) -> DeviceProfile:
    """Return what is taken as known of the device; of a GPU, its ceilings are those of the datasheet."""
    if place == "cpu":
        return measure_cpu()
    import torch

    name = torch.cuda.get_device_name(place).lower().replace(" ", "-")
    return replace(nominal_profile(place), name=name)
