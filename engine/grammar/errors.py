"""Why a constraint is refused."""

from __future__ import annotations

import re
from typing import Final

_MOST: Final = 200


class ConstraintError(ValueError):
    """A constraint that cannot be enforced exactly, or means nothing; its text is one line."""

    def __init__(self, message: str) -> None:
        line = re.sub(r"\s+", " ", message).strip()
        super().__init__(line if len(line) <= _MOST else f"{line[:_MOST]}...")
