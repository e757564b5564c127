from __future__ import annotations

import json
import threading
from contextlib import suppress
from datetime import date
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tasks.base.errors import ConfigurationError, ErrorCode, RequestError
from tasks.base.schema import SCHEMAS
from tasks.profile.chat_template import ChatTemplate
from tasks.profile.tokenize import TokenizeResult, tokenize_requests
from tasks.profile.tokenizer import PromptTokenizer, load_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' and not loop.first %}{{ raise_exception('system must be first') }}{% endif %}"
    "{% if m.role != 'developer' %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<s>", "<|end|>", "<|user|>", "<|system|>", "<|assistant|>", "<|developer|>"]
CHATS = [
    [{"role": "user", "content": "Hello, wörld! 你好 🙂\n\n  spaces"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "the quick brown fox " * 20}],
    [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b<|end|>"},
        {"role": "user", "content": ""},
    ],
]


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE that adds a start token by itself, saved with truncation on."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    inner.train_from_iterator(["the quick brown fox jumps over the lazy dog. Hello world."] * 5, trainer)
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    inner.enable_truncation(8)
    folder = tmp_path_factory.mktemp("model")
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="<|end|>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(model_dir: Path) -> PromptTokenizer:
    return load_tokenizer(str(model_dir))


def request(number: int, **content: Any) -> dict[str, Any]:
    return {
        "request_id": f"{number:064d}",
        "answer_key": f"{number:064d}",
        "job": "j",
        "run_date": date(2026, 3, 1),
        "workload": "default",
        "source_uri": "s",
        "source_line": number,
        "endpoint": "chat" if "messages_json" in content else "completions",
    } | content


def tokenize(
    contents: list[dict[str, Any]], tokenizer: PromptTokenizer, out: Path, **settings: Any
) -> tuple[TokenizeResult, list[list[int]]]:
    out.mkdir()
    table = pa.Table.from_pylist(
        [request(i, **content) for i, content in enumerate(contents)], schema=SCHEMAS["requests"]
    )
    half = len(contents) // 2
    files = [out / "in0.parquet", out / "in1.parquet"]
    pq.write_table(table.slice(0, half), files[0])
    pq.write_table(table.slice(half), files[1])
    result = tokenize_requests(files, tokenizer, **{"context_length": 4096, "out": out / "out"} | settings)
    tokens, offsets = np.load(result.tokens_file), np.load(result.offsets_file)
    assert (tokens.dtype, offsets.dtype) == (np.int32, np.int64)
    assert (len(tokens), len(offsets)) == (result.tokens, result.requests + 1)
    assert offsets[0] == 0
    assert offsets[-1] == len(tokens)
    rows = pq.read_table(result.requests_file)
    assert rows.schema.equals(SCHEMAS["requests"], check_metadata=True)
    assert rows["input_tokens"].to_pylist() == np.diff(offsets).tolist()
    assert result.requests + result.errors == len(contents)
    return result, [tokens[a:b].tolist() for a, b in pairwise(offsets)]


def errors(result: TokenizeResult) -> list[tuple[int, str, str | None]]:
    rows = pq.read_table(result.errors_file)
    assert rows.schema.equals(SCHEMAS["errors"], check_metadata=True)
    return [(row["source_line"], row["code"], row["field"]) for row in rows.to_pylist()]


