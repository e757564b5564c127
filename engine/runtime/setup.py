"""Makes the runner of a job: which one, and with how much KV memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from engine.cost.devices import cpu_kv_tokens
from engine.runtime.cpu.runner import CpuRunner
from engine.runtime.device.memory import CudaMemory, DeviceMemory, measured_kv_tokens
from engine.runtime.device.runner import DeviceRunner

if TYPE_CHECKING:
    from engine.cost.step import StepCost
    from engine.models.decoder import Decoder
    from engine.runtime.device.attention import AttentionOps
    from engine.runtime.device.overlap import Overlap
    from engine.runtime.state.runner import Runner


@dataclass(frozen=True)
class RunnerSizes:
    """What a runner is made for.

    Attributes
    ----------
    kv_tokens
        KV memory in tokens; None: as much as there is room for and the requests can use.
    page_size, token_budget, max_sequences
        See `engine.runtime.core.EngineSettings`.
    longest
        Most tokens of one sequence, answer included.
    least, most
        KV tokens below which the longest sequence does not fit, and above which they are of no use.
    """

    kv_tokens: int | None
    page_size: int
    token_budget: int
    max_sequences: int
    longest: int
    least: int
    most: int


def make_runner(
    decoder: Decoder,
    sizes: RunnerSizes,
    kv_bytes_per_token: int,
    *,
    fp8_kv: bool = False,
    memory: DeviceMemory | None = None,
    ops: AttentionOps | None = None,
    overlap: Overlap | None = None,
    cascade: StepCost | None = None,
) -> Runner:
    """Return the runner for the decoder's device.

    Parameters
    ----------
    fp8_kv
        Whether the KV cache is in e4m3, on a device that is not the CPU.
    memory, ops
        Of a device that is not CUDA, for tests; with neither, the CPU runner is taken there.
    overlap
        How steps run in two nano-batches; None leaves them whole. Not used by jobs until it is measured.
    cascade
        See `engine.runtime.device.runner.DeviceRunner`.

    Raises
    ------
    CapacityError
        If a GPU has no room for KV memory.
    """
    device = decoder.weights.embed.device
    if device.type == "cpu" and memory is None:
        chosen = sizes.kv_tokens or cpu_kv_tokens(kv_bytes_per_token, sizes.least, sizes.most)
        return CpuRunner(decoder, chosen, sizes.page_size)
    if device.type == "cuda":
        # Streams, events and graphs are made on the current device.
        torch.cuda.set_device(device)
    memory = memory or CudaMemory(device)

    def runner(kv_tokens: int) -> DeviceRunner:
        return DeviceRunner(
            decoder,
            kv_tokens,
            sizes.page_size,
            sizes.token_budget,
            sizes.max_sequences,
            sizes.longest,
            ops=ops,
            kv_dtype=torch.float8_e4m3fn if fp8_kv else None,
            overlap=overlap,
            cascade=cascade,
        )

    kv_tokens = sizes.kv_tokens
    if kv_tokens is None:
        # Its cache is one page for padding; everything else is of the size it will have.
        trial = runner(0)
        room = measured_kv_tokens(
            memory, (trial.warm_forward, trial.warm_sampling), kv_bytes_per_token, sizes.page_size
        )
        del trial
        # Too little room is refused with its reason when the engine checks it against the requests.
        kv_tokens = min(room, max(sizes.most, sizes.least))
    made = runner(kv_tokens)
    made.capture()
    return made
