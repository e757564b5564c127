"""Launches of the attention kernels, at the sizes of Llama-3.1-8B and others, for `compile_only`."""

from __future__ import annotations

from engine.kernels.block_attention import SEARCH
from engine.kernels.cascade_attention import (
    cascade_merge_kernel,
    cascade_prefix_kernel,
    cascade_work_kernel,
)
from engine.kernels.cascade_attention import settings as cascade_settings
from engine.kernels.decode_attention import (
    decode_attention_kernel,
    decode_work_kernel,
    merge_splits_kernel,
    settings,
)
from engine.kernels.prefill_attention import prefill_attention_kernel, prefill_work_kernel
from engine.kernels.prefill_attention import settings as prefill_settings
from tests.engine.kernels.triton.compile_only import ARCHITECTURES, Spec

INTEGERS = ("count", "q_stride", "table_stride", "out_stride")
ELEMENT = {"*bf16": 2, "*fp32": 4}


def _integers(one: bool) -> dict[str, str]:
    """Types of the integers; Triton makes a constant of a count of 1."""
    return {name: "i32" for name in INTEGERS if not (one and name == "count")}


def _shape(dim: int, gqa_group: int, rows: int) -> dict[str, object]:
    width = 1 << (dim - 1).bit_length()
    return {"KV_HEADS": 8, "GQA_GROUP": gqa_group, "DIM": dim, "ROWS": rows, "WIDTH": width, "SEARCH": SEARCH}


def _decode(
    dim: int,
    *,
    page: int = 16,
    gqa_group: int = 4,
    window: int = 0,
    fp8: bool = False,
    kind: str = "*bf16",
    one: bool = False,
    shared: bool = False,
) -> Spec:
    pointers = dict.fromkeys(("table", "context", "starts", "shared"), "*i32")
    pointers |= dict.fromkeys(("scales", "partial", "logs", "prior", "prior_logs"), "*fp32")
    pointers |= {"q": kind, "cache": "*fp8e4nv" if fp8 else kind, "out": kind}
    name = f"decode_attention_{dim}_page{page}" + f"_group{gqa_group}" * (gqa_group != 4)
    return Spec(
        name
        + "_window" * (window > 0)
        + "_fp8" * fp8
        + "_float32" * (kind == "*fp32")
        + "_one" * one
        + "_shared" * shared,
        decode_attention_kernel,
        {**pointers, **_integers(one), "factor": "fp32"},
        {
            **_shape(dim, gqa_group, 16),
            **({"count": 1} if one else {}),
            "PAGE": page,
            "WINDOW": window,
            "FP8": fp8,
            "SHARED": shared,
            **settings(dim, ELEMENT[kind]),
        },
        unaligned=("count", "table_stride"),
        attention=True,
        architectures=("sm_90",) if fp8 else ("sm_80", "sm_90"),
    )


def _prefill(
    dim: int,
    architecture: str,
    *,
    page: int = 16,
    gqa_group: int = 4,
    window: int = 0,
    fp8: bool = False,
    kind: str = "*bf16",
    one: bool = False,
) -> Spec:
    pointers = dict.fromkeys(("table", "query_start", "context", "work"), "*i32")
    pointers |= {"q": kind, "cache": "*fp8e4nv" if fp8 else kind, "out": kind, "scales": "*fp32"}
    chosen = prefill_settings(dim, ELEMENT[kind], hopper=architecture == "sm_90")
    shape = _shape(dim, gqa_group, chosen.pop("ROWS"))
    name = f"prefill_attention_{dim}_page{page}" + f"_group{gqa_group}" * (gqa_group != 4)
    return Spec(
        name + "_window" * (window > 0) + "_fp8" * fp8 + "_float32" * (kind == "*fp32") + "_one" * one,
        prefill_attention_kernel,
        {**pointers, **_integers(one), "factor": "fp32"},
        {**shape, **({"count": 1} if one else {}), "PAGE": page, "WINDOW": window, "FP8": fp8, **chosen},
        unaligned=("count", "table_stride"),
        attention=True,
        architectures=(architecture,),
    )