def test_tokens_equal_transformers_one_by_one(
    model_dir: Path, tokenizer: PromptTokenizer, tmp_path: Path
) -> None:
    oracle = AutoTokenizer.from_pretrained(model_dir)
    texts = ["plain text that is long enough to be cut by a saved limit", " ", "<s>again", "ünïcode"]
    contents = [{"messages_json": json.dumps(chat)} for chat in CHATS] * 3 + [{"prompt": t} for t in texts]
    contents.append({"token_ids": [5, 6, 7]})
    result, ids = tokenize(contents, tokenizer, tmp_path / "a", group_rows=4)
    expected = [
        list(oracle.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"])
        for chat in CHATS
    ] * 3
    expected += [list(oracle(text)["input_ids"]) for text in texts] + [[5, 6, 7]]
    assert ids == expected
    assert errors(result) == []
    assert ids[0][0] == 0
    assert ids[0].count(0) == 1, "the template's start token is not doubled"
    assert ids[9][0] == 0, "a plain prompt gets the tokenizer's start token"
    assert max(map(len, ids)) > 8, "a saved truncation does not apply"


def test_what_cannot_be_run_gets_an_error_row(tokenizer: PromptTokenizer, tmp_path: Path) -> None:
    late = [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]
    developer = [{"role": "developer", "content": "a"}, {"role": "user", "content": "b"}]
    contents = [
        {"token_ids": list(range(9))},
        {"token_ids": list(range(10))},
        {"messages_json": json.dumps(late)},
        {"messages_json": json.dumps(developer)},
        {"token_ids": [tokenizer.vocab_size]},
        {"prefix_block_hashes": [1, 2], "block_size": 512},
        {"messages_json": json.dumps(CHATS[1])},
        {"token_ids": []},
    ]
    result, ids = tokenize(contents, tokenizer, tmp_path / "a", context_length=10)
    assert ids == [list(range(9))]
    assert errors(result) == [
        (1, "context_length_exceeded", "prompt"),
        (2, "template_error", "messages"),
        (3, "template_error", "messages[0].role"),
        (4, "invalid_token", "prompt"),
        (5, "not_replayable", None),
        (6, "context_length_exceeded", "messages"),
        (7, "empty_prompt", "prompt"),
    ]


def test_roles_the_template_shows(tokenizer: PromptTokenizer) -> None:
    shown = set()
    for role in ("system", "developer"):
        with suppress(RequestError):
            tokenizer.template.render([{"role": role, "content": "x"}, {"role": "user", "content": "a"}])
            shown.add(role)
    assert shown == {"system"}


def test_no_chat_template_refuses_chat_only(model_dir: Path, tmp_path: Path) -> None:
    bare = AutoTokenizer.from_pretrained(model_dir)
    bare.chat_template = None
    bare.save_pretrained(tmp_path / "bare")
    contents = [{"messages_json": json.dumps(CHATS[0])}, {"prompt": "text"}]
    result, ids = tokenize(contents, load_tokenizer(str(tmp_path / "bare")), tmp_path / "a")
    assert len(ids) == 1
    assert errors(result) == [(0, "template_error", "messages")]


def messages_of(result: TokenizeResult) -> list[str]:
    return [row["message"] for row in pq.read_table(result.errors_file).to_pylist()]


def test_tokens_beyond_the_embedding_are_refused_whoever_wrote_them(model_dir: Path, tmp_path: Path) -> None:
    more = AutoTokenizer.from_pretrained(model_dir)
    size = len(more)
    more.add_tokens(["[EXTRA]"], special_tokens=True)
    more.add_tokens(["[OTHER]"])
    more.chat_template = TEMPLATE.replace("<|assistant|>", "{{ '[OTHER]' if messages|length > 2 }}")
    more.save_pretrained(tmp_path / "more")
    loaded = load_tokenizer(str(tmp_path / "more"), vocab_size=size)
    contents = [
        {"messages_json": json.dumps([{"role": "user", "content": "one two"}])},
        {"messages_json": json.dumps([{"role": "user", "content": "one [EXTRA] two"}])},
        {"prompt": "one two [OTHER]"},
        {"prompt": "one two"},
        {"messages_json": json.dumps(CHATS[2])},
        {"token_ids": [1, size + 1, size]},
    ]
    result, ids = tokenize(contents, loaded, tmp_path / "a")
    assert len(ids) == 2
    assert max(max(row) for row in ids) < size
    assert errors(result) == [
        (1, "invalid_token", "messages"),
        (2, "invalid_token", "prompt"),
        (4, "invalid_token", "messages"),
        (5, "invalid_token", "prompt"),
    ]
    said = [
        f"the text holds [EXTRA] (token id {size})",
        f"the text holds [OTHER] (token id {size + 1})",
        f"the chat template or the tokenizer adds [OTHER] (token id {size + 1})",
        f"it holds the token id {size + 1}",
    ]
    assert messages_of(result) == [f"{text}; the model has ids from 0 to {size - 1}" for text in said]
    assert load_tokenizer(str(tmp_path / "more")).vocab_size == size + 2, "without a model all are its own"


def test_a_token_that_the_tokenizer_puts_first_and_a_piece_of_text_are_checked_too(
    model_dir: Path, tokenizer: PromptTokenizer, tmp_path: Path
) -> None:
    word = tokenizer.encode(["hello quick"], special=False)[0]
    small = load_tokenizer(str(model_dir), vocab_size=max(word))
    result, _ = tokenize([{"prompt": "hello quick"}], small, tmp_path / "a")
    assert messages_of(result) == [
        f"the text has the token id {max(word)}; the model has ids from 0 to {max(word) - 1}"
    ], "a piece of a prompt is not written into a message"
    inner = AutoTokenizer.from_pretrained(model_dir)
    inner.add_tokens(["[BOS]"], special_tokens=True)
    beyond = len(inner) - 1
    inner.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[BOS] $A", special_tokens=[("[BOS]", beyond)]
    )
    inner.save_pretrained(tmp_path / "bos")
    result, _ = tokenize(
        [{"prompt": "hello"}], load_tokenizer(str(tmp_path / "bos"), vocab_size=beyond), tmp_path / "b"
    )
    assert messages_of(result)[0].startswith("the chat template or the tokenizer adds [BOS]")


