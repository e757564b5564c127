"""The evidence on real text: 500 MMLU questions and 50 long answers, under every policy.

Every greedy answer equals transformers' own, token for token; the published files account for every line;
and the hit rates in the engine's cache are what the orders promise.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine.cost.step import NOMINAL, ModelShape
from engine.models.config import load_config
from engine.plan.policies import POLICIES, make_plan
from engine.runtime.core import EngineSettings
from engine.simulate.simulate import simulate
from tasks.infer.infer import infer
from tasks.plan.plan import plan
from tasks.plan.work import load_work
from tasks.profile.profile import profile
from tasks.publish.publish import publish
from tasks.runlog.places import publication_prefix
from tests.support.demo_nights import batch_line, night_request, opened, write_lines
from tests.support.mmlu import mmlu_lines, texts
from tests.support.nights import read_published
from tests.support.paths import DEMO_MODEL

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
TIE = 1e-4
# One workload, where an interleave of workloads is depth-first.
NIGHTS = sorted(set(POLICIES) - {"interleave"})


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return mmlu_lines()


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def prompts(lines) -> dict[str, list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    rendered = {
        name: tokenizer.apply_chat_template(body["messages"], tokenize=False, add_generation_prompt=True)
        for name, body in texts(lines).items()
    }
    return {name: tokenizer(text, add_special_tokens=False)["input_ids"] for name, text in rendered.items()}


@pytest.fixture(scope="module")
def expected(lines, model, prompts) -> dict[str, list[int]]:
    """What transformers generates, request by request."""
    answers = {}
    for name, body in texts(lines).items():
        ids = torch.tensor([prompts[name]])
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=body["max_tokens"],
                eos_token_id=-1 if body.get("ignore_eos") else model.config.eos_token_id,
            )
        answers[name] = out[0, ids.shape[1] :].tolist()
    return answers


@pytest.fixture(scope="module")
def kv_tokens(lines, prompts) -> int:
    """2.5 % of all prompt tokens, but 1.2 times the longest request."""
    longest = max(len(prompts[name]) + body["max_tokens"] for name, body in texts(lines).items())
    return int(max(0.025 * sum(map(len, prompts.values())), 1.2 * longest))


@pytest.fixture(scope="module")
def nights(lines, kv_tokens, tmp_path_factory) -> dict[str, dict]:
    """Every policy's night, extracted to published: what the tests below look at."""
    seen = {}
    for policy in NIGHTS:
        root = tmp_path_factory.mktemp(policy)
        # A second copy of one line, a broken one and an unsupported one have their place in the accounts.
        odd = [lines[0], lines[1][:40], batch_line("tools", "Hello", tools=[{"type": "function"}])]
        write_lines(root / "logs", "day.jsonl", [*lines, *odd])
        request = night_request(root, policy=policy, kv_tokens=kv_tokens, part_answers=100)
        with opened(request, root / "scratch") as night:
            profile(night)
            plan(night)
            results = infer(night)
            published = publish(night)["publication_id"]
            seen[policy] = {
                "infer": results,
                "published": read_published(
                    night.store,
                    publication_prefix(night.job, night.run_date, published),
                    root / "published",
                ),
                "outputs": night.read_table("outputs").to_pylist(),
                "work": load_work(night),
            }
    return seen


@pytest.mark.parametrize("policy", NIGHTS)
def test_answers_equal_transformers(policy, nights, expected, prompts, model):
    ties = []
    for row in nights[policy]["outputs"]:
        name = row["custom_id"]
        got, want = row["token_ids"], expected[name]
        if got == want:
            continue
        place = next(i for i, (a, b) in enumerate(zip(got, want, strict=False)) if a != b)
        with torch.inference_mode():
            logits = model(torch.tensor([prompts[name] + want[:place]])).logits[0, -1]
        best = logits.topk(2).values
        assert best[0] - best[1] < TIE, f"{name} differs at token {place}"
        ties.append(name)
    print(f"\n{policy}: {len(nights[policy]['outputs'])} answers, {len(ties)} differ at a tie of the logits")
    assert len(ties) <= 0.005 * len(expected)


@pytest.mark.parametrize("policy", NIGHTS)
def test_the_published_files_account_for_every_line(policy, nights):
    # `read_published` has checked the equations; these are the numbers.
    published = nights[policy]["published"]
    counts = [len(published["output"]), len(published["errors"]), published["quarantine_table"].num_rows]
    assert counts == [551, 1, 1]


def test_hit_rates(nights, kv_tokens):
    """dfs at the optimum for its memory, blend at least 99 % of dfs, random at most 0.7 of it."""
    work, rows = nights["dfs"]["work"], nights["dfs"]["outputs"]
    chosen = [members[0] for members in work.members.values()]
    tokens, start = work.prompts(chosen)
    length = {row["request_id"]: len(row["token_ids"]) for row in rows}
    output = np.array([length[work.rows[i]["request_id"]] for i in chosen], np.int32)
    shape = ModelShape.of(load_config(DEMO_MODEL))
    best = make_plan("dfs", tokens, start, output.astype(float), shape, NOMINAL["cpu"])
    settings = EngineSettings(kv_tokens=kv_tokens, token_budget=1024, max_sequences=128)
    optimum = simulate(best, tokens, start, output, settings).hit_rate
    rate = {policy: night["infer"]["hit_rate"] for policy, night in nights.items()}
    print(f"\nunlimited memory {best.hit_rate_optimum:.4f}, this memory {optimum:.4f}, measured {rate}")
    assert rate["dfs"] == pytest.approx(optimum, rel=1e-3)
    assert rate["blend"] >= 0.99 * rate["dfs"]
    assert rate["random"] <= 0.7 * rate["dfs"]
