"""Two streams on multiprocessors that are apart, by the driver's green contexts.

torch's own `GreenContext.create(num_sms)` divides the whole device anew each time, so two of them may get the
same multiprocessors. One call of the driver divides it into a group and what remains.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch

from tests.benchmarks.gpu.bench import Unmeasured

_MULTIPROCESSORS = 1
_DEFAULT_STREAM = 1
_NON_BLOCKING = 1


class Resource(ctypes.Structure):
    """`CUdevResource` of the driver, of which only the kind and the number of multiprocessors are read."""

    _fields_ = (
        ("kind", ctypes.c_int),
        ("padding", ctypes.c_ubyte * 92),
        ("count", ctypes.c_uint),
        ("rest", ctypes.c_ubyte * 44),
    )


class Driver:
    """The calls of the CUDA driver that green contexts take; an error of any of them is named."""

    def __init__(self, library: Any = None) -> None:
        try:
            self._library = library or ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise Unmeasured(f"the driver's library cannot be loaded: {error}") from None

    def __call__(self, name: str, *arguments: Any) -> None:
        """Make a call.

        Raises
        ------
        Unmeasured
            If this driver has no such call, or refuses it.
        """
        try:
            function = getattr(self._library, name)
        except AttributeError:
            raise Unmeasured(f"this driver has no {name}") from None
        code = function(*arguments)
        if code:
            raise Unmeasured(f"{name} gives error {code}")


def divide(
    kept: int, device: int, driver: Driver
) -> tuple[tuple[ctypes.c_void_p, int], tuple[ctypes.c_void_p, int]]:
    """Return a stream of `kept` multiprocessors of high priority, a stream of all others, and their numbers.

    The contexts live as long as the process: streams are of no use without them.

    Raises
    ------
    Unmeasured
        If the driver does not divide the device so.
    """
    handle, whole, group, others = ctypes.c_int(), Resource(), Resource(), Resource()
    groups = ctypes.c_uint(1)
    driver("cuDeviceGet", ctypes.byref(handle), ctypes.c_int(device))
    driver("cuDeviceGetDevResource", handle, ctypes.byref(whole), ctypes.c_int(_MULTIPROCESSORS))
    driver(
        "cuDevSmResourceSplitByCount",
        ctypes.byref(group),
        ctypes.byref(groups),
        ctypes.byref(whole),
        ctypes.byref(others),
        ctypes.c_uint(0),
        ctypes.c_uint(kept),
    )
    if groups.value != 1 or not others.count:
        raise Unmeasured(f"{whole.count} multiprocessors are not divided into {kept} and others")
    streams = []
    for part, priority in ((group, -1), (others, 0)):
        described, context, stream = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
        driver("cuDevResourceGenerateDesc", ctypes.byref(described), ctypes.byref(part), ctypes.c_uint(1))
        driver("cuGreenCtxCreate", ctypes.byref(context), described, handle, ctypes.c_uint(_DEFAULT_STREAM))
        driver(
            "cuGreenCtxStreamCreate",
            ctypes.byref(stream),
            context,
            ctypes.c_uint(_NON_BLOCKING),
            ctypes.c_int(priority),
        )
        streams.append((stream, int(part.count)))
    return streams[0], streams[1]


def green_streams(kept: int) -> tuple[torch.cuda.Stream, torch.cuda.Stream]:
    """Return streams of `kept` multiprocessors of the current device and of the others.

    Raises
    ------
    Unmeasured
        If the driver does not give them.
    """
    # The primary context, from which green ones are made, is there once something was computed.
    torch.zeros(1, device="cuda")
    device = torch.cuda.current_device()
    (first, _), (second, _) = divide(kept, device, Driver())
    made = [torch.cuda.ExternalStream(stream.value, device=device) for stream in (first, second)]
    return made[0], made[1]
