"""Which endpoints a model can answer: it gives text, embeddings, or both.

A folder of sentence-transformers says how its embeddings are made, and is one of a model that was trained for
them alone: text from it would be noise, whatever its configuration says. Of another model a setting of the
job says how they are made, and then it does both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from engine.choices import NATIVE
from engine.errors import EngineError
from engine.models.config import load_config
from engine.models.pooling import Pooling, load_pooling
from tasks.base.errors import ErrorCode, RequestError
from tasks.requests.embeddings import DIMENSIONS, ENDPOINT
from tasks.requests.template_variables import more_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from engine.backends.facts import EngineFacts
    from tasks.night.night import Night

RULE: Final = "embeddings"
"""How embeddings are made, among the rules of a run's key."""
_UNKNOWN: Final = (
    "nothing says how embeddings of this model are made: its folder has no modules.json, and the job no "
    "setting --pooling"
)


@dataclass(frozen=True)
class Abilities:
    """What a model can do.

    Attributes
    ----------
    pooling
        How its embeddings are made; None if it gives none.
    dimensions
        Most components of an embedding.
    no_text, no_embeddings
        Why it gives no text, or no embeddings; '' where it does.
    """

    pooling: Pooling | None
    dimensions: int
    no_text: str = ""
    no_embeddings: str = ""

    def rules(self) -> dict[str, str]:
        """Return what answers depend on beside the model's files, as it enters the keys of a run.

        There is nothing of the kind for a model that gives text alone.
        """
        if self.pooling is not None:
            return {RULE: str(self.pooling)}
        # Text is refused then.
        return {RULE: "none"} if self.no_text else {}


def abilities_of(folder: Path, pooling: str | None) -> Abilities:
    """Return what the model in a folder can do.

    Parameters
    ----------
    pooling
        What the job says of it, a key of `engine.choices.POOLINGS`; None: as the folder says.
    """
    config = load_config(folder)
    no_text = (
        "" if config.generates else f"this model ({config.architecture}) has no LM head to make text with"
    )
    found, why, is_embedder = None, _UNKNOWN, True
    try:
        found = load_pooling(folder)
        is_embedder = found is not None
    except EngineError as error:
        why = str(error).removeprefix("--model: ")
    if is_embedder:
        no_text = no_text or "this model is one of sentence-transformers, which gives embeddings alone"
    if pooling is not None:
        found = Pooling(pooling, found is None or found.normalised)
    return Abilities(found, config.hidden_size, no_text, "" if found is not None else why)


def unfit_for(
    abilities: Abilities, facts: EngineFacts, device: str
) -> Callable[[Mapping[str, Any]], RequestError | None]:
    """Return a function that tells why a row cannot be answered on account of its endpoint; None: it can.

    Looked at before a row's prompt becomes tokens.
    """

    def unfit(row: Mapping[str, Any]) -> RequestError | None:
        if facts.name != NATIVE:
            # Engines by others say themselves what they answer.
            return None
        if row["endpoint"] != ENDPOINT:
            if abilities.no_text:
                return RequestError(ErrorCode.UNSUPPORTED_BY_MODEL, "url", abilities.no_text)
            return None
        if device != "cpu":
            message = "our own engine makes embeddings on the CPU alone: take --device cpu"
            return RequestError(ErrorCode.UNSUPPORTED_URL, "url", message)
        if abilities.pooling is None:
            return RequestError(ErrorCode.UNSUPPORTED_BY_MODEL, "url", abilities.no_embeddings)
        most = abilities.dimensions
        if more_settings(row).get(DIMENSIONS, 1) > most:
            message = f"must be at most {most}, which this model's embeddings have"
            return RequestError(ErrorCode.INVALID_PARAMETER, DIMENSIONS, message)
        return None

    return unfit


def pooling_of(night: Night) -> Pooling | None:
    """Return how embeddings are made in a night; None where it makes none."""
    return abilities_of(night.model_dir, night.settings.pooling).pooling
