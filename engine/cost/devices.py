"""Which device and precision a run computes with, and what the cost model says of the device."""

from __future__ import annotations

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from engine.choices import DTYPES, KV_DTYPES
from engine.cost.step import NOMINAL, DeviceProfile, ModelShape
from engine.errors import EngineError

if TYPE_CHECKING:
    import torch

    from engine.models.config import ModelConfig

ELEMENT_BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2}
CPU_KV_BYTES: Final = 2 << 30
"""KV memory on the CPU where a run names none; less if its requests cannot fill it."""
_DRIVER_FILES: Final = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/proc/driver/nvidia/version")


_NEEDED: Final = ("triton",)


class DeviceError(EngineError):
    """The device or precision asked for cannot be used; `option` names the setting."""

    def __init__(self, option: str, message: str, remedy: str) -> None:
        super().__init__(f"{option}: {message}; {remedy}")
        self.option, self.message, self.remedy = option, message, remedy


def find_device(asked: str = "auto") -> str:
    """Return the device to compute on: `cpu`, or `cuda` with an index.

    Parameters
    ----------
    asked
        `auto` takes the first CUDA device where one is usable, else the CPU; `cuda` is the first one.

    Raises
    ------
    DeviceError
        If that device is not there, with the reason.
    """
    if asked == "auto":
        return "cpu" if cuda_problem() else "cuda:0"
    device = device_elsewhere(asked)
    problem = None if device == "cpu" else cuda_problem(int(device.partition(":")[2]))
    if problem is not None:
        raise DeviceError("--device", f"{asked} cannot be used: {problem}", "use --device cpu or auto")
    return device


def device_elsewhere(asked: str = "auto") -> str:
    """Return the device that `asked` means on a machine where nobody can look; `auto` is its first GPU.

    Raises
    ------
    DeviceError
        If there is no such name.
    """
    if asked == "cpu":
        return asked
    kind, _, index = ("cuda" if asked == "auto" else asked).partition(":")
    if kind != "cuda" or (index and not index.isdigit()):
        raise DeviceError("--device", f"{asked!r} is unknown", "use auto, cpu, cuda or cuda:1")
    return f"cuda:{int(index or 0)}"


def devices_from(device: str, count: int) -> tuple[str, ...]:
    """Return what so many engines compute on: GPUs in a row from `device` on, or the CPU all of them."""
    kind, _, index = device.partition(":")
    if not index:
        return (device,) * count
    return tuple(f"{kind}:{int(index) + i}" for i in range(count))


def cuda_problem(index: int = 0) -> str | None:
    """Return why CUDA device `index` cannot be used, in one line; None if it can."""
    # Loading torch takes seconds; a machine without a driver needs not wait for them.
    if not any(Path(name).exists() for name in _DRIVER_FILES):
        return "this machine has no NVIDIA driver"
    for name in _NEEDED:
        if find_spec(name) is None:
            return f"{name} is not installed"
    import torch

    if not torch.backends.cuda.is_built():
        return f"the installed torch {torch.__version__} is a build without CUDA"
    if not torch.cuda.is_available():
        return "torch finds no usable CUDA device (is the driver recent enough?)"
    if index >= torch.cuda.device_count():
        return f"there are {torch.cuda.device_count()} CUDA devices"
    return None


def lock_file(device: str) -> Path:
    """Return the file whose lock keeps two engines of this machine off a device, whatever each calls it."""
    return Path(tempfile.gettempdir()) / f"nightblend-{physical_device(device)}.lock"


def physical_device(
    device: str, visible: str | None = None, driver: Path = Path("/proc/driver/nvidia/gpus")
) -> str:
    """Return a name of a CUDA device that is the same in every process: its UUID where the driver tells.

    Parameters
    ----------
    device
        As `find_device` returns it.
    visible
        What the process may see; None: what `CUDA_VISIBLE_DEVICES` says.
    driver
        Folder in which the driver has one for each GPU, named by its place on the bus.
    """
    kind, _, index = device.partition(":")
    if kind != "cuda":
        return kind
    if visible is None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    entries = [entry.strip() for entry in visible.split(",") if entry.strip()]
    number = int(index or 0)
    entry = entries[number] if number < len(entries) else index or "0"
    known = [_uuid(folder / "information") for folder in sorted(driver.iterdir())] if driver.is_dir() else []
    if entry.isdigit():
        uuid = known[int(entry)] if int(entry) < len(known) else None
        return uuid or f"cuda-{int(entry)}"
    # It may be shortened.
    meant = [uuid for uuid in known if uuid is not None and uuid.startswith(entry)]
    return meant[0] if len(meant) == 1 else entry.replace("/", "-")


