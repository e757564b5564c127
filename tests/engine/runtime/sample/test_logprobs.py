"""Log probabilities against transformers, and the bytes of single tokens against the decoded text."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders
from tokenizers import models as token_models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from engine.runtime.sample.logprobs import LOWEST, measure
from engine.runtime.sample.settings import Sampling
from engine.runtime.sample.token_text import TokenText
from tests.support.engines import run_engine, some_prompts
from tests.support.models import decoder_of, reference_model
from tests.support.paths import DEMO_MODEL


def expected(model: torch.nn.Module, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Log probabilities of every token at each place of the answer, [n, vocab]."""
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + answer])).logits[0]
    return logits[len(prompt) - 1 : -1].log_softmax(-1)


@pytest.mark.parametrize("kv_tokens", [4096, 112])
def test_logprobs_are_those_of_the_model_itself(kv_tokens: int) -> None:
    """Sampled at a temperature with a nucleus, in mixed batches, also where memory forces preemptions."""
    model = reference_model("llama")
    prompts = some_prompts(4, 12)
    asked = [None, 0, 3, 20] * 3
    sampling = [
        Sampling(max_tokens=20, temperature=0.7 * (i % 2), top_p=0.8, seed=i, ignore_eos=True, logprobs=k)
        for i, k in enumerate(asked)
    ]
    engine, done = run_engine(decoder_of(model), prompts, sampling, "blend", kv_tokens=kv_tokens)
    assert (engine.counters()["preemptions"] > 0) == (kv_tokens < 4096)
    for i, k in enumerate(asked):
        found = done[i].logprobs
        if k is None:
            assert found is None
            continue
        answer = done[i].token_ids.tolist()
        reference = expected(model, prompts[i], answer)
        chosen = reference[torch.arange(len(answer)), answer]
        assert found.chosen.tolist() == pytest.approx(chosen.tolist(), abs=1e-4)
        assert found.top_ids.shape == found.top.shape == (len(answer), k)
        values = reference.topk(k).values if k else torch.empty(len(answer), 0)
        assert np.allclose(found.top, values.numpy(), atol=1e-4)
        assert np.allclose(reference.gather(1, torch.from_numpy(found.top_ids).long()), found.top, atol=1e-4)


def test_asking_for_logprobs_does_not_change_the_answer() -> None:
    decoder, prompts = decoder_of(reference_model("llama")), some_prompts(5, 9)
    plain = [Sampling(max_tokens=8, temperature=1.0, seed=i) for i in range(9)]
    asking = [Sampling(max_tokens=8, temperature=1.0, seed=i, logprobs=2) for i in range(9)]
    answers = [run_engine(decoder, prompts, settings)[1] for settings in (plain, asking)]
    for i in range(9):
        assert answers[0][i].token_ids.tolist() == answers[1][i].token_ids.tolist()


def test_an_impossible_token_has_a_finite_logprob() -> None:
    logits = torch.tensor([[0.0, -torch.inf, 0.0]])
    found = measure(logits, torch.tensor([1]), 5)
    assert found.chosen.tolist() == [LOWEST]
    assert found.top[0].tolist() == pytest.approx([np.log(0.5), np.log(0.5), LOWEST])


def test_a_nearly_certain_token_keeps_its_digits() -> None:
    logits = torch.tensor([[40.0, 27.0, 26.5]])
    expected = logits.double().log_softmax(-1)[0, 0].item()
    assert -1e-4 < expected < -1e-6
    assert measure(logits, torch.tensor([0]), 1).chosen.item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("text", ["Plain words, 12.5 %", "naïve — 東京 🚀\n\ttabs  spaces"])
def test_bytes_of_byte_level_tokens_join_to_the_text(text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    token_bytes = TokenText(tokenizer)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert b"".join(token_bytes(i) for i in ids) == text.encode()
    added = tokenizer.get_added_vocab()
    assert added
    assert all(token_bytes(i) == name.encode() for name, i in added.items())
    assert token_bytes(10**6) == b""


def test_bytes_in_the_manner_of_sentencepiece() -> None:
    vocab = {"<unk>": 0, "▁Gr": 1, "<0xC3>": 2, "<0xBC>": 3, "ß": 4, "▁": 5}
    backend = Tokenizer(token_models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    token_bytes = TokenText(tokenizer)
    ids = [1, 2, 3, 4, 5]
    assert b"".join(token_bytes(i) for i in ids).decode() == tokenizer.decode(ids) == " Grüß "
