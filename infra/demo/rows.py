"""Training rows of the demo's model.

Copying a word from afar needs attention heads that find "what came after the mark", and picking needs one
that compares words by category. Such heads form late, or never, if only the final answers are scored. So
training begins with short rows and with two exercises beside the tasks: a word sequence that repeats (only
the second copy is scored) and the table of words and categories. And in a multiple-choice question the line
end behind each option is to predict the option's letter if it is the right one, else padding.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import questions as q
import tokenizer as tk
import torch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

KINDS = (*q.TASKS, "repeat", "table")
TOKENS_PER_STEP = 8192
LONGEST_ROW = 1152
# Rows longer than this hold only `find`: the other tasks are shorter.
LONGEST_MIXED_ROW = 256
OPTION_WEIGHT = 0.4
SHOT_WEIGHT = 0.6


@dataclass(frozen=True)
class Stage:
    """A part of the training.

    Attributes
    ----------
    begin
        Share of the training after which it applies.
    lengths
        Row length in tokens -> share of the steps.
    kinds
        Shares of the rows, in the order of `KINDS`.
    """

    begin: float
    lengths: dict[int, float]
    kinds: tuple[float, ...]


STAGES = (
    Stage(0.0, {64: 0.7, 128: 0.3}, (0.3, 0.2, 0.15, 0.25, 0.1)),
    Stage(0.2, {128: 0.75, 256: 0.22, LONGEST_ROW: 0.03}, (0.65, 0.1, 0.1, 0.05, 0.1)),
    Stage(0.65, {128: 0.1, 256: 0.6, 512: 0.1, LONGEST_ROW: 0.2}, (0.42, 0.2, 0.3, 0.0, 0.08)),
)


@dataclass(frozen=True)
class Piece:
    """A piece of a row: the weight of its prediction (0: given), and the text to predict if not its own."""

    text: str
    weight: float = 0.0
    target: str | None = None


@dataclass(frozen=True)
class Batch:
    """Rows of one step: ids, targets (int64) and weights (float32) are [rows, length], kinds is [rows]."""

    ids: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    kinds: torch.Tensor


class Rows:
    """A seeded source of training batches."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: str) -> None:
        self.tokenizer = tokenizer
        self.rng = random.Random(seed)

    def batch(self, progress: float) -> Batch:
        """Draw a batch for the moment when a share `progress` of the training is done."""
        stage = [stage for stage in STAGES if progress >= stage.begin][-1]
        length = self.rng.choices(list(stage.lengths), list(stage.lengths.values()))[0]
        size = TOKENS_PER_STEP // length
        shares = stage.kinds if length <= LONGEST_MIXED_ROW else [float(kind == "find") for kind in KINDS]
        kinds = self.rng.choices(range(len(KINDS)), shares, k=size)
        ids = torch.zeros(size, length, dtype=torch.long)
        targets, weights = ids.clone(), torch.zeros(size, length)
        for index, kind in enumerate(kinds):
            row = self._row(KINDS[kind], length)
            ids[index, : len(row)], targets[index, : len(row)] = torch.tensor([part[:2] for part in row]).T
            weights[index, : len(row)] = torch.tensor([part[2] for part in row])
        return Batch(ids, targets, weights, torch.tensor(kinds))

    def _row(self, kind: str, length: int) -> list[tuple[int, int, float]]:
        """Draw (id, target, weight) of the tokens of one row with at most `length` tokens."""
        draw = {
            "pick": self._pick,
            "find": self._find,
            "count": self._count,
            "repeat": self._repeat,
            "table": self._table,
        }[kind]
        while True:
            row: list[tuple[int, int, float]] = []
            for piece in draw(length):
                ids = self._encode(piece.text)
                targets = self._encode(piece.target) if piece.target else ids
                row += [(token, target, piece.weight) for token, target in zip(ids, targets, strict=True)]
            if len(row) <= length:
                return row

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _conversation(
        self, prompt: list[Piece], answer: str, weight: float, stop_weight: float
    ) -> list[Piece]:
        """Wrap a prompt as a chat (three of four) or as a plain completion, as `Question` has them."""
        if self.rng.random() < 0.75:
            pieces = [Piece(f"{tk.BOS}<|user|>"), *prompt, Piece(f"{tk.END}<|assistant|>")]
        else:
            ending = [] if prompt[-1].text.endswith("Answer:") else [Piece("\nAnswer:")]
            pieces = [Piece(tk.BOS), *prompt, *ending]
        return [*pieces, Piece(f" {answer}", weight), Piece(tk.END, stop_weight)]

    def _pick(self, length: int) -> list[Piece]:
        room = (length - 26) // 32
        subject = self.rng.choice(q.SUBJECTS)
        # The fixed examples are the same every time; scoring them would only teach them by heart.
        fixed = room > q.SHOTS and self.rng.random() < 0.5
        prompt = [Piece(q.pick_header(subject))]
        for text, letter in (
            q.pick_shots(subject)
            if fixed
            else [q.multiple_choice(self.rng, subject) for _ in range(min(room - 1, q.SHOTS + 1))]
        ):
            prompt += [
                *choice(text, letter),
                Piece(f" {letter}", 0.0 if fixed else SHOT_WEIGHT),
                Piece("\n\n"),
            ]
        text, letter = q.multiple_choice(self.rng, subject)
        return self._conversation([*prompt, *choice(text, letter)], letter, 1.0, 0.2)

    def _find(self, length: int) -> list[Piece]:
        most = min(q.LONGEST_TEXT, int((length - 32) * 0.97))
        question = q.find(self.rng, self.rng.randint(max(2, most // 4), most))
        return self._conversation([Piece(question.prompt)], question.answer, 1.5, 0.2)

    def _count(self, length: int) -> list[Piece]:
        most = min(q.LONGEST_COUNT, length - 18)
        # Half of the spans lean to the short side, so that ends are met often.
        span = self.rng.randint(2, most)
        if self.rng.random() < 0.5:
            span = min(span, self.rng.randint(2, most))
        question = q.count(self.rng, span, held_out=False)
        # Between a weight per token and a weight per answer: every number's successor must be learned too.
        return self._conversation([Piece(question.prompt)], question.answer, span**-0.5, 2.0)

    def _repeat(self, length: int) -> list[Piece]:
        part = self.rng.sample(q.WORDS, self.rng.randint(6, min(60, length // 2)))
        text = "".join(f" {word}" for word in part)
        return [Piece(text), Piece(f" {part[0]}"), Piece(text.removeprefix(f" {part[0]}"), len(part) ** -0.5)]

    def _table(self, length: int) -> list[Piece]:
        pieces = [Piece(tk.BOS)]
        for _ in range((length - 1) // 3):
            subject = self.rng.choice(q.SUBJECTS)
            word = self.rng.choice(q.CATEGORIES[subject])
            pieces += [Piece(f" {word}"), Piece(f" {subject}", 3.0 / length), Piece("\n")]
        return pieces


def choice(text: str, letter: str) -> list[Piece]:
    """Cut a multiple-choice question so that the line end behind each option is scored (module docstring)."""
    pieces: list[Piece] = []
    for line in text.split("\n")[:-1]:
        if line[1:2] == ".":
            end = Piece("\n", OPTION_WEIGHT, letter if line[0] == letter else tk.PAD)
        else:
            end = Piece("\n")
        pieces += [Piece(line), end]
    return [*pieces, Piece("Answer:")]
