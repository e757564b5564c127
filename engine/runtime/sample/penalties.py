r"""What requests change of the logits before a token is chosen: biases, penalties, least lengths, min-p.

For a row of logits :math:`l` over the vocabulary, in this order, which is that of vLLM's sampler
(``vllm/v1/sample/sampler.py``):

- `logit_bias`, of the OpenAI API: :math:`l_t + b_t` for the tokens that it names;
- `min_tokens`, of vLLM (``MinTokensLogitsProcessor``): :math:`-\infty` for the stop tokens of the model and
  of the request while the answer has fewer tokens;
- `repetition_penalty` :math:`r`, of Keskar et al., 2019 (CTRL), as transformers and vLLM have it: for each
  token of the prompt or the answer so far :math:`l_t / r` where :math:`l_t > 0`, else :math:`l_t r`;
- `frequency_penalty` :math:`f` and `presence_penalty` :math:`p`, of the OpenAI API: with :math:`c_t` the
  number of times that a token is in the answer so far, :math:`l_t - f c_t - p [c_t > 0]`;
- `min_p` :math:`m`, of Nguyen et al., 2024, for drawn tokens: :math:`-\infty` where the probability after the
  temperature is below :math:`m` times the largest one, before top-k and top-p.

Everything depends on the tokens so far alone, so a request that was put back goes on as if it had not been.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from engine.runtime.sample.settings import CHANGING, Sampling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from engine.arrays import Float32, Int32, Int64
_NEUTRAL: Final = {name: getattr(Sampling(max_tokens=1), name) for name in CHANGING}
"""The values with which settings change nothing."""


@dataclass(frozen=True)
class Prompts:
    """The prompts of a run, flat: int32 [total], and int64 [N + 1] where each begins."""

    tokens: Int32
    start: Int64


@dataclass(frozen=True)
class Touched:
    """The sampled rows of a step whose logits are changed, on the host.

    Attributes
    ----------
    rows, requests, slots
        int64 [R]: which of the sampled rows, of which requests, in which slots.
    answers
        int64 [R, longest]: the tokens of their answers so far, -1 for one that only the device knows, and the
        size of the vocabulary behind their ends.
    prompts
        Likewise those of their prompts, where a row has a repetition penalty; else of width 0.
    added_row, added_token, added
        int64 [A], int64 [A], float32 [A]: what is added to logits, rows counted among these.
    """

    rows: Int64
    requests: Int64
    slots: Int64
    answers: Int64
    prompts: Int64
    added_row: Int64
    added_token: Int64
    added: Float32

    def part(self, first: int, last: int) -> Touched:
        """Return the rows from `first` to `last`, that one left out."""
        some = slice(first, last)
        mine = (self.added_row >= first) & (self.added_row < last)
        return Touched(
            self.rows[some],
            self.requests[some],
            self.slots[some],
            self.answers[some],
            self.prompts[some],
            self.added_row[mine] - first,
            self.added_token[mine],
            self.added[mine],
        )


def is_touched(settings: Sampling) -> bool:
    """Tell whether a request changes its logits in any step."""
    return bool(settings.logit_bias) or any(getattr(settings, name) != _NEUTRAL[name] for name in CHANGING)


class Penalties:
    """Changes the logits of the requests that ask for it.

    Parameters
    ----------
    settings
        Of all requests of the run.
    prompts
        Theirs; None only if no request is `is_touched`.
    stops
        The model's stop tokens.
    vocab_size
        Columns of the logits.
    """

    def __init__(
        self,
        settings: Sequence[Sampling],
        prompts: Prompts | None,
        stops: Sequence[int],
        vocab_size: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self._settings, self._vocab = settings, vocab_size
        self._touched = np.array([*map(is_touched, settings), False])
        self.any = bool(self._touched.any())
        if self.any and prompts is None:
            raise ValueError("requests that change their logits need the prompts of the run")
        self._prompts = prompts
        self._stops = [int(stop) for stop in stops]
        if not self.any:
            return

        def column(name: str) -> Tensor:
            values = [getattr(s, name) for s in settings]
            return torch.tensor(values, dtype=torch.float32, device=device)

        self._presence, self._frequency = column("presence_penalty"), column("frequency_penalty")
        self._repetition, self._min_p = column("repetition_penalty"), column("min_p")
        self._temperature = column("temperature")

    def touched(self, requests: Int64, positions: Int64, slots: Int32, output: Int32) -> Touched | None:
        """Return what a step needs to know of the rows that are changed; None if there are none.

        Parameters
        ----------
        requests, positions, slots
            Integers [R] of the sampled rows: the request, the place in its sequence that the new token takes,
            and its slot.
        output
            int32 [slots, longest]: the answers so far.
        """
        if not self.any or self._prompts is None:
            return None
        rows = np.flatnonzero(self._touched[requests])
        if not len(rows):
            return None
        mine, places = requests[rows], np.asarray(slots[rows], np.int64)
        begin, end = self._prompts.start[mine], self._prompts.start[mine + 1]
        lengths = positions[rows] - (end - begin)
        answers = _padded([output[s, :n] for s, n in zip(places, lengths, strict=True)], self._vocab)
        repeats = [self._settings[r].repetition_penalty != 1.0 for r in mine.tolist()]
        prompts = [
            self._prompts.tokens[b:e] if again else self._prompts.tokens[:0]
            for b, e, again in zip(begin, end, repeats, strict=True)
        ]
        added: list[tuple[int, int, float]] = []
        for row, (request, length) in enumerate(zip(mine.tolist(), lengths.tolist(), strict=True)):
            added += [(row, token, bias) for token, bias in self._added(self._settings[request], length)]
        return Touched(
            rows,
            mine,
            places,
            answers,
            _padded(prompts, self._vocab),
            np.array([one[0] for one in added], np.int64),
            np.array([one[1] for one in added], np.int64),
            np.array([one[2] for one in added], np.float32),
        )

    def _added(self, settings: Sampling, length: int) -> list[tuple[int, float]]:
        found = [(token, bias) for token, bias in settings.logit_bias if token < self._vocab]
        if length < settings.min_tokens:
            stops = {*self._stops, *settings.stop_token_ids}
            found += [(token, -np.inf) for token in sorted(stops) if token < self._vocab]
        return found

    def __call__(self, logits: Tensor, step: Touched, last: Tensor) -> Tensor:
        """Return the changed logits, float32 [R, vocab].

        Parameters
        ----------
        logits
            float32 [R, vocab] of the rows `step.rows`; they are overwritten.
        last
            Integers [slots]: the token that each slot has sampled last, for those that only the device knows.
        """
        device = logits.device
        asked = torch.from_numpy(step.requests).to(device)
        if len(step.added):
            place = tuple(torch.from_numpy(part).to(device) for part in (step.added_row, step.added_token))
            logits.index_put_(place, torch.from_numpy(step.added).to(device), accumulate=True)
        own = last.index_select(0, torch.from_numpy(step.slots).to(device)).to(torch.int64)
        answers = torch.from_numpy(step.answers).to(device)
        answers = torch.where(answers < 0, own[:, None], answers)
        # One more column for what stands behind the ends.
        counts = torch.zeros((len(step.rows), self._vocab + 1), dtype=torch.float32, device=device)
        counts.scatter_add_(1, answers, torch.ones_like(answers, dtype=torch.float32))
        if step.prompts.shape[1]:
            seen = (counts > 0).scatter_(1, torch.from_numpy(step.prompts).to(device), value=True)
        else:
            seen = counts > 0
        counts, seen = counts[:, :-1], seen[:, :-1]
        factor = self._repetition[asked][:, None]
        logits = torch.where(seen, torch.where(logits > 0, logits / factor, logits * factor), logits)
        logits = logits - self._frequency[asked][:, None] * counts
        logits = logits - self._presence[asked][:, None] * (counts > 0)
        # In the logarithm, so that rows without a bound (log 0) and greedy ones keep all.
        bound = self._temperature[asked] * torch.log(self._min_p[asked])
        bound = torch.where(self._temperature[asked] > 0, bound, -torch.inf)
        least = logits.max(-1).values + bound
        return logits.masked_fill(logits < least[:, None], -torch.inf)


def _padded(rows: list[Int32], filler: int) -> Int64:
    longest = max(map(len, rows), default=0)
    found = np.full((len(rows), longest), filler, np.int64)
    for row, values in enumerate(rows):
        found[row, : len(values)] = values
    return found
