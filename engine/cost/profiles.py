"""What devices achieve: nominal profiles, tensor parallel groups of them, and profiles in files."""

from __future__ import annotations

import itertools
import json
import math
import time
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final

from engine.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    Points = Sequence[tuple[float, float]]

VERSION: Final = 1
"""Of the profile file."""

NOMINAL_GEMM: Final = ((1.0, 1 / 64), (32.0, 0.5), (128.0, 0.85), (512.0, 0.97), (2048.0, 1.0))
"""Assumed GEMM efficiency by rows. Tensor core tiles are filled up to 64 rows or so: below that a GEMM takes
about the same time however few its rows are."""

_FROM_ZERO: Final = {
    **dict.fromkeys(("link_bytes", "link_seconds", "step_seconds", "shared_seconds"), math.inf),
    "shared_read": 1.0,
}
"""Fields of a profile that may be 0, with their largest value."""


class ProfileError(EngineError):
    """A profile file cannot be used; the message names the file and the field."""


@dataclass(frozen=True)
class DeviceProfile:
    """What a device, or a tensor parallel group of `shards` equal ones, achieves.

    Attributes
    ----------
    name, source
        The device, and where the figures come from: ``measured`` here, or ``nominal``: datasheet peaks times
        an assumed efficiency, good enough to order requests by, not to promise times.
    flops, read_bytes
        F and W: achieved FLOP/s of large GEMMs, and achieved read bytes/s; of the whole group.
    peak_flops, peak_bytes
        The ceilings that MFU and MBU refer to; None where unknown.
    overlaps
        Whether compute and memory work run side by side.
    gemm
        Rising (rows, efficiency): the part of `flops` that a GEMM with so many rows reaches, interpolated in
        the logarithms of both. Empty: 1 for all.
    pair
        Rising (x, g): with x = memory / (compute + memory) seconds, work given together takes
        ``max + g * min``; linear in x between the points. Empty: 0 with overlap, 1 without.
    memory_bytes
        Device memory of the whole group; None where unknown.
    shards, link_bytes, link_seconds
        Devices in the group; bytes/s that each sends to the others, and latency of one all-reduce.
    step_seconds
        What every step takes beside its compute and memory work.
    shared_read
        Decoding sequences that share their first pages may read them together: then each of them but the
        first costs this part of the pages' bytes. 1: they are read anew for each.
    shared_seconds
        What reading them together takes in each layer beside that, however little is shared.
    """

    name: str
    source: str
    flops: float
    read_bytes: float
    peak_flops: float | None
    peak_bytes: float | None
    overlaps: bool
    gemm: Points = ()
    pair: Points = ()
    memory_bytes: float | None = None
    shards: int = 1
    link_bytes: float = 0.0
    link_seconds: float = 0.0
    step_seconds: float = 0.0
    shared_read: float = 1.0
    shared_seconds: float = 0.0

    def pair_seconds(self, compute: float, memory: float) -> float:
        """Return the time of compute and memory work given together: their sum without overlap."""
        return max(compute, memory) if self.overlaps else compute + memory


def _nominal(name: str, tflops: float, gbytes: float, memory: float, link: float) -> DeviceProfile:
    peak, bandwidth = tflops * 1e12, gbytes * 1e9
    return DeviceProfile(
        name,
        "nominal",
        0.7 * peak,
        0.85 * bandwidth,
        peak,
        bandwidth,
        overlaps=False,
        gemm=NOMINAL_GEMM,
        memory_bytes=memory * 1e9,
        link_bytes=0.7 * link * 1e9,
        link_seconds=1e-5,
    )


NOMINAL: Final = {
    profile.name: profile
    for profile in (
        _nominal("a100", 312, 2039, 80, 300),
        _nominal("h100", 989, 3350, 80, 450),
        _nominal("h200", 989, 4800, 141, 450),
        _nominal("l40s", 362, 864, 48, 32),
        # Two cores of a server processor in float32; `measure_cpu` replaces it in a real run.
        DeviceProfile("cpu", "nominal", 1e11, 1e10, None, None, overlaps=False),
    )
}
"""Dense bf16 peaks, memory bandwidth and size, and link bandwidth in one direction of the vendors' datasheets
(SXM versions; L40S PCIe)."""


def tensor_parallel(profile: DeviceProfile, shards: int) -> DeviceProfile:
    """Return the profile of `shards` such devices that hold a part of every layer each.

    Raises
    ------
    ValueError
        If `shards` is below 1, or `profile` is of a group or of a device without a link.
    """
    if shards < 1 or profile.shards != 1 or (shards > 1 and profile.link_bytes <= 0.0):
        raise ValueError(f"{profile.name}: cannot be a group of {shards} devices")
    if shards == 1:
        return profile
    return replace(
        profile,
        name=f"{shards}x{profile.name}",
        flops=shards * profile.flops,
        read_bytes=shards * profile.read_bytes,
        peak_flops=None if profile.peak_flops is None else shards * profile.peak_flops,
        peak_bytes=None if profile.peak_bytes is None else shards * profile.peak_bytes,
        memory_bytes=None if profile.memory_bytes is None else shards * profile.memory_bytes,
        shards=shards,
    )


