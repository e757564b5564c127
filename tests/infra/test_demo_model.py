import pytest
import questions as q
import tokenizer as tk
import train_model as t


@pytest.fixture(scope="module")
def loaded():
    return t.load()


def test_folder_is_small():
    assert sum(path.stat().st_size for path in t.FOLDER.iterdir()) <= 8 * 2**20
    assert (t.FOLDER / "MODEL.md").exists()


def test_task_words_and_numbers_are_single_tokens(loaded):
    _, tokenizer = loaded
    words = [*q.WORDS, *q.FILLERS, *q.CATEGORIES, *map(str, range(q.LARGEST_NUMBER + 1))]
    assert all(len(tokenizer.encode(f" {word}", add_special_tokens=False)) == 1 for word in words)


@pytest.mark.parametrize(
    "text", ["", "plain", "tab\tand\n\nlines  and   spaces ", "naïve 東京 🙂", "1234567 8.9"]
)
def test_any_text_survives_the_tokenizer(loaded, text):
    _, tokenizer = loaded
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_chat_template_and_special_tokens(loaded):
    model, tokenizer = loaded
    text = tokenizer.apply_chat_template(
        [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert text == "<|bos|><|system|>s<|end|><|user|>u<|end|><|assistant|>"
    assert tokenizer.eos_token == tk.END
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert len(tokenizer) == model.config.vocab_size
    assert tokenizer("x").input_ids[0] == tokenizer.bos_token_id


@pytest.mark.parametrize(("task", "goal"), [("pick", 0.95), ("find", 0.9), ("count", 0.8)])
def test_held_out_prompts_are_answered(loaded, task, goal):
    model, tokenizer = loaded
    asked = q.held_out_questions(task, 32, seed=1)
    assert t.exact_match(model, tokenizer, asked) >= goal
    assert t.exact_match(model, tokenizer, asked[:16], plain=True) >= goal
