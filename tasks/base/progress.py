"""How far a step is, for whoever shows it: told without knowing to whom."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True, slots=True)
class Amount:
    """So much of the present step is done, of `total`; `unit` names what is counted (requests, bytes)."""

    done: float
    total: float
    unit: str


_hear: ContextVar[Callable[[Amount], None] | None] = ContextVar("hear", default=None)


def tell(done: float, total: float, unit: str) -> None:
    """Tell how far the present step is; nothing happens where nobody hears it."""
    hear = _hear.get()
    if hear is not None:
        hear(Amount(done, total, unit))


@contextmanager
def told_to(hear: Callable[[Amount], None]) -> Iterator[None]:
    """Have `hear` told inside the block, of steps that run in this thread."""
    token = _hear.set(hear)
    try:
        yield
    finally:
        _hear.reset(token)
