"""Which implementation an operation uses, and the decorator of the Triton ones.

Triton is loaded when the first of its kernels is launched, so a machine without it runs the torch references.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    import triton.language as tl
    from torch import Tensor
else:
    # What kernel modules import by this name; `Kernel` puts the real module in its place.
    tl = None

__all__ = ["Kernel", "interpreting", "kernel", "tl", "use_triton"]

_INTERPRET: Final = ("1", "true", "on", "yes", "y")


def interpreting() -> bool:
    """Return whether Triton kernels run in its interpreter, on the CPU (``TRITON_INTERPRET=1``)."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in _INTERPRET


def use_triton(tensor: Tensor) -> bool:
    """Return whether operations on `tensor` run as Triton kernels.

    They do on a CUDA device. On the CPU they do only for tests: in the interpreter, where
    ``NIGHTBLEND_KERNELS=triton`` asks for it.
    """
    return tensor.is_cuda or (interpreting() and os.environ.get("NIGHTBLEND_KERNELS") == "triton")


class Kernel:
    """A Triton kernel, compiled (or interpreted) from its first launch on.

    Whether it is interpreted is decided at that launch, not when its module is loaded. It may call other
    kernels of its module, or imported ones, by their names.
    """

    def __init__(self, function: Callable[..., object]) -> None:
        self.function = function
        self.__name__, self.__doc__ = function.__name__, function.__doc__
        self._compiled: Any = None

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., object]:
        """Return the launcher for a grid of programs."""
        launcher: Callable[..., object] = self.compiled()[grid]
        return launcher

    def __call__(self, *arguments: object, **options: object) -> Any:  # noqa: ANN401 - a Triton tensor
        """Stand for the calls in other kernels' bodies, which Triton compiles."""
        raise TypeError(
            f"{self.__name__} is called by kernels only, not with {len(arguments) + len(options)} arguments"
        )

    def compiled(self) -> Any:  # noqa: ANN401 - Triton's own, untyped
        """Return what ``triton.jit`` makes of the function."""
        if self._compiled is None:
            triton = import_module("triton")
            self._compiled = triton.jit(self.function)
            # Triton finds the names in a kernel's body among the globals of its module.
            scope = self.function.__globals__
            scope["tl"] = import_module("triton.language")
            for name, value in list(scope.items()):
                if isinstance(value, Kernel):
                    scope[name] = value.compiled()
        return self._compiled


def kernel(function: Callable[..., object]) -> Kernel:
    """Decorate a Triton kernel; the module takes `tl`, which stands for ``triton.language``, from here."""
    return Kernel(function)
