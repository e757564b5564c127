"""What a night would run on: GPUs, a model, and what memory they leave for KV."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from engine.cost.devices import cpu_kv_tokens, model_shape
from engine.cost.optimum import PRESETS, kv_tokens_left
from engine.cost.profiles import NOMINAL, ProfileError, read_profile, tensor_parallel
from engine.errors import EngineError
from engine.models.config import load_config
from tasks.base.errors import ConfigurationError

if TYPE_CHECKING:
    from engine.cost.profiles import DeviceProfile
    from engine.cost.step import ModelShape

PAGE_SIZE: Final = 16
GPU_SEQUENCES: Final = 1024
GPU_BUDGETS: Final = (256, 512, 1024, 2048, 4096, 8192)
"""Tokens per step that a team may have tuned to."""
CPU_SEQUENCES: Final = 128
CPU_BUDGETS: Final = (1024,)
UNBOUNDED: Final = 1 << 60
PRESET_CONTEXT: Final = 131_072
GROUPS: Final = (2, 4, 8)
"""Tensor parallel groups that are proposed: attention heads divide by them."""
GOOD_ROOM: Final = 0.2
"""Part of a group's memory that a proposal leaves for KV, at least."""
INTERFERENCE: Final = (0.2, 0.5, 0.8)
"""Low, central and high g of ``max + g * min`` where the device has no measured surface.

At 0.5 a balanced pair of compute and memory work takes 0.75 of its time one after the other. That is what
engines with such an overlap report; the bounds take it to 0.6 and to 0.9.
"""
NOMINAL_ERROR: Final = 0.25
"""Relative error that datasheet peaks times an assumed efficiency may have."""
_GROUP: Final = re.compile(r"(?:(\d+)x)?([a-z0-9.-]+)")


@dataclass(frozen=True)
class Model:
    """A model as far as its cost goes.

    Attributes
    ----------
    folder
        Where its tokenizer may be; None for a shape alone.
    context
        Most tokens of a prompt and its answer.
    """

    name: str
    folder: Path | None
    context: int
    config: object

    def shape(self, device: DeviceProfile, kv_dtype: str = "auto") -> ModelShape:
        """Return its shape in the precision that a run takes on such a device."""
        if isinstance(self.config, str):
            preset = PRESETS[self.config]
            half = preset.kv_bytes_per_token // 2
            return preset if kv_dtype == "auto" else replace(preset, kv_bytes_per_token=half)
        return model_shape(self.config, "float32" if is_cpu(device) else "bfloat16", kv_dtype)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Machine:
    """One replica: a GPU, or a tensor parallel group of them, with a model.

    Attributes
    ----------
    name
        Such as ``a100`` or ``4xh100``.
    kv_tokens
        KV memory, tokens.
    sequences, budgets
        Most requests at a time; tokens per step to choose from, lowest first.
    overlaps
        Whether an engine could run compute and memory work side by side on it.
    interference
        Low, central and high g where they do (`INTERFERENCE`); None: as measured on the device.
    price
        Of one GPU for an hour; None if it was not given.
    """

    name: str
    device: DeviceProfile
    shape: ModelShape
    kv_tokens: int
    sequences: int
    budgets: tuple[int, ...]
    overlaps: bool
    interference: tuple[float, float, float] | None
    price: float | None = None

    @property
    def gpus(self) -> int:
        """GPUs of a replica."""
        return self.device.shards

    @property
    def measured(self) -> bool:
        """Whether the device profile was measured."""
        return self.device.source == "measured"

    @property
    def fitted(self) -> bool:
        """Whether compute and memory time of a step are meant to be added up (`engine.simulate.clock`)."""
        return self.measured or not self.overlaps


def is_cpu(device: DeviceProfile) -> bool:
    """Tell whether a profile is of a CPU: it has no bounded memory of its own."""
    return device.memory_bytes is None


def choose_model(text: str) -> Model:
    """Return a model by its folder, its `config.json`, or the name of a published shape.

    Raises
    ------
    ConfigurationError
        If there is none of that name, or the engine does not support it.
    """
    if text.lower() in PRESETS:
        return Model(text.lower(), None, PRESET_CONTEXT, text.lower())
    path = Path(text)
    folder = path.parent if path.name == "config.json" else path
    if not (folder / "config.json").is_file():
        raise ConfigurationError(
            "--model",
            f"{text} is neither a model folder, a config.json, nor a known shape",
            f"Name one of them; known shapes are {', '.join(PRESETS)}",
        )
    try:
        config = load_config(folder)
    except (EngineError, KeyError, ValueError) as error:
        reason = str(error) if isinstance(error, EngineError) else f"its config.json lacks or spoils {error}"
        raise ConfigurationError("--model", reason.removeprefix("--model: "), "Name another model") from None
    return Model(folder.resolve().name, folder, config.max_positions, config)