def write_profile(profile: DeviceProfile, path: Path) -> None:
    """Write a profile as JSON."""
    path.write_text(json.dumps({"version": VERSION, **asdict(profile)}, indent=2) + "\n")


def read_profile(path: Path) -> DeviceProfile:
    """Read a profile that `write_profile` wrote, or somebody by hand.

    Raises
    ------
    ProfileError
        If it cannot be read, or a field is missing, unknown or out of range: the first one is named.
    """
    try:
        raw = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ProfileError(f"{path}: is not a readable JSON file ({type(error).__name__})") from None
    try:
        return _checked(raw)
    except ValueError as error:
        raise ProfileError(f"{path}: {error}") from None


def _checked(raw: Any) -> DeviceProfile:  # noqa: ANN401 - whatever a file holds
    if not isinstance(raw, dict):
        raise ValueError("must be a JSON object")  # noqa: TRY004 - one kind of error for all of the file
    values = dict(raw)
    if values.pop("version", None) != VERSION:
        raise ValueError(f"version: must be {VERSION}")
    known = {field.name for field in fields(DeviceProfile)}
    for name in ("name", "source", "flops", "read_bytes", "overlaps"):
        if name not in values:
            raise ValueError(f"{name}: is missing")
    values.setdefault("peak_flops", None)
    values.setdefault("peak_bytes", None)
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"{name}: is unknown")
        _check(name, value)
        if name in {"gemm", "pair"}:
            values[name] = tuple((float(x), float(y)) for x, y in value)
    return DeviceProfile(**values)


def _check(name: str, value: Any) -> None:  # noqa: ANN401 - whatever a file holds
    if name in {"name", "source"}:
        if not isinstance(value, str) or not value:
            raise ValueError(f"{name}: must be a text")
    elif name == "overlaps":
        if not isinstance(value, bool):
            raise ValueError(f"{name}: must be true or false")
    elif name in {"gemm", "pair"}:
        _check_points(name, value)
    elif name == "shards":
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}: must be a whole number from 1")
    elif name in _FROM_ZERO:
        most = _FROM_ZERO[name]
        if not _is_number(value) or not 0 <= value <= most:
            raise ValueError(f"{name}: must be a number from 0" + f" to {most:g}" * math.isfinite(most))
    elif value is None and name in {"peak_flops", "peak_bytes", "memory_bytes"}:
        return
    elif not _is_number(value) or value <= 0:
        raise ValueError(f"{name}: must be a number above 0")


def _check_points(name: str, value: Any) -> None:  # noqa: ANN401 - whatever a file holds
    pairs = isinstance(value, (list, tuple)) and all(
        isinstance(point, (list, tuple)) and len(point) == 2 and all(map(_is_number, point))
        for point in value
    )
    if not pairs:
        raise ValueError(f"{name}: must be a list of pairs of numbers")
    places = [x for x, _ in value]
    if any(x >= y for x, y in itertools.pairwise(places)):
        raise ValueError(f"{name}: its first numbers must rise")
    if name == "pair":
        if any(not (0 <= x <= 1 and 0 <= g <= 1) for x, g in value):
            raise ValueError(f"{name}: its numbers must be in 0 to 1")
        return
    if any(x < 1 or not 0 < e <= 1 for x, e in value):
        raise ValueError(f"{name}: rows must be from 1 on, efficiencies above 0 and up to 1")
    times = [x / e for x, e in value]
    if any(later < before * (1 - 1e-9) for before, later in itertools.pairwise(times)):
        raise ValueError(f"{name}: more rows must not take less time")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def measure_cpu(seconds: float = 0.3) -> DeviceProfile:
    """Measure this machine: a float32 GEMM of model-like shape, and a read-only sum over 64 MB.

    The best of several rounds within `seconds` is taken, since other processes only ever slow it down.
    """
    import torch

    left, right = torch.rand(256, 1024), torch.rand(1024, 1024)
    block = torch.ones(16 * 1024 * 1024)
    flops = bandwidth = 0.0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not flops:
        begin = time.perf_counter()
        torch.mm(left, right)
        middle = time.perf_counter()
        block.sum()
        done = time.perf_counter()
        flops = max(flops, 2.0 * 256 * 1024 * 1024 / (middle - begin))
        bandwidth = max(bandwidth, block.numel() * 4 / (done - middle))
    return DeviceProfile("cpu", "measured", flops, bandwidth, flops, bandwidth, overlaps=False)
