"""A model's tokenizer with its chat template: texts to token ids."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import decoders

from engine.tokenizer import load_folder
from tasks.base.errors import ConfigurationError, bounded
from tasks.profile.chat_template import ChatTemplate
from tasks.profile.image_tokens import image_tokens_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    import numpy.typing as npt

    from tasks.profile.image_tokens import ImageTokens


@dataclass(frozen=True, slots=True)
class PromptTokenizer:
    """A model's tokenizer with its chat template.

    Attributes
    ----------
    model
        What it was loaded from.
    tokenizer
        The `transformers` tokenizer.
    vocab_size
        Token ids of a prompt are below this.
    template
        Renders chats.
    images
        How many tokens an image is of; None: the model takes none.
    """

    model: str
    tokenizer: Any
    vocab_size: int
    template: ChatTemplate
    images: ImageTokens | None = None

    @property
    def soft_token(self) -> int:
        """Id of the token that stands for a vector of an image; -1 without images."""
        return -1 if self.images is None else int(self.tokenizer.convert_tokens_to_ids(self.images.soft))

    def encode(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        """Encode texts in parallel, with the tokenizer's default special tokens if `special`."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            encoded = self.tokenizer(list(texts), add_special_tokens=special, verbose=False)
            return [list(ids) for ids in encoded["input_ids"]]
        return [found.ids for found in backend.encode_batch_fast(list(texts), add_special_tokens=special)]

    def rules(self) -> dict[str, str]:
        """Return what answers depend on beside the model's files, as it enters the keys of a run.

        There is nothing of the kind for most models.
        """
        found = {}
        if self.template.clock is not None:
            found["template_clock"] = self.template.clock
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None or not isinstance(backend.decoder, decoders.ByteLevel):
            # Their answers lost a first space once, and whole characters before a cut one.
            found["answer_text"] = "after the prompt"
        return found

    def beyond(self, ids: npt.NDArray[np.int32]) -> int | None:
        """Return the first token id that the model has no embedding for, None if it has them all.

        A tokenizer may know more tokens than its model, such as some that were added later.
        """
        wrong = np.flatnonzero((ids < 0) | (ids >= self.vocab_size))
        return int(ids[wrong[0]]) if len(wrong) else None


def load_tokenizer(
    model: str, *, vocab_size: int | None = None, run_date: date | None = None
) -> PromptTokenizer:
    """Load the tokenizer of a model.

    Parameters
    ----------
    model : str
        A local folder or a hub id.
    vocab_size : int or None
        Rows of the model's embedding; None takes all ids of the tokenizer.
    run_date : date or None
        What a clock in the chat template shows, see `ChatTemplate`.

    Raises
    ------
    ConfigurationError
        Naming `--model`, if there is no tokenizer.
    """
    if Path(model).is_dir() and not _has_tokenizer(Path(model)):
        raise ConfigurationError(
            "--model",
            f"{model} holds no tokenizer (tokenizer.json or tokenizer.model)",
            "Copy the tokenizer files of the model into that folder",
        )
    try:
        tokenizer = load_folder(Path(model)) if Path(model).is_dir() else _load_from_hub(model)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = bounded(str(error).partition("\n")[0])
        raise ConfigurationError(
            "--model",
            f"no tokenizer could be loaded from {model} ({reason})",
            "Name a Hugging Face model folder or a hub id that can be reached",
        ) from error
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        # Saved settings would cut or fill prompts without a word.
        backend.no_truncation()
        backend.no_padding()
    size = max(tokenizer.get_vocab().values(), default=-1) + 1 if vocab_size is None else vocab_size
    images = image_tokens_of(Path(model)) if Path(model).is_dir() else None
    template = ChatTemplate(tokenizer, run_date, sees=images is not None)
    return PromptTokenizer(model, tokenizer, size, template, images)


def _load_from_hub(model: str) -> Any:  # noqa: ANN401 - as in `PromptTokenizer`
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model)


def _has_tokenizer(folder: Path) -> bool:
    names = ("tokenizer.json", "tokenizer.model", "tiktoken.model", "spiece.model", "vocab.txt", "vocab.json")
    return any((folder / name).is_file() for name in names)
