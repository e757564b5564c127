"""Serves a model of the tests with llama.cpp, in an environment that has xllamacpp, gguf and safetensors.

    PYTHON serve.py MODEL_FOLDER GGUF_FILE [PORT]

writes the file if it is not there, and the server's address on stdout once it answers. It ends with its
standard input. Only llama models with a byte-level BPE tokenizer are written, which is what the tests have.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

NORMAL, CONTROL = 1, 3
"""Token types of GGUF."""
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
IN_LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows in the order of llama.cpp, whose rotary embedding turns neighbours instead of halves."""
    parts = weight.reshape(heads, 2, weight.shape[0] // heads // 2, weight.shape[1])
    return np.ascontiguousarray(parts.swapaxes(1, 2).reshape(weight.shape))


def write_gguf(model: Path, path: Path) -> None:
    """Write the model of a folder as float32."""
    import gguf
    from safetensors.numpy import load_file

    config: dict[str, Any] = json.loads((model / "config.json").read_text())
    tokenizer: dict[str, Any] = json.loads((model / "tokenizer.json").read_text())
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    ids = {**tokenizer["model"]["vocab"], **{one["content"]: one["id"] for one in tokenizer["added_tokens"]}}
    tokens = [f"[unused{i}]" for i in range(config["vocab_size"])]
    for token, number in ids.items():
        tokens[number] = token
    special = {one["id"] for one in tokenizer["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL if i in special else NORMAL for i in range(len(tokens))])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    writer.add_add_bos_token(value=True)
    writer.add_chat_template((model / "chat_template.jinja").read_text())
    for name, stored in load_file(model / "model.safetensors").items():
        weight = stored.astype(np.float32)
        if name in NAMES:
            writer.add_tensor(NAMES[name], weight)
            continue
        _, _, layer, rest = name.split(".", 3)
        kind = rest.removesuffix(".weight")
        heads = {"self_attn.q_proj": "num_attention_heads", "self_attn.k_proj": "num_key_value_heads"}.get(
            kind
        )
        if heads is not None:
            weight = permuted(weight, config[heads])
        writer.add_tensor(f"blk.{layer}.{IN_LAYER[kind]}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    """Serve until standard input ends."""
    import xllamacpp

    model, path = Path(sys.argv[1]), Path(sys.argv[2])
    if not path.exists():
        write_gguf(model, path)
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.model_alias = {model.name}
    params.n_parallel, params.n_ctx, params.n_predict = 4, 4 * 1024, -1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.port = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    params.warmup = False
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