def _uuid(information: Path) -> str | None:
    for line in information.read_text().splitlines() if information.exists() else ():
        name, _, value = line.partition(":")
        if name.strip() == "GPU UUID":
            return value.strip()
    return None


def device_uuid(device: str) -> str | None:
    """Return the name by which NVIDIA's tools know a CUDA device, None for the CPU.

    Indices do not do: those of CUDA depend on the environment of the process.
    """
    if device == "cpu":
        return None
    import torch

    # Of a torch that does not tell it there are no figures of the device itself.
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return None if uuid is None else f"GPU-{uuid}"


def default_step(device: str) -> tuple[int, int]:
    """Return the most tokens of a step and the most running requests where a run sets none."""
    return (1024, 128) if device == "cpu" else (2048, 512)


def cpu_kv_tokens(kv_bytes_per_token: int, least: int, most: int) -> int:
    """Return the KV tokens of a CPU where a run names none: `CPU_KV_BYTES`, between `least` and `most`."""
    return max(least, min(most, CPU_KV_BYTES // kv_bytes_per_token))


def find_dtype(asked: str, device: str) -> str:
    """Return the precision to compute in: for `auto` bfloat16 on a GPU and float32 on the CPU.

    Raises
    ------
    DeviceError
        If `asked` is unknown.
    """
    if asked not in DTYPES:
        raise DeviceError("--dtype", f"{asked!r} is unknown", f"use {', '.join(DTYPES)}")
    if asked != "auto":
        return asked
    return "float32" if device == "cpu" else "bfloat16"


def check_kv_dtype(asked: str, device: str) -> str:
    """Return the type of the KV cache: `auto`, that of the activations, or `fp8` (e4m3).

    Parameters
    ----------
    asked
        One of `KV_DTYPES`.
    device
        As `find_device` returned it.

    Raises
    ------
    DeviceError
        If `asked` is unknown, or the device cannot compute with it.
    """
    if asked not in KV_DTYPES:
        raise DeviceError("--kv-dtype", f"{asked!r} is unknown", f"use {', '.join(KV_DTYPES)}")
    if asked == "fp8":
        if device == "cpu":
            raise DeviceError("--kv-dtype", "fp8 needs a GPU", "use auto on the CPU")
        import torch

        capability = torch.cuda.get_device_capability(device)
        if capability < (8, 9):
            found = ".".join(map(str, capability))
            raise DeviceError(
                "--kv-dtype", f"fp8 needs compute capability 8.9, this GPU has {found}", "use auto"
            )
    return asked


def model_shape(config: ModelConfig, dtype: str, kv_dtype: str = "auto") -> ModelShape:
    """Return the shape of a model computed in `dtype`, a key of `ELEMENT_BYTES`, with such a KV cache."""
    return ModelShape.of(config, ELEMENT_BYTES[dtype], 1 if kv_dtype == "fp8" else None)


def torch_dtype(name: str) -> torch.dtype:
    """Return the torch type of a precision that `find_dtype` returned."""
    import torch

    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    return known[name]


def nominal_profile(device: str) -> DeviceProfile:
    """Return the nominal figures of a device: a name of `engine.cost.step.NOMINAL`, or a CUDA device here.

    A GPU that the cost model does not know counts as an A100: it orders requests, and promises nothing.
    """
    if device in NOMINAL:
        return NOMINAL[device]
    name = ""
    if cuda_problem() is None:
        import torch

        name = torch.cuda.get_device_name(device).lower()
    return next((profile for known, profile in NOMINAL.items() if known in name), NOMINAL["a100"])
