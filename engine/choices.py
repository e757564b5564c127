"""What can be chosen, by name: order policies, length estimators, engines, precisions.

Nothing is imported here, so that a form or a command line that only offers the choices starts at once.
"""

from __future__ import annotations

from typing import Final

POLICIES: Final = {
    "fcfs": "as they arrived",
    "random": "a seeded shuffle",
    "dfs": "depth-first over the prefix tree: the most sharing",
    "blend": "compute-heavy and memory-heavy requests side by side, prefixes kept together",
    "interleave": "workloads mixed in proportion, each depth-first",
}
"""Order policy -> what it does, in a few words (`engine.plan.policies`)."""
AUTO_ORDER: Final = "auto"
ORDERS: Final = {
    AUTO_ORDER: "the fastest of blend and dfs for these requests on this device, by simulation",
    **POLICIES,
}
"""What can be asked for as an order: a policy, or that one is chosen (`engine.simulate.search`)."""

FIXED: Final = "fixed"
LOGGED: Final = "logged"
SAMPLED: Final = "sampled"
COMBINED: Final = "combined"
ESTIMATORS: Final = {
    COMBINED: "earlier nights, a sample that is answered first, and what the run shows as it goes on",
    SAMPLED: "the mean of a sample of the same prefix, which is answered first",
    LOGGED: "the length in the log, else the mean of the workload's logged lengths",
    FIXED: "half of the most output tokens",
}
"""Estimator of answer lengths -> where it takes them from, in a few words (`engine.plan.lengths`)."""

NATIVE: Final = "native"
ENDPOINT: Final = "endpoint"
VLLM: Final = "vllm"
SGLANG: Final = "sglang"
ENGINES: Final = {
    NATIVE: "our own engine, on the device of this machine",
    VLLM: "vLLM on the device of this machine, in the environment named by --engine-python",
    SGLANG: "SGLang on the device of this machine, in the environment named by --engine-python",
    ENDPOINT: "servers with an OpenAI-compatible API, named by --engine-option url=URL",
}
"""Engine -> what it is, in a few words; each is a room of `engine.backends`."""
ELSEWHERE: Final = (VLLM, SGLANG)
"""Engines that may have an interpreter of their own."""

LAST: Final = "last"
MEAN: Final = "mean"
POOLINGS: Final = {
    LAST: "the hidden state of the last token",
    MEAN: "the mean of the hidden states of all tokens",
}
"""What an embedding is made of, in a few words (`engine.runtime.sample.pooling`)."""

DTYPES: Final = ("auto", "float32", "bfloat16", "float16")
"""Precisions of the computing (`engine.cost.devices.find_dtype`)."""
KV_DTYPES: Final = ("auto", "fp8")
"""Precisions of the KV cache (`engine.cost.devices.check_kv_dtype`)."""
