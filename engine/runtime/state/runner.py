"""What a model runner is: what the loop launches steps on, what it asks of a step and what comes back.

`engine.runtime.cpu.runner` is the reference, `engine.runtime.device.runner` that of a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.arrays import Float32, Int32, Int64
    from engine.models.decoder import Decoder
    from engine.runtime.sample.logprobs import Measured
    from engine.runtime.sample.penalties import Prompts
    from engine.runtime.sample.settings import Sampling
    from engine.runtime.state.slots import Slots
    from engine.runtime.state.work import Work


@dataclass(frozen=True)
class LogprobWish:
    """Which samples of a step need log probabilities: int64 [r] row indices, and most alternatives."""

    rows: Int64
    top: int


@dataclass(frozen=True)
class MaskWish:
    """Which samples of a step may take some tokens only.

    Attributes
    ----------
    rows
        int64 [m]: indices of the samples.
    words
        Of a mask: bit ``i % 32`` of word ``i // 32`` is set if token i is allowed.
    fill
        Writes the masks into the first m rows of an int32 array [at least m, words]. It waits for the step
        before, so a runner calls it as late as it can: when all but the sampling has been launched.
    """

    rows: Int64
    words: int
    fill: Callable[[Int32], None]


@dataclass(frozen=True)
class StepResult:
    """What a step sampled: int64 [R] token ids, and log probabilities of the rows wished for.

    `embeddings` are by sample, of those whose requests want one; their token ids say nothing.
    """

    tokens: Int64
    logprobs: Measured | None
    embeddings: dict[int, Float32] = field(default_factory=dict)


class Launched(Protocol):
    """A step that is being computed.

    Attributes
    ----------
    nano_batches
        Parts that it was cut into; each reads the weights.
    """

    @property
    def nano_batches(self) -> int: ...  # noqa: D102 - described by the class

    def wait(self) -> StepResult:
        """Return its result; to be called once, in the order of the launches."""
        ...


class Runner(Protocol):
    """Computes steps in the order of their launches.

    Attributes
    ----------
    lag
        How many steps may be in flight when the next one is launched: 0 or 1. With 1, `launch` must return
        before the step is computed, and takes `PLACEHOLDER` tokens from the step before by itself.
    kv_tokens, page_size
        Size of the KV memory and of its pages, in tokens.
    decoder
        The model.
    """

    lag: int
    kv_tokens: int
    page_size: int
    decoder: Decoder

    def begin(self, sampling: Sequence[Sampling], slots: Slots, prompts: Prompts | None = None) -> None:
        """Prepare for a run over requests with these settings in these slots.

        Their prompts are given if any of them looks at its tokens (`engine.runtime.sample.penalties`).
        """
        ...

    def launch(
        self,
        work: Work,
        slots: Slots,
        requests: Int64,
        wish: LogprobWish,
        masks: MaskWish | None = None,
    ) -> Launched:
        """Start a step; `work` and `slots` may change once this returns.

        Parameters
        ----------
        requests
            int64 [R]: the request of each sampled row.
        masks
            Which samples may take some tokens only; None: none.
        """
        ...
