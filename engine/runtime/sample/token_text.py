"""The bytes that single tokens stand for."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenText:
    """Turns token ids into the UTF-8 bytes they add to a text.

    A token of a byte-level vocabulary may be a part of a character, so it has bytes but not always a text of
    its own. Vocabularies in the manner of SentencePiece write a space as U+2581 and single bytes as
    ``<0xE2>``. Special tokens stand for their name.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        decoder = json.dumps(json.loads(backend.to_str()).get("decoder")) if backend is not None else ""
        self._byte_of = _byte_level_alphabet() if '"ByteLevel"' in decoder else None
        self._added = set(tokenizer.get_added_vocab().values())
        self._known: dict[int, bytes] = {}

    def __call__(self, token_id: int) -> bytes:
        """Return the bytes of a token; none for an id that the vocabulary does not have."""
        if token_id not in self._known:
            self._known[token_id] = self._find(token_id)
        return self._known[token_id]

    def _find(self, token_id: int) -> bytes:
        piece = self._tokenizer.convert_ids_to_tokens(token_id)
        if not isinstance(piece, str):
            return b""
        if token_id in self._added:
            return piece.encode()
        if self._byte_of is not None and all(character in self._byte_of for character in piece):
            return bytes(self._byte_of[character] for character in piece)
        byte = _BYTE_TOKEN.fullmatch(piece)
        return bytes([int(byte[1], 16)]) if byte else piece.replace("\u2581", " ").encode()


def _byte_level_alphabet() -> dict[str, int]:
    """Return the byte of each character that byte-level BPE writes bytes with.

    Printable bytes of Latin-1 stand for themselves, the others for the characters from U+0100 on, in order
    (Radford et al., "Language Models are Unsupervised Multitask Learners", 2019).
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}
