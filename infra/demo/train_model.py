"""Train the demo's tiny Llama-architecture model on the three tasks of `questions.py`.

    python infra/demo/train_model.py --compile       # train (about half an hour on two cores), write the model
    python infra/demo/train_model.py --evaluate      # exact match of the written model on held-out prompts

Copying a word from afar needs attention heads that find "what came after the mark". They form early when most
of the loss depends on them, so training begins with short rows and with random word sequences that repeat
(only the second copy is scored), and lengthens later. An answer weighs about the same whatever its length,
and the token that ends it has a weight of its own. A stopped training goes on from its last state.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from typing import Any

import questions as q
import torch
import tokenizer as tk
from muon import Muon

FOLDER = Path(__file__).parent / "model"
TOKENS_PER_STEP = 8192
LONGEST_ROW = 1152
LEARNING_RATE = 3e-3
WARM_UP = 60
# (share of training after which it applies, {row length: share of the steps})
CURRICULUM = (
    (0.00, {64: 0.7, 128: 0.3}),
    (0.22, {128: 0.6, 256: 0.4}),
    (0.45, {128: 0.75, 256: 0.22, LONGEST_ROW: 0.03}),
    (0.88, {128: 0.1, 256: 0.6, 512: 0.1, LONGEST_ROW: 0.2}),
)
PRACTICE_UNTIL = 0.86
# Beside the tasks: a word sequence repeated, and the table of words and categories.
KINDS = (*q.TASKS, "repeat", "table")

Segments = list[tuple[str, float, str | None]]


class Rows:
    """Draws training rows: token ids, and for each token the weight of its prediction (0 = given)."""

    def __init__(self, tokenizer: Any, seed: int | str) -> None:
        self.tokenizer = tokenizer
        self.rng = random.Random(seed)
        self.word_ids = [self.encode(f" {word}")[0] for word in q.WORDS]

    def encode(self, text: str) -> list[int]:
        return self.tokenizer._tokenizer.encode(text, add_special_tokens=False).ids  # noqa: SLF001

    def row(self, task: str, length: int) -> tuple[list[int], list[float], list[int]]:
        """Draw one row with at most `length` tokens: ids, weights, and the ids to predict in their places."""
        if task == "table":
            ids, weights = [self.encode(tk.BOS)[0]], [0.0]
            for _ in range((length - 1) // 3):
                subject = self.rng.choice(q.SUBJECTS)
                ids += self.encode(f" {self.rng.choice(q.CATEGORIES[subject])} {subject}\n")
                weights += [0.0, 3.0 / length, 0.0]
            return ids, weights, ids
        if task == "repeat":
            size = self.rng.randint(6, min(60, length // 2))
            part = self.rng.sample(self.word_ids, size)
            return part + part, [0.0] * (size + 1) + [1.0 / size**0.5] * (size - 1), part + part
        while True:
            prompt, answer, stop = getattr(self, task)(length)
            head, tail = ("<|user|>", "<|end|><|assistant|>") if self.rng.random() < 0.75 else ("", "")
            if not head and task == "count":
                prompt.append(("\nAnswer:", 0.0, None))
            ids, weights, labels = [], [], []
            segments = [(tk.BOS + head, 0.0, None), *prompt, (tail, 0.0, None), (*answer, None), (tk.END, stop, None)]
            for text, weight, label in segments:
                new = self.encode(text)
                ids += new
                weights += [weight] * len(new)
                labels += self.encode(label) if label else new
            if len(ids) <= length:
                return ids, weights, labels

    def choice(self, text: str, letter: str) -> Segments:
        """Cut a question so that behind each option its letter is to be predicted if right, else padding."""
        segments: Segments = []
        for line in text.split("\n")[:-1]:
            segments.append((line, 0.0, None))
            option = line[:2] in {f"{known}." for known in q.LETTERS}
            segments.append(("\n", 0.4 if option else 0.0, (letter if line[0] == letter else tk.PAD) if option else None))
        return [*segments, ("Answer:", 0.0, None)]

    def pick(self, length: int) -> tuple[Segments, tuple[str, float], float]:
        room = (length - 26) // 32
        subject = self.rng.choice(q.SUBJECTS)
        prompt: Segments = [(q.pick_header(subject), 0.0, None)]
        fixed = room >= q.SHOTS + 1 and self.rng.random() < 0.5
        shots = q.pick_shots(subject) if fixed else [q.multiple_choice(self.rng, subject) for _ in range(room - 1)]
        for text, letter in shots:
            prompt += [*self.choice(text, letter), (f" {letter}", 0.0 if fixed else 0.6, None), ("\n\n", 0.0, None)]
        text, letter = q.multiple_choice(self.rng, subject)
        return [*prompt, *self.choice(text, letter)], (f" {letter}", 1.0), 0.2

    def find(self, length: int) -> tuple[Segments, tuple[str, float], float]:
        most = min(q.LONGEST_TEXT, int((length - 32) * 0.97))
        question = q.find(self.rng, self.rng.randint(max(2, most // 4), most))
        return [(question.prompt, 0.0, None)], (f" {question.answer}", 1.5), 0.2

    def count(self, length: int) -> tuple[Segments, tuple[str, float], float]:
        most = min(q.LONGEST_COUNT, length - 18)
        # Half of the spans are short, so that ends are met often.
        span = min(self.rng.randint(2, most), self.rng.randint(2, most)) if self.rng.random() < 0.5 else None
        question = q.count(self.rng, span or self.rng.randint(2, most), held_out=False)
        weight = 1.0 / (question.answer.count(" ") + 1) ** 0.5
        return [(question.prompt, 0.0, None)], (f" {question.answer}", weight), 2.0

    def batch(self, length: int, progress: float) -> tuple[torch.Tensor, ...]:
        """Draw a batch: ids, weights and labels, all [rows, length], and the index of every row's kind."""
        if length > 256:
            shares = [0.0, 1.0, 0.0, 0.0, 0.0]
        elif progress < PRACTICE_UNTIL:
            shares = [0.72, 0.08, 0.1, 0.0, 0.1]
        else:
            shares = [0.45, 0.22, 0.25, 0.0, 0.08]
        size = TOKENS_PER_STEP // length
        chosen = self.rng.choices(range(len(KINDS)), shares, k=size)
        ids = torch.zeros(size, length, dtype=torch.long)
        labels = ids.clone()
        weights = torch.zeros(size, length)
        for index, task in enumerate(chosen):
            row, weight, label = self.row(KINDS[task], length)
            ids[index, : len(row)] = torch.tensor(row)
            weights[index, : len(row)] = torch.tensor(weight)
            labels[index, : len(row)] = torch.tensor(label)
        return ids, weights, labels, torch.tensor(chosen)


