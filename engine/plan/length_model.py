"""The length estimator `combined`: earlier nights and tonight's answers, from general to particular.

Every node of `engine.plan.features` has a distribution of answer lengths, whose prior is that of the node
above it: a prefix is believed as far as it has been seen and as prefixes have been found to matter
(`survival.credibility`). Answers of earlier nights count as at most `HISTORY` of tonight's at each node. If
tonight's are longer or shorter than a workload's history says, beyond chance, its history is stretched
(`survival.length_ratio`).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from engine.plan.features import LEVELS, Features, NodeTree, make_nodes
from engine.plan.lengths import fixed_lengths
from engine.plan.survival import (
    BINS,
    add_to_parents,
    bin_of,
    bin_values,
    count_answers,
    credibility,
    first_of,
    fit_nodes,
    hazard_sums,
    length_ratio,
    log_moments,
    means,
    outlooks,
    quantiles,
    rescale_nodes,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.arrays import Float64, Int8, Int32, Int64

HISTORY: Final = 100.0
"""Answers of earlier nights count as at most so many of tonight's."""
ROOT: Final = 0.5
"""Answers that the prior of all requests is worth: log-uniform from 1 to the largest limit."""
LEAST_WEIGHT, MOST_WEIGHT = 0.05, 500.0
"""Bounds of what the prior of a node is worth, in answers."""
SIGMAS: Final = 3.0
"""A history is stretched if it is this far from tonight's answers, in standard deviations."""
MOST_RATIO: Final = 8.0
PAIRS: Final = 20.0
"""Pairs of logged and true length that it takes to change half of one's mind about the log."""
_DEPTH: Final = len(LEVELS) + 3


@dataclass(frozen=True)
class History:
    """Answers of earlier nights.

    Attributes
    ----------
    features
        Of their requests.
    length
        float64 [n], tokens.
    ended
        int8 [n]: 1 if the answer ended by itself, 0 if it was cut off.
    weight
        float64 [n]: what each counts for; less the longer ago.
    """

    features: Features
    length: Float64
    ended: Int8
    weight: Float64


@dataclass(frozen=True)
class Fit:
    """What the model says after some answers.

    Attributes
    ----------
    mean
        float64 [N], tokens: E[min(d, limit) | d > generated].
    start
        float64 [N], tokens: E[min(d, limit)], before anything is generated.
    node, limit
        int32 [N], int64 [N]: row of `distribution` of each request, and its limit.
    distribution
        float64 [nodes, 128]: chance of each bin of `engine.plan.survival`.
    trust
        float64 [N]: how much of the mean comes from the request's own logged length, 0 to 1.
    ratio
        float64 [nodes]: by what factor the history at each node was stretched.
    """

    mean: Float64
    start: Float64
    node: Int32
    limit: Int64
    distribution: Float64
    trust: Float64
    ratio: Float64

    def quantile(self, q: float) -> Float64:
        """Return the quantile `q` of each length before anything is generated, float64 [N], tokens."""
        own = quantiles(self.distribution, self.node, q, self.limit)
        if not self.trust.any():
            return own
        spread = (1.0 - self.trust) * (own - quantiles(self.distribution, self.node, 0.5, self.limit))
        return np.where(self.trust > 0.0, np.clip(self.mean + spread, 1.0, self.limit), own)

    def outlooks(self) -> Float64:
        """Return E[d | d in this bin or above], float64 [nodes, 128]."""
        return outlooks(self.distribution, bin_values())


