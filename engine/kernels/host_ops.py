"""The operations of the model on the CPU in C, for float32; the torch references do where they are not built.

``NIGHTBLEND_KERNELS=reference`` leaves them out.
"""

from __future__ import annotations

import ctypes
import logging
import os
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

import torch

from engine.kernels.host_build import NoCompilerError, build

if TYPE_CHECKING:
    from torch import Tensor

    from engine.arrays import Int32

log = logging.getLogger(__name__)

LANES, MOST_DIM = 8, 256
"""Heads have a multiple of so many elements, and at most so many; as in the source."""
REFERENCE: Final = "reference"
_POINTER, _WHOLE, _REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_ARGUMENTS: Final = {
    "nb_rms_norm": (*[_POINTER] * 4, *[_WHOLE] * 2, _REAL),
    "nb_silu_and_mul": (*[_POINTER] * 2, *[_WHOLE] * 2),
    "nb_qk_rope_store": (*[_POINTER] * 8, _REAL, _POINTER, *[_WHOLE] * 5),
    "nb_attention": (*[_POINTER] * 8, *[_WHOLE] * 7, _REAL),
}


@cache
def library() -> ctypes.CDLL | None:
    """Return the library, built if need be; None where that is not possible or not wanted."""
    if os.environ.get("NIGHTBLEND_KERNELS") == REFERENCE:
        return None
    try:
        found = ctypes.CDLL(str(build()))
    except (NoCompilerError, OSError) as error:
        log.warning("the CPU's operations are not in C (%s): the engine is slower here", error)
        return None
    for name, arguments in _ARGUMENTS.items():
        function = getattr(found, name)
        function.argtypes, function.restype = arguments, ctypes.c_int if name == "nb_attention" else None
    return found


def fits(*tensors: Tensor) -> bool:
    """Tell whether these can be given to the library: contiguous float32 on the CPU."""
    return (
        all(one.dtype == torch.float32 and not one.is_cuda and one.is_contiguous() for one in tensors)
        and library() is not None
    )


def fits_heads(cache: Tensor) -> bool:
    """Tell whether the library knows heads of this size; `cache` as `qk_rope_store` has it."""
    dim = cache.shape[-1]
    return dim % LANES == 0 and dim <= MOST_DIM and fits(cache)


def rms_norm(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> Tensor:
    """Return the norm of x [..., n], or of what `residual` becomes by adding it."""
    out = torch.empty_like(x)
    n = x.shape[-1]
    _called("nb_rms_norm", x, residual, weight, out, x.numel() // max(n, 1), n, eps)
    return out


def silu_and_mul(gate_up: Tensor) -> Tensor:
    """Return ``silu(gate) * up``; see `engine.kernels.silu`."""
    tokens, n = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty((tokens, n))
    _called("nb_silu_and_mul", gate_up, out, tokens, n)
    return out


def qk_rope_store(
    qkv: Tensor,
    rope: tuple[Tensor, Tensor],
    cache: Tensor,
    pages: Tensor,
    offsets: Tensor,
    norms: tuple[Tensor, Tensor] | None,
    eps: float,
) -> Tensor:
    """Store keys and values and return queries; see `engine.kernels.qk_rope_store`."""
    tokens, (_, _, kv_heads, page_size, dim) = qkv.shape[0], cache.shape
    heads = qkv.shape[1] // dim - 2 * kv_heads
    out = qkv.new_empty((tokens, heads, dim))
    places = [one.to(torch.int64).contiguous() for one in (pages, offsets)]
    given = (None, None) if norms is None else norms
    sizes = (tokens, heads, kv_heads, dim, page_size)
    _called("nb_qk_rope_store", qkv, *rope, cache, *places, *given, eps, out, *sizes)
    return out


@dataclass(frozen=True)
class Sequences:
    """The sequences of a step, and their pages.

    Attributes
    ----------
    first, length, context
        int32 [N]: the first of each one's rows, how many it has, and its tokens up to the last of them.
    slot
        int32 [N]: its row of `tables`.
    tables
        int32 [S, P], contiguous: pages in order.
    """

    first: Int32
    length: Int32
    context: Int32
    slot: Int32
    tables: Int32


def attention(q: Tensor, cache: Tensor, sequences: Sequences, window: int) -> Tensor:
    """Return causal attention of every row of q [tokens, heads, head dim] over the pages of its sequence.

    Parameters
    ----------
    cache
        One layer's, see `engine.kernels.attention.paged_attention`.
    window
        A query looks at its own place and the ``window - 1`` before it.

    Raises
    ------
    MemoryError
        If the system gives no memory for a list of the call's blocks.
    """
    out = torch.empty_like(q)
    _, heads, dim = q.shape
    kv_heads, page_size = cache.shape[2], cache.shape[3]
    arrays = (sequences.first, sequences.length, sequences.context, sequences.slot, sequences.tables)
    sizes = (sequences.tables.shape[1], len(sequences.first), heads, kv_heads, dim, page_size, window)
    if _called("nb_attention", q, cache, out, *(one.ctypes.data for one in arrays), *sizes, dim**-0.5):
        raise MemoryError("the CPU's attention")
    return out


def _called(name: str, *arguments: object) -> int | None:
    """Call a function of the library with tensors by their places."""
    given = [one.data_ptr() if isinstance(one, torch.Tensor) else one for one in arguments]
    result: int | None = getattr(library(), name)(*given)
    return result