def new_model() -> Any:
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


def draw_length(rng: random.Random, progress: float) -> int:
    """Draw the row length of a step."""
    shares = [lengths for start, lengths in CURRICULUM if progress >= start][-1]
    return rng.choices(list(shares), list(shares.values()))[0]


def train(steps: int, seed: int, state_file: Path, *, compiled: bool) -> None:
    """Train up to `steps` steps, going on from `state_file` where it exists, and write `FOLDER`."""
    torch.manual_seed(seed)
    tokenizer = tk.train_tokenizer()
    model = new_model()
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = [
        Muon(matrices, lr=LEARNING_RATE),
        torch.optim.AdamW(others, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    step = 0
    if state_file.exists():
        state = torch.load(state_file)
        step = state["step"]
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
    rows = Rows(tokenizer, f"train {seed} {step}")
    body = torch.compile(model.model, dynamic=False) if compiled else model.model
    right = torch.zeros(len(KINDS), 2)
    began, losses = time.time(), []
    while step < steps:
        progress = step / steps
        rate = LEARNING_RATE * min(1.0, (step + 1) / WARM_UP, max(0.02, (1 - progress) / 0.2))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        length = draw_length(rows.rng, progress)
        ids, weights, labels, tasks = rows.batch(length, progress)
        hidden = body(input_ids=ids, use_cache=False).last_hidden_state
        scored = weights[:, 1:] > 0
        logits = model.lm_head(hidden[:, :-1][scored])
        targets, weight = labels[:, 1:][scored], weights[:, 1:][scored]
        loss = (torch.nn.functional.cross_entropy(logits, targets, reduction="none") * weight).sum() / len(ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
        hit = logits.argmax(-1) == targets
        task_of = tasks[:, None].expand(scored.shape)[scored]
        keep = targets > tokenizer.eos_token_id
        for task in range(len(KINDS)):
            right[task] += torch.tensor([(hit & keep & (task_of == task)).sum(), (keep & (task_of == task)).sum()])
        step += 1
        if step % 50 == 0:
            shares = (right[:, 0] / right[:, 1].clamp(min=1)).tolist()
            named = " ".join(f"{n} {s:.3f}" for n, s in zip(KINDS, shares, strict=True))
            print(f"step {step} loss {sum(losses) / len(losses):.3f} tokens right: {named} {time.time() - began:.0f}s", flush=True)
            right.zero_()
            losses.clear()
        if step % 250 == 0 or step == steps:
            save(model, tokenizer)
            torch.save(
                {"step": step, "model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers]},
                state_file,
            )


def save(model: Any, tokenizer: Any) -> None:
    """Write the model in float16 and its tokenizer to `FOLDER`."""
    import copy

    copy.deepcopy(model).to(torch.float16).save_pretrained(FOLDER)
    tokenizer.save_pretrained(FOLDER)


def exact_match(model: Any, tokenizer: Any, asked: list[q.Question], batch: int = 16) -> float:
    """Give the share of questions answered right by greedy decoding, compared after stripping white space."""
    right = 0
    order = sorted(asked, key=lambda question: len(question.prompt) + len(question.answer))
    for begin in range(0, len(order), batch):
        part = order[begin : begin + batch]
        inputs = tokenizer.apply_chat_template(
            [question.messages for question in part],
            add_generation_prompt=True,
            padding=True,
            return_tensors="pt",
            return_dict=True,
        )
        with torch.no_grad():
            longest = max(question.answer.count(" ") for question in part) + 8
            output = model.generate(
                **{k: inputs[k] for k in ("input_ids", "attention_mask")}, max_new_tokens=longest, do_sample=False
            )
        texts = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        right += sum(text.strip() == question.answer for text, question in zip(texts, part, strict=True))
    return right / len(asked)


def load(folder: Path = FOLDER) -> tuple[Any, Any]:
    """Load the written model (float32) and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def evaluate(per_task: int) -> None:
    """Print the exact match of the written model per task on held-out prompts."""
    model, tokenizer = load()
    for task in q.TASKS:
        share = exact_match(model, tokenizer, q.held_out_questions(task, per_task))
        print(f"{task}: {share:.1%} of {per_task} held-out prompts answered exactly", flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train or evaluate the demo's model.")
    parser.add_argument("--evaluate", action="store_true", help="only print exact match per task")
    parser.add_argument("--per-task", type=int, default=200, help="held-out prompts per task")
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="use torch.compile (needs a C++ compiler)")
    parser.add_argument("--state", type=Path, default=Path(".demo/train_state.pt"), help="where training can resume")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if not arguments.evaluate:
        arguments.state.parent.mkdir(parents=True, exist_ok=True)
        train(arguments.steps, arguments.seed, arguments.state, compiled=arguments.compile)
    evaluate(arguments.per_task)


if __name__ == "__main__":
    main()
