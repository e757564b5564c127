"""Presets: values that belong together, by name, so that a form needs one choice instead of six."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Preset:
    """What it is for, and the fields of `NightlyParameters` that it sets."""

    what: str
    values: Mapping[str, Any] = field(default_factory=dict)


STANDARD: Final = "standard"
PRESETS: Final[Mapping[str, Preset]] = {
    STANDARD: Preset("as the fields say"),
    "throughput": Preset(
        "most tokens per GPU hour on large nights, lengths are learned while it runs",
        {"policy": "auto", "lengths": "combined", "part_seconds": 120.0, "part_answers": 5000},
    ),
    "small-gpu": Preset(
        "fits where memory is short, slower",
        {"token_budget": 1024, "max_sequences": 128},
    ),
    "exact": Preset(
        "float32, so that answers do not depend on the order of requests",
        {"dtype": "float32"},
    ),
    "trial": Preset(
        "a look at the answers: nothing is published, they are readable soon",
        {"publish": False, "part_seconds": 10.0, "part_answers": 100},
    ),
}
