"""Who is who: digests that name requests, answers, models and runs by their content.

Every digest is SHA-256 over canonical JSON of a tagged list, so parts cannot run into each other and two
kinds of key never collide. Nothing here depends on the position of a line, on an ETag or on a clock.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Final

import orjson

from engine import ANSWER_VERSION
from tasks.base.errors import ConfigurationError
from tasks.base.model_files import model_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import date
    from pathlib import Path

    from engine.model_files import ModelFile

RUN_KEY_LENGTH: Final = 16
_MODEL_FILES: Final = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*.jinja",
    "*.model",
    "*.tiktoken",
    "additional_chat_templates/*",
    "added_tokens.json",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)


def canonical_json(value: object) -> str:
    """Write a JSON value in one way only: sorted keys, no spaces, real characters.

    Raises
    ------
    ValueError
        For numbers JSON does not have (NaN, infinities).
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(kind: str, *parts: object) -> str:
    """SHA-256 of `kind` and JSON-like `parts`, 64 hexadecimal digits.

    Raises
    ------
    ValueError
        For numbers JSON does not have, or text that UTF-8 does not have (lone surrogates).
    """
    if all(type(part) is str for part in parts):
        # The same bytes, much faster; only numbers are written differently.
        return _texts_digest(kind, *parts)
    return hashlib.sha256(canonical_json([kind, *parts]).encode()).hexdigest()


def digest_ids(ids: Iterable[str]) -> str:
    """Return the SHA-256 of the sorted ids, in hex."""
    digest = hashlib.sha256()
    for one in sorted(ids):
        digest.update(one.encode() + b"\n")
    return digest.hexdigest()


def answer_key(endpoint: str, content: str, sampling: Mapping[str, Any]) -> str:
    """Name an answer: two requests with equal keys ask for the same thing of the run's model.

    Parameters
    ----------
    endpoint : str
        `chat` or `completions`.
    content : str
        `tasks.requests.prompts.content_digest` of the normalised prompt, in hexadecimal digits.
    sampling : mapping
        The effective settings, `seed` only if the request gave one. For a greedy request `seed`, `top_k` and
        `top_p` do not enter (they have no effect), nor does the order of stop strings for any.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    return settled_answer_key(endpoint, content, canonical_json(answer_settings(sampling)))


def settled_answer_key(endpoint: str, content: str, settings: str) -> str:
    """Return `answer_key` from `answer_settings` in canonical JSON, which many requests have in common."""
    return hashlib.sha256(f'["answer","{endpoint}","{content}",{settings}]'.encode()).hexdigest()


def answer_settings(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of the effective settings enters an answer key, see `answer_key`."""
    greedy = sampling["temperature"] == 0
    return {
        name: sorted(value) if isinstance(value, list) else value
        for name, value in sampling.items()
        if not (greedy and name in {"seed", "top_k", "top_p"})
    }


def request_id(
    job: str, run_date: date, source_uri: str, custom_id: str | None, answer: str, ordinal: int
) -> str:
    """Name a request by its content, never by its position.

    Parameters
    ----------
    job, run_date, source_uri
        Where it belongs and the object it came from.
    custom_id : str or None
        Its name in that object; without one, its answer key stands in.
    answer : str
        Its answer key.
    ordinal : int
        How many earlier requests of the object have the same `custom_id` (identical repeats), or without one
        the same answer key. 0 for the first.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    if custom_id is None:
        own: list[Any] = ["answer_key", answer, ordinal]
    else:
        own = ["custom_id", custom_id] if ordinal == 0 else ["custom_id", custom_id, ordinal]
    return _texts_digest("request", job, run_date.isoformat(), source_uri, own)


def model_digest(folder: Path) -> str:
    """Name a model by the contents of its weights, configuration, tokenizer and chat template.

    The folder's own name and files that do not change answers (README, licences) do not enter.

    Raises
    ------
    ConfigurationError
        If the folder has no `config.json` or no weights.
    """
    return digest_of_files(files_of_model(folder))


def digest_of_files(files: Sequence[ModelFile]) -> str:
    """Return `model_digest` of the files of a model."""
    return digest("model", [(file.name, file.sha256) for file in files])


def files_of_model(folder: Path) -> list[ModelFile]:
    """Return the files that name a model; only those are read that have changed (`tasks.base.model_files`).

    Raises
    ------
    ConfigurationError
        If the folder has no `config.json` or no weights.
    """
    files = sorted({path for pattern in _MODEL_FILES for path in folder.glob(pattern) if path.is_file()})
    names = [path.relative_to(folder).as_posix() for path in files]
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        raise ConfigurationError(
            "--model",
            f"{folder} holds no model (config.json and *.safetensors)",
            "Name a Hugging Face model folder or a hub id",
        )
    return model_files(folder, names)


def run_key(
    *,
    job: str,
    run_date: date,
    inputs: str,
    model: str,
    defaults: Mapping[str, Any],
    run_seed: int,
    dtype: str,
    answer_version: int | list[str] = ANSWER_VERSION,
    rules: Mapping[str, str] | None = None,
) -> str:
    """Name a run by all that determines its answers.

    Parameters
    ----------
    job, run_date
        The job and the date it runs for.
    inputs : str
        `tasks.extract.input_digest` of all its requests, those refused while parsing included.
    model : str
        `model_digest`.
    defaults : mapping
        `SamplingDefaults.as_dict()`.
    run_seed : int
        Seed of the requests that have none.
    dtype : str
        The precision the model computes in, such as `float32`.
    answer_version : int or list of str
        Of our own engine, bumped only when answers change; of another one its name and version.
    rules : mapping or None
        How prompts and answers of some models alone are made, such as by a clock in the chat template: what
        changes their answers and leaves all other runs the keys they have. Without any the key is that of
        None.

    Returns
    -------
    str
        16 hexadecimal digits.
    """
    shared = _answers(job, run_date, model, defaults, run_seed, dtype, answer_version, rules)
    return digest("run", inputs, shared)[:RUN_KEY_LENGTH]


def reuse_key(
    *,
    job: str,
    run_date: date,
    model: str,
    defaults: Mapping[str, Any],
    run_seed: int,
    dtype: str,
    answer_version: int | list[str] = ANSWER_VERSION,
    rules: Mapping[str, str] | None = None,
) -> str:
    """Name the runs among which answers may be reused: everything in `run_key` but the input.

    Returns
    -------
    str
        16 hexadecimal digits.
    """
    shared = _answers(job, run_date, model, defaults, run_seed, dtype, answer_version, rules)
    return digest("reuse", shared)[:RUN_KEY_LENGTH]


def default_seed(request: str, run_seed: int) -> int:
    """Seed of a request that has none: a hash of its `request_id` and the run's seed, as a uint64."""
    return int(digest("seed", request, run_seed)[:16], 16)


def _texts_digest(*parts: Any) -> str:  # noqa: ANN401 - nested lists of texts and small whole numbers
    try:
        data = orjson.dumps(parts)
    except TypeError:
        # Lone surrogates: the same error as from `canonical_json(...).encode()`.
        data = canonical_json(list(parts)).encode()
    return hashlib.sha256(data).hexdigest()


def _answers(
    job: str,
    run_date: date,
    model: str,
    defaults: Mapping[str, Any],
    run_seed: int,
    dtype: str,
    answer_version: int | list[str],
    rules: Mapping[str, str] | None,
) -> list[Any]:
    shared = [job, run_date.isoformat(), model, dict(defaults), run_seed, dtype, answer_version]
    return [*shared, dict(rules)] if rules else shared


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