def test_chats_are_rendered_while_those_before_are_encoded(
    tokenizer: PromptTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what comes out is what a single batch gives, refused rows in between included."""
    refused = [{"role": "system", "content": "x"}] * 2
    contents = [
        {
            "messages_json": json.dumps(
                [{"role": "user", "content": f"number {number}"}] if number % 3 else refused
            )
        }
        for number in range(12)
    ]
    whole, expected = tokenize(contents, tokenizer, tmp_path / "whole")
    rendered: list[int] = []
    later = threading.Event()
    render, encode = ChatTemplate.render, PromptTokenizer.encode

    def rendering(self: ChatTemplate, messages: Any, *variables: Any) -> str:
        rendered.append(len(messages))
        if len(rendered) > 4:
            later.set()
        return render(self, messages, *variables)

    def encoding(self: PromptTokenizer, texts: Any, *, special: bool) -> list[list[int]]:
        # The first batch waits until the second one is rendered.
        assert later.wait(30)
        return encode(self, texts, special=special)

    monkeypatch.setattr(ChatTemplate, "render", rendering)
    monkeypatch.setattr(PromptTokenizer, "encode", encoding)
    parts, ids = tokenize(contents, tokenizer, tmp_path / "parts", group_rows=4)
    assert ids == expected
    assert errors(parts) == errors(whole)
    assert len(errors(parts)) == 4


def test_no_rows(tokenizer: PromptTokenizer, tmp_path: Path) -> None:
    result = tokenize_requests([], tokenizer, context_length=10, out=tmp_path / "out")
    assert (result.requests, result.errors, result.tokens) == (0, 0, 0)
    assert np.load(result.offsets_file).tolist() == [0]
    assert np.load(result.tokens_file).shape == (0,)


def test_a_folder_without_tokenizer_names_the_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ConfigurationError, match="--model"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("broken")
    with pytest.raises(ConfigurationError, match="--model"):
        load_tokenizer(str(tmp_path))


def test_inputs_for_embeddings_are_those_of_the_tokenizer(tmp_path: Path, model_dir: Path) -> None:
    """With the end token that Qwen3-Embedding's adds by its post-processor; ids stay as they are."""
    inner = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    inner.post_processor = processors.TemplateProcessing(
        single="$A <|end|>", special_tokens=[("<|end|>", inner.token_to_id("<|end|>"))]
    )
    folder = tmp_path / "model"
    PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>").save_pretrained(folder)
    oracle = AutoTokenizer.from_pretrained(folder)
    texts = ["Hello world.", "the quick brown fox", "<|end|>", "ünïcode 你好"]
    rows = [
        {"endpoint": "embeddings", "prompt": json.dumps(inputs), "settings_json": settings}
        for inputs, settings in (
            (texts[:1], None),
            (texts, '{"dimensions":4}'),
            ([[5, 6, 7]], None),
            ([[5], texts[1], [8, 9]], None),
            ([texts[0], [99_999]], None),
            ([texts[0], [1] * 33], None),
            ([[1] * 32], None),
        )
    ]
    rows.insert(3, {"prompt": texts[0]})
    for processes in (1, 2):
        result, ids = tokenize(
            rows,
            load_tokenizer(str(folder)),
            tmp_path / f"{processes}",
            context_length=32,
            processes=processes,
        )
        expected = [oracle(text)["input_ids"] for text in texts]
        assert expected[0][-1] == oracle.eos_token_id
        inputs = [
            [expected[0]],
            expected,
            [[5, 6, 7]],
            [expected[0]],
            [[5], expected[1], [8, 9]],
            [[1] * 32],
        ]
        assert ids == [[token for one in some for token in one] for some in inputs]
        stored = [
            json.loads(text or "{}")
            for text in pq.read_table(result.requests_file)["settings_json"].to_pylist()
        ]
        lengths = [[len(one) for one in some] for some in inputs]
        assert stored == [
            {"input_lengths": lengths[0]},
            {"dimensions": 4, "input_lengths": lengths[1]},
            {"input_lengths": lengths[2]},
            {},
            {"input_lengths": lengths[4]},
            {"input_lengths": lengths[5]},
        ]
        assert errors(result) == [
            (5, "invalid_token", "input[1]"),
            (6, "context_length_exceeded", "input[1]"),
        ]


def test_what_no_model_answers_is_refused_before_it_has_tokens(
    tokenizer: PromptTokenizer, tmp_path: Path
) -> None:
    """Not for what its template would say."""
    wrong = [{"role": "user", "content": "x"}, {"role": "system", "content": "y"}]
    refusal = RequestError(ErrorCode.UNSUPPORTED_BY_MODEL, "url", "no text")
    rows = [{"messages_json": json.dumps(wrong)}, {"prompt": "x"}]
    result, ids = tokenize(
        rows,
        tokenizer,
        tmp_path / "a",
        unfit=lambda row: refusal if row["messages_json"] else None,
    )
    assert len(ids) == 1
    assert errors(result) == [(0, "unsupported_by_model", "url")]
