"""Planning again while a run goes on: what remains, with the lengths that the answers so far suggest.

A run looks at its answers now and then (`Watch`). Each time running requests get a new expected length; if
the expected memory work of the waiting ones has moved by more than `DRIFT`, they are ordered anew. That costs
the tree of the remaining requests, not a sort of their prompts. It changes when a request is answered, never
how: answers depend on neither order nor estimates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from engine.plan.length_model import LengthModel
from engine.plan.lengths import UNKNOWN_FRACTION
from engine.plan.order import arrange, leaf_of
from engine.plan.policies import Plan, plan_tree
from engine.plan.sampled import subtree_means
from engine.plan.tree import PrefixTree, link_tree

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.arrays import Bool, Float64, Int8, Int32, Int64
    from engine.cost.step import DeviceProfile, ModelShape

DRIFT: Final = 0.1
"""Change of the expected memory work of waiting requests, relative to all of it, from which they are ordered
anew."""
FIRST_LOOK: Final = 16
"""Finished answers before the first look."""
GROWTH: Final = 1.5
"""A look is due when finished answers or generated tokens have grown by this factor since the last one."""
STRIDE: Final = 0.05
"""Or by this part of all requests, or of all expected tokens."""


class Watch:
    """Decides when a run looks at its answers.

    Attributes
    ----------
    at
        int64 [2]: finished answers and generated tokens at which the next look is due, whichever comes first.
    """

    def __init__(self, requests: int, expected_tokens: float) -> None:
        self._most = np.array([requests, max(expected_tokens, 1.0)])
        first = np.array([FIRST_LOOK, max(STRIDE / 4 * expected_tokens, 1.0)])
        self.at: Int64 = np.minimum(first, np.maximum(self._most / 4, 1.0)).astype(np.int64)

    def due(self, finished: int, tokens: int) -> bool:
        """Return whether to look now."""
        return bool(finished >= self.at[0] or tokens >= self.at[1])

    def looked(self, finished: int, tokens: int) -> None:
        """Set the next look."""
        now = np.array([finished, tokens], np.float64)
        step = np.minimum((GROWTH - 1.0) * np.maximum(now, self.at), STRIDE * self._most)
        self.at = (now + np.maximum(step, 1.0)).astype(np.int64)


class Revision(NamedTuple):
    """What a look found.

    Attributes
    ----------
    estimate
        float64 [N], tokens: expected lengths of all requests.
    plan
        The waiting requests in their new order; None if the old one stays.
    """

    estimate: Float64
    plan: Plan | None


@dataclass(frozen=True)
class Replanning:
    """All it takes to plan the remaining requests of a plan again.

    Attributes
    ----------
    policy, seed
        As in `engine.plan.policies.make_plan`.
    tree
        Of the prompts of all N requests.
    limit
        int64 [N], tokens: most output tokens.
    segment
        int64 [N]: segments in their order; None: all are one.
    group
        int64 [N]: workloads, for policy `interleave`.
    model
        For the estimator `combined`; None is `sampled`.
    sample
        int32 [n]: the requests that are answered first.
    prefill_only
        bool [N]: requests of which the prompt alone is computed; None: no request.
    """

    policy: str
    seed: int
    tree: PrefixTree
    limit: Int64
    segment: Int64 | None
    group: Int64 | None
    model: LengthModel | None
    sample: Int32
    prefill_only: Bool | None = None

    def estimate(self, generated: Int32, ended: Int8) -> Float64:
        """Return the length that every request is scheduled by, float64 [N], tokens.

        That is its expectation as if it had just begun, until the answer has outgrown it; only then
        E[d | d > generated]. Drawn from the latter at once, the forecast of memory would count every running
        answer as long and every waiting one as average, and leave memory idle.

        Parameters
        ----------
        generated
            int32 [N], tokens generated so far.
        ended
            int8 [N]: 1 for answers that ended by themselves.
        """
        found = self._estimate(generated, ended)
        return found if self.prefill_only is None else np.where(self.prefill_only, 0.0, found)

    def _estimate(self, generated: Int32, ended: Int8) -> Float64:
        if self.model is not None:
            fit = self.model.fit(generated, ended)
            return np.asarray(np.where((ended == 1) | (fit.start <= generated), fit.mean, fit.start))
        sampled = np.zeros(self.limit.shape[0], np.bool_)
        sampled[self.sample] = True
        limit = self.limit.astype(np.float64)
        if self.prefill_only is not None:
            sampled &= ~self.prefill_only
        known = sampled & (generated > 0)
        found = subtree_means(
            self.tree.sorted, self.tree.parent, generated.astype(np.float64), known, limit, UNKNOWN_FRACTION
        )
        return np.asarray(np.maximum(found, generated))

    def look(
        self,
        waiting: Int32,
        generated: Int32,
        ended: Int8,
        before: Float64,
        shape: ModelShape,
        device: DeviceProfile,
    ) -> Revision:
        """Return new estimates, and a new order of the waiting requests if they have moved enough.

        Parameters
        ----------
        waiting
            int32 [n]: requests that have not begun.
        generated, ended
            See `estimate`.
        before
            float64 [N]: the estimates that the present order was made with.
        """
        estimate = self.estimate(generated, ended)
        n = self.tree.sorted.shape[0]
        prompt = np.empty(n)
        prompt[self.tree.sorted] = self.tree.depth[:n]
        new = shape.request_kv_bytes(prompt[waiting], estimate[waiting])
        old = shape.request_kv_bytes(prompt[waiting], before[waiting])
        drift = float(np.abs(new - old).sum() / max(old.sum(), 1e-9))
        if drift < DRIFT or not waiting.shape[0]:
            return Revision(estimate, None)
        return Revision(estimate, self.replan(waiting, estimate, shape, device))

    def replan(self, remaining: Int32, estimate: Float64, shape: ModelShape, device: DeviceProfile) -> Plan:
        """Return a plan of the requests `remaining` (int32 [n]); its figures per request are for all N."""
        leaves = np.sort(leaf_of(self.tree)[remaining])
        return plan_tree(
            self.policy,
            arrange(self.tree, leaves),
            estimate,
            shape,
            device,
            self.seed,
            group=self.group,
            priority=None if self.segment is None else -self.segment,
        )

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return all of it as arrays."""
        n = self.limit.shape[0]
        found: dict[str, npt.NDArray[np.generic]] = {
            "policy": np.array(self.policy),
            "seed": np.array(self.seed),
            "sorted": self.tree.sorted,
            "lengths": self.tree.depth[:n],
            "common": self.tree.common,
            "limit": self.limit,
            "sample": self.sample,
        }
        optional = {"segment": self.segment, "group": self.group, "prefill_only": self.prefill_only}
        found.update({name: value for name, value in optional.items() if value is not None})
        if self.model is not None:
            found.update({f"model_{name}": value for name, value in self.model.arrays().items()})
        return found

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> Replanning:
        """Return what `arrays` was made from."""
        prefix = "model_"
        model = {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}
        tree = link_tree(arrays["sorted"], arrays["lengths"], arrays["common"])  # type: ignore[arg-type]
        return cls(
            policy=str(arrays["policy"]),
            seed=int(arrays["seed"].item()),
            tree=tree,
            limit=arrays["limit"],  # type: ignore[arg-type]
            segment=arrays.get("segment"),  # type: ignore[arg-type]
            group=arrays.get("group"),  # type: ignore[arg-type]
            model=LengthModel.from_arrays(model) if model else None,
            sample=arrays["sample"],  # type: ignore[arg-type]
            prefill_only=arrays.get("prefill_only"),  # type: ignore[arg-type]
        )