@dataclass(frozen=True)
class LengthModel:
    """The nodes of N requests and what earlier nights say of them.

    Attributes
    ----------
    parent, workload, level
        int32 [nodes]: see `engine.plan.features.NodeTree`.
    node
        int32 [N]: lowest node of each request.
    limit
        int64 [N], tokens: most output tokens.
    logged
        float64 [N], tokens: length of the answer in the log, NaN where there is none.
    history
        float64 [nodes, 2, 128]: weighted answers of earlier nights, those of all nodes below included.
    """

    parent: Int32
    workload: Int32
    level: Int32
    node: Int32
    limit: Int64
    logged: Float64
    history: Float64

    @classmethod
    def of(
        cls,
        features: Features,
        limit: Int64,
        history: History | None = None,
        logged: Float64 | None = None,
    ) -> LengthModel:
        """Return the model of requests with these features, before any of them is answered."""
        tree = make_nodes(features)
        return cls(
            tree.parent,
            tree.workload,
            tree.level,
            tree.node,
            np.ascontiguousarray(limit, np.int64),
            np.full(limit.shape[0], np.nan) if logged is None else np.asarray(logged, np.float64),
            _count_history(tree, history),
        )

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return all fields as arrays, the history by its entries that are not 0."""
        found = {
            name: getattr(self, name) for name in ("parent", "workload", "level", "node", "limit", "logged")
        }
        at = np.flatnonzero(self.history)
        return {**found, "history_at": at, "history": self.history.reshape(-1)[at]}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> LengthModel:
        """Return the model that `arrays` was made from."""
        values = dict(arrays)
        history = np.zeros((values["parent"].shape[0], 2, BINS))
        history.reshape(-1)[values.pop("history_at")] = values.pop("history")
        return cls(**values, history=history)  # type: ignore[arg-type]

    def fit(self, generated: Int32, ended: Int8) -> Fit:
        """Return what is to be expected after some answers.

        Parameters
        ----------
        generated
            int32 [N], tokens generated so far; 0 for requests that have not begun.
        ended
            int8 [N]: 1 for answers that ended by themselves. Those cut off at their limit are longer.
        """
        seen = np.flatnonzero(generated > 0)
        node, length, done = self.node[seen], generated[seen].astype(np.float64), ended[seen]
        counts = count_answers(node, length, done, np.ones(seen.shape[0]), self.parent.shape[0])
        add_to_parents(counts, self.parent)
        ratio = self._ratios(node, length, done)
        values = bin_values()
        counts += self.history if (ratio == 1.0).all() else rescale_nodes(self.history, ratio, values)
        distribution = self._posterior(counts)
        mean = means(distribution, self.node, generated, self.limit, values)
        start = means(distribution, self.node, np.zeros_like(generated), self.limit, values)
        if not counts[0].any():
            start = fixed_lengths(self.limit)
            mean = np.clip(start, np.minimum(generated + 1.0, self.limit), self.limit)
        over = (ended == 1) | (generated >= self.limit)
        mean[over] = generated[over]
        trust, told = self._trust(mean, generated)
        mean = mean + np.where(over, 0.0, trust * (told - mean))
        mean = np.where(over, mean, np.clip(mean, np.minimum(generated + 1.0, self.limit), self.limit))
        start = np.clip(start + trust * (told - start), 1.0, self.limit)
        return Fit(mean, start, self.node, self.limit, distribution, trust, ratio)

    def _posterior(self, counts: Float64) -> Float64:
        weight = credibility(
            self.parent, self.level, log_moments(counts, bin_values()), _DEPTH, LEAST_WEIGHT, MOST_WEIGHT
        )
        weight[0] = ROOT
        return fit_nodes(
            self.parent, _log_uniform(int(self.limit.max(initial=1))), weight[self.level], counts
        )

    def _ratios(self, node: Int32, length: Float64, ended: Int8) -> Float64:
        """Return the factor for the history of each node, float64 [nodes]."""
        ratio = np.ones(self.parent.shape[0])
        if not self.history[0].any() or not node.shape[0]:
            return ratio
        sums = hazard_sums(self._posterior(self.history))
        workload = self.workload[node]
        order = np.argsort(workload, kind="stable")
        bounds = np.flatnonzero(np.diff(workload[order], prepend=-1, append=-1))
        for a, b in itertools.pairwise(bounds.tolist()):
            part = order[a:b]
            if self.history[workload[part[0]]].any():
                found = length_ratio(
                    sums, node[part], length[part], float(ended[part].sum()), SIGMAS, MOST_RATIO
                )
                ratio[self.workload == workload[part[0]]] = found
        return ratio

    def _trust(self, mean: Float64, generated: Int32) -> tuple[Float64, Float64]:
        """Return how much of each estimate comes from the log, and the length that the log tells.

        By workload: true length = mean + a (r logged - mean), r and a fitted to the answers so far, starting
        from r = a = 1. An answer that still runs stands there with its mean.

        Returns
        -------
        (a, r logged)
            float64 [N] each; 0 without a logged length.
        """
        trust, told = np.zeros(mean.shape[0]), np.zeros(mean.shape[0])
        has = ~np.isnan(self.logged)
        workload = self.workload[self.node]
        for w in np.unique(workload[has]).tolist():
            mine = has & (workload == w)
            pair = mine & (generated > 0)
            log, d = self.logged[pair], mean[pair]
            average = float(self.logged[mine].mean())
            r = (d.sum() + PAIRS * average) / (log.sum() + PAIRS * average) if average > 0 else 1.0
            centre = float(mean[mine].mean())
            x, y = r * log - centre, d - centre
            v = float(np.mean((r * self.logged[mine] - centre) ** 2)) + 1e-9
            trust[mine] = np.clip((x @ y + PAIRS * v) / (x @ x + PAIRS * v), 0.0, 1.0)
            told[mine] = r * self.logged[mine]
        return trust, told


def _count_history(tree: NodeTree, history: History | None) -> Float64:
    nodes = tree.parent.shape[0]
    if history is None:
        return np.zeros((nodes, 2, BINS))
    node = tree.find(history.features)
    counts = count_answers(node, history.length, history.ended, history.weight, nodes)
    add_to_parents(counts, tree.parent)
    total = counts.sum(axis=(1, 2), keepdims=True)
    return np.asarray(counts * np.minimum(1.0, HISTORY / np.maximum(total, 1e-9)))


def _log_uniform(longest: int) -> Float64:
    edges = np.array([max(1, first_of(b)) for b in range(BINS + 1)], np.float64)
    chance = np.log(edges[1:] / edges[:-1])
    chance[bin_of(float(longest)) + 1 :] = 0.0
    return np.asarray(chance / chance.sum())
