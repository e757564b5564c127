"""Embeddings from the hidden states of prompts: pooled, cut to their first dimensions, normalised.

The hidden states are those after the model's last norm. `last` takes that of the last token of the prompt,
`mean` the mean over all its tokens. A sequence may find the first pages of its prompt in the prefix cache,
computed for another one or in an earlier step, so where some request of a job takes the mean, the states of
all tokens are kept beside their KV, in the same places (`States`): a cached page serves both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from engine.choices import MEAN
from engine.runtime.sample.settings import wants_embedding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from engine.arrays import Bool, Float32, Int32, Int64
    from engine.runtime.sample.settings import Sampling


def embedding(state: Tensor, settings: Sampling) -> Float32:
    """Return a pooled state as it was asked for, float32 [dimensions].

    It is cut first and then normalised, so what is cut has length 1 again (Matryoshka embeddings: Kusupati et
    al., 2022).

    Parameters
    ----------
    state
        [hidden]: the pooled hidden state.
    """
    vector = state.to(torch.float32)[: settings.dimensions]
    if settings.normalised:
        vector = torch.nn.functional.normalize(vector, dim=0)
    return np.array(vector.numpy(), np.float32)


class States:
    """The hidden states of all tokens whose KV is stored, by the place of the KV.

    Parameters
    ----------
    pages, page_size, hidden
        Size of the KV memory, and of a state. Memory is taken as pages are used first.
    """

    def __init__(self, pages: int, page_size: int, hidden: int) -> None:
        # The system's zero pages cost nothing until they are written to.
        self._states = torch.from_numpy(np.zeros((pages, page_size, hidden), np.float32))

    def store(self, pages: Tensor, offsets: Tensor, states: Tensor) -> None:
        """Keep the states [T, hidden] of a step's tokens; `pages` and `offsets` are int64 [T]."""
        self._states[pages, offsets] = states.to(torch.float32)

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Copy the first `tokens` states of a page: what is done with its KV."""
        self._states[target, :tokens] = self._states[source, :tokens]

    def mean(self, pages: Int32, tokens: int) -> Tensor:
        """Return the mean over the first `tokens` tokens of a sequence, float32 [hidden].

        `pages` is its page table. Sums are in float64, so how a prompt was cut into steps leaves no trace.
        """
        size = self._states.shape[1]
        table = torch.from_numpy(pages[: -(-tokens // size)].astype(np.int64))
        rows = self._states[table].flatten(0, 1)[:tokens]
        return rows.mean(dim=0, dtype=torch.float64).to(torch.float32)


class Pooler:
    """Makes the embeddings of a step.

    Parameters
    ----------
    sampling
        Of all requests of the run.
    pages, page_size, hidden
        See `States`.
    """

    def __init__(self, sampling: Sequence[Sampling], pages: int, page_size: int, hidden: int) -> None:
        self._sampling = sampling
        self._wanted = wants_embedding(sampling)
        some_mean = any(one.pooling == MEAN for one in sampling)
        self.states = States(pages, page_size, hidden) if some_mean else None

    def wanted(self, requests: Int64) -> Bool:
        """Return bool [R]: for which samples of a step, of these requests, an embedding is wanted."""
        return self._wanted[requests]

    def embeddings(
        self, samples: Int64, requests: Int64, states: Tensor, tables: Int32, tokens: Int64
    ) -> dict[int, Float32]:
        """Return the embeddings of some samples of a step.

        Parameters
        ----------
        samples
            int64 [m]: which samples; the other arguments are about these.
        requests, tokens
            int64 [m]: their requests, and the tokens of their prompts.
        states
            [m, hidden]: of their last tokens.
        tables
            int32 [m, P]: their page tables.
        """
        found = {}
        for i, sample in enumerate(samples.tolist()):
            settings = self._sampling[int(requests[i])]
            state = states[i]
            if settings.pooling == MEAN and self.states is not None:
                state = self.states.mean(tables[i], int(tokens[i]))
            found[sample] = embedding(state, settings)
        return found
