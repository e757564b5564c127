"""The operations of the model, one per file, each with its formula and its torch reference.

The runner calls operations only through this package. On the CPU the reference runs; it is also the
oracle that any other implementation is tested against.
"""

from engine.kernels.attention import AttentionGroup, causal_mask, gather_scratch, paged_attention
from engine.kernels.experts import mixture
from engine.kernels.gather_rows import gather_rows
from engine.kernels.kv import copy_kv_prefix, store_kv
from engine.kernels.next_token import TokenMasks, allowed, draw, greedy
from engine.kernels.qk_rope_store import qk_rope_store
from engine.kernels.rms_norm import add_rms_norm, rms_norm
from engine.kernels.rope import apply_rope, rope_table
from engine.kernels.silu import silu_and_mul

__all__ = [
    "AttentionGroup",
    "TokenMasks",
    "add_rms_norm",
    "allowed",
    "apply_rope",
    "causal_mask",
    "copy_kv_prefix",
    "draw",
    "gather_rows",
    "gather_scratch",
    "greedy",
    "mixture",
    "paged_attention",
    "qk_rope_store",
    "rms_norm",
    "rope_table",
    "silu_and_mul",
    "store_kv",
]
