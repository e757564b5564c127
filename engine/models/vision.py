"""Models with a vision tower: the decoder behind it, whose shape the plan counts with.

Our own engine does not run them; other engines do.
"""

from __future__ import annotations

from typing import Any, Final

DECODERS: Final = {
    "gemma3_text": "Qwen3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen2_5_vl_text": "Qwen2ForCausalLM",
    "qwen2_vl_text": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_vl_moe_text": "Qwen3MoeForCausalLM",
    "qwen3_vl_text": "Qwen3ForCausalLM",
}
"""`model_type` of a text model -> the supported architecture of its shape: sizes, and where windows are."""
_OF_WHOLE: Final = {"qwen2_vl": "qwen2_vl_text", "qwen2_5_vl": "qwen2_5_vl_text"}
"""Older files have the sizes of the text model beside those of the tower."""
_FLAGS: Final = ("tie_word_embeddings", "eos_token_id")


def text_model(raw: dict[str, Any]) -> dict[str, Any] | None:
    """Return the configuration of the text model behind a vision tower; None if there is no tower.

    Parameters
    ----------
    raw
        config.json.

    Returns
    -------
    dict or None
        As config.json of a text model has it, `architectures` being the one of its shape, or the model's own
        if there is none. Positions turn in another way there, which a shape does not depend on.
    """
    if not isinstance(raw.get("vision_config"), dict):
        return None
    own = raw.get("text_config")
    whole = str(raw.get("model_type"))
    text = dict(own) if isinstance(own, dict) else dict(raw)
    text.pop("vision_config", None)
    kind = str(text.get("model_type", "")) if isinstance(own, dict) else _OF_WHOLE.get(whole, whole)
    if isinstance(own, dict) and "hidden_size" not in own:
        text = _filled(kind, text)
    text |= {name: raw[name] for name in _FLAGS if name in raw}
    theta = (text.get("rope_parameters") or {}).get("rope_theta", text.get("rope_theta", 10000.0))
    text |= {"rope_parameters": None, "rope_scaling": None}
    if isinstance(theta, int | float):
        text["rope_theta"] = theta
    if "sliding_attention" in (text.get("layer_types") or []):
        text["use_sliding_window"] = True
    architecture = DECODERS.get(kind)
    return {**text, "architectures": raw.get("architectures") if architecture is None else [architecture]}


def _filled(kind: str, text: dict[str, Any]) -> dict[str, Any]:
    """Return settings with the defaults of their kind, which some files leave out."""
    from transformers import AutoConfig

    given = {name: value for name, value in text.items() if name != "model_type"}
    try:
        found: dict[str, Any] = AutoConfig.for_model(kind, **given).to_dict()
    except ValueError:
        return text
    return found