def _cascade(
    dim: int,
    architecture: str,
    *,
    page: int = 16,
    gqa_group: int = 4,
    fp8: bool = False,
    kind: str = "*bf16",
) -> Spec:
    pointers = dict.fromkeys(("table", "shared", "members", "group_start", "starts"), "*i32")
    pointers |= dict.fromkeys(("scales", "result", "result_logs", "partial", "logs"), "*fp32")
    pointers |= {"q": kind, "cache": "*fp8e4nv" if fp8 else kind}
    integers = dict.fromkeys(("groups", "q_stride", "table_stride"), "i32")
    chosen = cascade_settings(dim, gqa_group, ELEMENT[kind], hopper=architecture == "sm_90")
    rows = chosen.pop("ROWS")
    name = f"cascade_prefix_{dim}_page{page}" + f"_group{gqa_group}" * (gqa_group != 4)
    return Spec(
        name + "_fp8" * fp8 + "_float32" * (kind == "*fp32"),
        cascade_prefix_kernel,
        {**pointers, **integers, "factor": "fp32"},
        {**_shape(dim, gqa_group, rows), "EACH": rows // gqa_group, "PAGE": page, "FP8": fp8, **chosen},
        unaligned=("groups", "table_stride"),
        attention=True,
        architectures=(architecture,),
    )


def _cascade_merge(architecture: str) -> Spec:
    chosen = cascade_settings(128, 4, hopper=architecture == "sm_90")
    shape = _shape(128, 4, chosen["ROWS"])
    return Spec(
        "cascade_merge",
        cascade_merge_kernel,
        {
            **dict.fromkeys(("shared", "members", "group_start", "starts"), "*i32"),
            **dict.fromkeys(("partial", "logs", "result", "result_logs"), "*fp32"),
            "groups": "i32",
        },
        {**shape, "EACH": 32, "PAGE": 16, "TILE": chosen["TILE"], "LEAST": 4, "num_warps": 8},
        unaligned=("groups",),
        attention=True,
        architectures=(architecture,),
    )


SPECS = [
    *(_prefill(dim, a) for dim in (64, 80, 96, 128, 256) for a in ARCHITECTURES),
    *(_prefill(128, a, page=64) for a in ARCHITECTURES),
    *(_prefill(128, a, gqa_group=7) for a in ARCHITECTURES),
    *(_prefill(128, a, window=4096) for a in ARCHITECTURES),
    _prefill(128, "sm_90", fp8=True),
    *(_prefill(dim, a, kind="*fp32") for dim in (64, 128, 256) for a in ARCHITECTURES),
    *(_prefill(128, a, one=True) for a in ARCHITECTURES),
    Spec(
        "prefill_work",
        prefill_work_kernel,
        {"query_start": "*i32", "work": "*i32", "count": "i32"},
        {"GQA_GROUP": 4, "ROWS": 128, "SEARCH": SEARCH, "num_warps": 4},
        unaligned=("count",),
        attention=True,
    ),
    *(_decode(dim) for dim in (64, 80, 96, 128, 256)),
    *(_decode(128, page=page) for page in (64, 128)),
    _decode(128, gqa_group=7),
    _decode(128, window=4096),
    _decode(128, fp8=True),
    *(_decode(dim, kind="*fp32") for dim in (64, 128, 256)),
    _decode(128, one=True),
    *(_decode(dim, shared=True) for dim in (128, 256)),
    _decode(128, fp8=True, shared=True),
    Spec(
        "decode_work",
        decode_work_kernel,
        {"context": "*i32", "shared": "*i32", "starts": "*i32", "count": "i32"},
        {"PAGE": 16, "WINDOW": 0, "SHARED": True, "TILE": 64, "SEARCH": SEARCH, "num_warps": 4},
        unaligned=("count",),
        attention=True,
    ),
    Spec(
        "merge_splits",
        merge_splits_kernel,
        {
            **dict.fromkeys(("context", "starts"), "*i32"),
            **dict.fromkeys(("partial", "logs"), "*fp32"),
            "out": "*bf16",
            "count": "i32",
            "out_stride": "i32",
        },
        {**_shape(128, 4, 16), "LEAST": 4, "num_warps": 4},
        unaligned=("count",),
        attention=True,
    ),
    *(_cascade(dim, a) for dim in (64, 80, 128, 256) for a in ARCHITECTURES),
    _cascade(128, "sm_90", page=64),
    _cascade(128, "sm_90", gqa_group=7),
    _cascade(128, "sm_90", fp8=True),
    *(_cascade(128, a, kind="*fp32") for a in ARCHITECTURES),
    Spec(
        "cascade_work",
        cascade_work_kernel,
        {**dict.fromkeys(("shared", "members", "group_start", "starts"), "*i32"), "groups": "i32"},
        {"EACH": 32, "PAGE": 16, "TILE": 64, "SEARCH": SEARCH, "num_warps": 4},
        unaligned=("groups",),
        attention=True,
    ),
    *map(_cascade_merge, ARCHITECTURES),
]
