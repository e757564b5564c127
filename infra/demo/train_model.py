"""Train the demo's tiny Llama-architecture model on the three tasks of `questions.py`.

    python infra/demo/train_model.py --compile     # train and write infra/demo/model
    python infra/demo/train_model.py --evaluate    # exact match of the written model on held-out prompts

`rows.py` says what it is trained on and why. A stopped training goes on from its last state.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path
from typing import TYPE_CHECKING

import questions as q
import tokenizer as tk
import torch
from muon import Muon
from rows import KINDS, Batch, Rows

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

FOLDER = Path(__file__).parent / "model"
LEARNING_RATE = 3e-3
WARM_UP_STEPS = 60
DECAY_SHARE = 0.3
REPORT_STEPS = 50
SAVE_STEPS = 250


def new_model() -> LlamaForCausalLM:
    """Make the untrained model."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=tk.VOCABULARY,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=8192,
            rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )


class Training:
    """A model in training with its optimizers, which can be saved and continued."""

    def __init__(self, seed: int, *, compiled: bool) -> None:
        torch.manual_seed(seed)
        self.model = new_model()
        named = list(self.model.named_parameters())
        matrices = [value for name, value in named if value.ndim == 2 and "embed" not in name]
        others = [value for name, value in named if value.ndim != 2 or "embed" in name]
        self.optimizers = [
            Muon(matrices, lr=LEARNING_RATE),
            torch.optim.AdamW(others, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.step = 0
        self.body = torch.compile(self.model.model, dynamic=False) if compiled else self.model.model
        self.right = torch.zeros(len(KINDS), 2)

    def update(self, batch: Batch, rate: float) -> float:
        """Do one step at a learning rate, and give its loss per row."""
        hidden = self.body(input_ids=batch.ids, use_cache=False).last_hidden_state
        scored = batch.weights[:, 1:] > 0
        logits = self.model.lm_head(hidden[:, :-1][scored])
        targets, weights = batch.targets[:, 1:][scored], batch.weights[:, 1:][scored]
        losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        loss = (losses * weights).sum() / len(batch.ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        kinds = batch.kinds[:, None].expand(scored.shape)[scored]
        ordinary = targets > self.model.config.eos_token_id
        self.right[:, 0] += torch.bincount(
            kinds[ordinary & (logits.argmax(-1) == targets)], minlength=len(KINDS)
        )
        self.right[:, 1] += torch.bincount(kinds[ordinary], minlength=len(KINDS))
        return loss.item()

    def report(self) -> str:
        """Give the share of scored tokens predicted right since the last report, per kind of row."""
        shares = (self.right[:, 0] / self.right[:, 1].clamp(min=1)).tolist()
        self.right.zero_()
        return " ".join(f"{kind} {share:.3f}" for kind, share in zip(KINDS, shares, strict=True))

    def save(self, path: Path) -> None:
        """Write the state."""
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        torch.save({"step": self.step, "model": self.model.state_dict(), "optimizers": optimizers}, path)

    def load(self, path: Path) -> None:
        """Read the state."""
        state = torch.load(path)
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)


def learning_rate(step: int, steps: int) -> float:
    """Warm up, stay, and fall linearly to 1 % in the last part."""
    return LEARNING_RATE * min(1.0, (step + 1) / WARM_UP_STEPS, max(0.01, (1 - step / steps) / DECAY_SHARE))


def train(folder: Path, steps: int, seed: int, state: Path, *, compiled: bool) -> None:
    """Train up to `steps` steps, going on from `state` where it exists, and write the model to `folder`."""
    tokenizer = tk.train_tokenizer()
    training = Training(seed, compiled=compiled)
    if state.exists():
        training.load(state)
    # A continued training must not draw the same rows again.
    rows = Rows(tokenizer, f"train {seed} {training.step}")
    began, losses = time.monotonic(), []
    while training.step < steps:
        batch = rows.batch(training.step / steps)
        losses.append(training.update(batch, learning_rate(training.step, steps)))
        if training.step % REPORT_STEPS == 0:
            loss = sum(losses) / len(losses)
            seconds = time.monotonic() - began
            print(f"step {training.step} loss {loss:.3f} {training.report()} {seconds:.0f} s", flush=True)
            losses.clear()
        if training.step % SAVE_STEPS == 0 or training.step == steps:
            training.save(state)
    save(training.model, tokenizer, folder)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a model (as float16) and its tokenizer, readable by every user."""
    copy.deepcopy(model).to(torch.float16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = folder / "tokenizer_config.json"
    # transformers 5 writes a class name of its own, which earlier versions and other readers do not know.
    text = settings.read_text(encoding="utf-8").replace('"TokenizersBackend"', '"PreTrainedTokenizerFast"')
    settings.write_text(text, encoding="utf-8")
    (folder / "model.safetensors").chmod(0o644)


def load(folder: Path = FOLDER) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Load a written model (as float32) and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def exact_match(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    asked: list[q.Question],
    *,
    plain: bool = False,
    batch: int = 16,
) -> float:
    """Give the share of questions answered right by greedy decoding, as chats or as plain completions."""
    right = 0
    order = sorted(asked, key=lambda question: len(question.prompt) + len(question.answer))
    for begin in range(0, len(order), batch):
        part = order[begin : begin + batch]
        prompts = [
            tk.BOS + question.completion_prompt
            if plain
            else tokenizer.apply_chat_template(question.messages, tokenize=False, add_generation_prompt=True)
            for question in part
        ]
        inputs = tokenizer(prompts, padding=True, add_special_tokens=False, return_tensors="pt")
        longest = max(question.answer.count(" ") for question in part) + 8
        with torch.inference_mode():
            output = model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=longest,
                do_sample=False,
            )
        texts = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        right += sum(text.strip() == question.answer for text, question in zip(texts, part, strict=True))
    return right / len(asked)


def evaluate(folder: Path, per_task: int) -> None:
    """Print the exact match per task of a written model on held-out prompts."""
    model, tokenizer = load(folder)
    for task in q.TASKS:
        asked = q.held_out_questions(task, per_task)
        chat, plain = (exact_match(model, tokenizer, asked, plain=plain) for plain in (False, True))
        print(f"{task}: of {per_task} held-out prompts {chat:.1%} right as chat, {plain:.1%} as completion")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train or evaluate the demo's model.")
    parser.add_argument("--evaluate", action="store_true", help="only print exact match per task")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the model is")
    parser.add_argument("--per-task", type=int, default=200, help="held-out prompts per task")
    parser.add_argument("--steps", type=int, default=3600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="use torch.compile (needs a C++ compiler)")
    parser.add_argument("--state", type=Path, default=Path(".demo/train_state.pt"), help="to continue from")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if not arguments.evaluate:
        arguments.state.parent.mkdir(parents=True, exist_ok=True)
        train(arguments.folder, arguments.steps, arguments.seed, arguments.state, compiled=arguments.compile)
    evaluate(arguments.folder, arguments.per_task)


if __name__ == "__main__":
    main()
