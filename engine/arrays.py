"""Types of the flat arrays that the engine's parts hand to each other and to compiled functions.

Shapes and units are said where an array is declared.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T", bound=np.generic)

Bool = npt.NDArray[np.bool_]
Int8 = npt.NDArray[np.int8]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]
UInt32 = npt.NDArray[np.uint32]
UInt64 = npt.NDArray[np.uint64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


def frozen(array: npt.NDArray[T]) -> npt.NDArray[T]:
    """Return the same elements, contiguous and read-only: compiled functions have one form for both kinds."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view
