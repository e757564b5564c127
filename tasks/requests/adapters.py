"""Which adapter of the model a request asks for: its field `model` names it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tasks.base.errors import ErrorCode, RequestError, bounded

if TYPE_CHECKING:
    from collections.abc import Mapping

ADAPTER: Final = "adapter"
"""Setting of a request that an adapter answers: the adapter's identity, its digest in it."""


@dataclass(frozen=True)
class Adapters:
    """The adapters of a night; without any, `model` of a request says nothing.

    Attributes
    ----------
    identities
        Name -> what stands for it in the settings of a request.
    base
        Names of the model itself.
    """

    identities: Mapping[str, str]
    base: tuple[str, ...]

    def settings(self, model: str | None) -> dict[str, str]:
        """Return what a request that names a model is answered with: nothing, for the model itself.

        Raises
        ------
        RequestError
            `invalid_parameter`, telling the known names, if there is none of that name.
        """
        if not self.identities or model is None or model in self.base:
            return {}
        if model in self.identities:
            return {ADAPTER: self.identities[model]}
        known = ", ".join([self.base[0], *self.identities])
        message = f"{bounded(model, 64)} is neither the model nor an adapter of it; known are {known}"
        raise RequestError(ErrorCode.INVALID_PARAMETER, "model", bounded(message))


NONE: Final = Adapters({}, ())
"""A night without adapters."""