def choose_devices(gpus: str, profile: str | None = None) -> list[DeviceProfile]:
    """Return device profiles: of a list such as ``a100,4xh100``, or the one in a file.

    Raises
    ------
    ConfigurationError
        If a name is unknown, is given twice, or the file cannot be used.
    """
    if profile is not None:
        try:
            return [read_profile(Path(profile))]
        except ProfileError as error:
            raise ConfigurationError(
                "--device-profile", str(error), "Write one with `nightblend calibrate`"
            ) from None
    found: dict[str, DeviceProfile] = {}
    for text in (part.strip().lower() for part in gpus.split(",")):
        match = _GROUP.fullmatch(text)
        if match is None or match[2] not in NOMINAL:
            raise ConfigurationError(
                "--gpu", f"{text!r} is unknown", f"Choose of {', '.join(NOMINAL)}; 4xa100 is a group of four"
            )
        try:
            device = tensor_parallel(NOMINAL[match[2]], int(match[1] or 1))
        except ValueError as error:
            raise ConfigurationError("--gpu", str(error), "Give a whole number of such GPUs") from None
        if device.name in found:
            raise ConfigurationError("--gpu", f"{text} is given twice", "Name each once")
        found[device.name] = device
    return list(found.values())


def parse_prices(text: str | None, devices: list[DeviceProfile]) -> dict[str, float]:
    """Return the price of a GPU hour by name of the device: ``2.5`` for all, or ``a100=1.8,h100=3.2``.

    Raises
    ------
    ConfigurationError
        If it is no such list, a price is negative, or one is of a GPU that is not asked for.
    """
    if text is None:
        return {}
    single = {device.name: device.name.rpartition("x")[2] for device in devices}
    prices: dict[str, float] = {}
    for part in str(text).split(","):
        name, given, value = part.strip().lower().rpartition("=")
        try:
            price = float(value)
        except ValueError:
            price = -1.0
        if not 0.0 <= price < float("inf") or (given and not name):
            raise ConfigurationError(
                "--price", f"{part.strip()!r} is no price of a GPU hour", "Give 2.5, or a100=1.8,h100=3.2"
            )
        named = [d for d, gpu in single.items() if not given or name in {gpu, d}]
        if not named:
            raise ConfigurationError("--price", f"{name} is not among --gpu", "Name GPUs that are")
        prices |= dict.fromkeys(named, price)
    return prices


def make_machine(
    model: Model,
    device: DeviceProfile,
    *,
    longest: int,
    most: int = UNBOUNDED,
    kv_tokens: int | None = None,
    kv_dtype: str = "auto",
    token_budget: int | None = None,
    price: float | None = None,
) -> Machine:
    """Return what a night runs on.

    Parameters
    ----------
    longest
        Tokens of the longest request, its answer included: it has to fit by itself.
    most
        KV tokens above which they are of no use: all requests at once.
    kv_tokens, token_budget
        Of today's and tomorrow's engine, where they are fixed.

    Raises
    ------
    ConfigurationError
        If the model or the longest request does not fit, with the smallest group of such GPUs that would do.
    """
    shape = model.shape(device, kv_dtype)
    cpu = is_cpu(device)
    sequences, budgets = (CPU_SEQUENCES, CPU_BUDGETS) if cpu else (GPU_SEQUENCES, GPU_BUDGETS)
    if token_budget is not None:
        budgets = (token_budget,)
    needed = (-(-longest // PAGE_SIZE) + 1) * PAGE_SIZE
    if cpu:
        room = kv_tokens or cpu_kv_tokens(shape.kv_bytes_per_token, needed, max(most, needed))
    else:
        room = min(room_for_kv(shape, device), kv_tokens or most)
    if room < needed:
        raise _too_small(model, device, shape, needed, room, given=kv_tokens is not None)
    return Machine(
        name=device.name,
        device=device,
        shape=shape,
        kv_tokens=room,
        sequences=min(sequences, *budgets) if len(budgets) == 1 else sequences,
        budgets=budgets,
        overlaps=not cpu,
        interference=None if device.pair else INTERFERENCE,
        price=price,
    )


def room_for_kv(shape: ModelShape, device: DeviceProfile) -> int:
    """Return the tokens of KV that a GPU holds beside the model and its largest step."""
    return kv_tokens_left(shape, device, GPU_BUDGETS[-1], GPU_SEQUENCES)


def _too_small(
    model: Model, device: DeviceProfile, shape: ModelShape, needed: int, room: int, *, given: bool
) -> ConfigurationError:
    if given:
        return ConfigurationError(
            "--kv-tokens", f"{room} is too small for the longest request, which needs {needed}", "Raise it"
        )
    gigabytes = (device.memory_bytes or 0.0) / 1e9
    single = NOMINAL.get(device.name.rpartition("x")[2])
    message = (
        f"{model.name} needs {shape.resident_bytes / 1e9:.0f} GB for its weights and "
        f"{needed * shape.kv_bytes_per_token / 1e9:.1f} GB for the longest request ({needed:,} tokens), more "
        f"than {device.name} with {gigabytes:.0f} GB has room for"
    )
    for shards in GROUPS:
        if single is None or single.link_bytes <= 0 or shards <= device.shards:
            continue
        group = tensor_parallel(single, shards)
        enough = GOOD_ROOM * (group.memory_bytes or 0.0) / shape.kv_bytes_per_token
        if room_for_kv(shape, group) >= max(needed, enough):
            return ConfigurationError("--gpu", message, f"Use a group, for example {group.name}")
    return ConfigurationError("--gpu", message, "Name a larger GPU or a smaller model")
