"""The process boundary: a folder that goes into the engine process, and messages that come out.

Folder (format version 12)
    job.json        what to run: engine and its options, model folder, dtype, device, engine settings
    tokens.npy      int32 [total]: the prompts, flat
    offsets.npy     int64 [N + 1]: prompt i is ``tokens[offsets[i]:offsets[i + 1]]``
    requests.jsonl  one object per sequence: `request_id`, the index of its `choice`, its sampling settings
    plan.npz        the order and the estimates it was made from (`engine.plan.policies.Plan`)
    profile.json    the device profile the plan counts with (`engine.cost.profiles`); absent: the nominal one
    model_files.json  the files that the model has to have (`engine.model_files`); absent: not checked
    lengths.npz     what planning again takes (`engine.plan.replan.Replanning`); absent: the plan is final
    running.npy     written by the engine: the sequences that it is about to compute (`engine.job.running`);
                    absent: it does not tell. Created before the model is loaded
    prompts.jsonl   one object per sequence, `messages` or `prompt` as the request gave them, or null: this
                    one goes as token ids; absent: all do
    images/         the images of `messages`, each in a file named by its digest; a part of a message is
                    `{"type": "image", "sha256", "media_type", "width", "height", "detail"}`. In the tokens of
                    such a prompt are ids that stand for them, which no engine may be given

Messages: 4 bytes of length, big-endian, then that many bytes of JSON with a `type`:
    compiling   functions are being compiled first, which takes a minute or two on a new machine
    ready       the model is loaded (`engine`, `version`, `capabilities`: `engine.backends.facts`;
                `kv_tokens`, `device`, `load_seconds`, `device_uuid`: of a CUDA device)
    answers     `items`: finished sequences (`engine.backends.native.answer.answer_item`); an engine that
                counts tokens itself adds `prompt_tokens` and `completion_tokens`
    refused     `items`: sequences that cannot be answered (`request_id`, `choice`, `code`: of
                `tasks.base.errors.ErrorCode`, `field`, `message`, `retryable`)
    step        figures of one step (`engine.cost.metrics.StepSample` and `engine.cost.metrics.step_metrics`)
    load        of an engine without steps, about once a second: most sequences `running` at a time, and
                `prompt_tokens`, `hit_tokens`, `output_tokens` of the answers, since the last one;
                `waits_until`: a Unix time before which it computes nothing, where that is so
    plan        `file`: the waiting requests were ordered anew, and their plan is in this file of the folder
    given       `items`: (request_id, choice) of sequences that it had not begun, has dropped and will never
                answer, all of a request or none; maybe there are none. Sent whenever it is asked
                (`engine.backends.contract.ASK_TO_GIVE`)
    done        every request is answered or given back (`counters`)
    stopped     the engine was asked to stop and sent all it had (`counters`)
    fatal       it cannot go on (`message`, `retryable`; `busy`: another process has the device); the process
                ends

A figure that an engine does not know is null, never 0.

Version 12 has the message `given`.
Version 11 has among the sampling settings which adapter of the model answers.
Version 10 has sequences that want an embedding of their prompt (`pooling` among their settings), images, and
prompts of some sequences alone as text.
Version 9 says of the steps whether they are paced, and of the plan what room it reserves.
Version 8 has constraints among the sampling settings (`engine.grammar.constraint`), the settings that change
logits, and the one for the text of stops.
Version 7 has engines beside our own: their options, prompts as text, the messages `refused` and `load`.
Version 6 calls the preemptions of a step, and those among the counters, `preemptions`; before it they were
`retractions`, as the tables still call them.

The reader must treat an end of the stream without `done` or `stopped` as a dead engine.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass, field
from typing import IO, TYPE_CHECKING, Any, Final

import numpy as np

from engine.choices import NATIVE
from engine.cost.profiles import DeviceProfile, read_profile, write_profile
from engine.errors import EngineError
from engine.plan.policies import Plan
from engine.plan.replan import Replanning
from engine.plan.scan import RESERVE
from engine.runtime.sample.settings import Sampling

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

FORMAT_VERSION = 12
PLAN_FILE: Final = "plan.npz"
LENGTHS_FILE: Final = "lengths.npz"
PROMPTS_FILE: Final = "prompts.jsonl"
IMAGES_FOLDER: Final = "images"
_LENGTH = struct.Struct(">I")
_ARRAYS = ("order", "estimate", "compute", "memory", "segments", "linked")
_SCALARS = (
    "prompt_tokens",
    "distinct_tokens",
    "hit_rate_optimum",
    "saved_tokens",
    "constraint_tokens",
    "constraint_seconds",
)


@dataclass(frozen=True)
class JobSettings:
    """What `job.json` says.

    Attributes
    ----------
    model
        Path of the model folder.
    engine, options
        Which engine answers (a key of `engine.choices.ENGINES`), and its own options, which are JSON.
    python
        The interpreter that the engine runs in; None: this one.
    dtype, kv_dtype, device
        Compute precision and device, as `engine.cost.devices` names them.
    kv_tokens
        KV memory in tokens; None lets the engine choose.
    page_size, token_budget, max_sequences
        See `engine.runtime.core.EngineSettings`.
    pacing
        See there; None: as the engine is used to.
    """

    model: str
    engine: str = NATIVE
    options: dict[str, Any] = field(default_factory=dict)
    python: str | None = None
    dtype: str = "float32"
    kv_dtype: str = "auto"
    device: str = "cpu"
    kv_tokens: int | None = None
    page_size: int = 16
    token_budget: int = 1024
    max_sequences: int = 128
    pacing: bool | None = None


@dataclass(frozen=True)
class Job:
    """A folder, read: everything one engine process needs."""

    settings: JobSettings
    tokens: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    request_ids: list[str]
    choices: list[int]
    sampling: list[Sampling]
    plan: Plan
    replanning: Replanning | None = None
    profile: DeviceProfile | None = None
    prompts: list[dict[str, Any] | None] | None = None

    def given_prompt(self, sequence: int) -> dict[str, Any] | None:
        """Return the prompt of a sequence as its request gave it; None: it goes as token ids."""
        return None if self.prompts is None else self.prompts[sequence]


def write_job(
    folder: Path,
    settings: JobSettings,
    tokens: npt.NDArray[np.int32],
    offsets: npt.NDArray[np.int64],
    requests: Sequence[tuple[str, int, Sampling]],
    plan: Plan,
    replanning: Replanning | None = None,
    profile: DeviceProfile | None = None,
    prompts: Sequence[dict[str, Any] | None] | None = None,
) -> None:
    """Write the folder of an engine process.

    `requests` are (request_id, choice, sampling) in prompt order; a request with several choices is there
    once for each of them. `prompts` are theirs as the requests gave them, None where token ids are sent.
    """
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "tokens.npy", np.ascontiguousarray(tokens, np.int32))
    np.save(folder / "offsets.npy", np.ascontiguousarray(offsets, np.int64))
    with (folder / "requests.jsonl").open("w") as file:
        for request_id, choice, sampling in requests:
            file.write(json.dumps({"request_id": request_id, "choice": choice, **asdict(sampling)}) + "\n")
    write_plan_file(folder / PLAN_FILE, plan)
    if replanning is not None:
        np.savez(folder / LENGTHS_FILE, **replanning.arrays())  # type: ignore[arg-type]
    if profile is not None:
        write_profile(profile, folder / "profile.json")
    if prompts is not None:
        with (folder / PROMPTS_FILE).open("w") as file:
            for prompt in prompts:
                file.write(json.dumps(prompt) + "\n")
    # Last, so that a folder with job.json is complete.
    (folder / "job.json").write_text(json.dumps({"format_version": FORMAT_VERSION, **asdict(settings)}))


def write_plan_file(path: Path, plan: Plan) -> None:
    """Write a plan as arrays."""
    arrays = {name: getattr(plan, name) for name in (*_ARRAYS, *_SCALARS)}
    np.savez(path, policy=np.array(plan.policy), reserve=np.array(plan.reserve), **arrays)


def read_plan_file(path: Path) -> Plan:
    """Read a plan written by `write_plan_file`, of an earlier version too."""
    with np.load(path) as stored:
        left, less = stored["reserve"].tolist() if "reserve" in stored else RESERVE
        return Plan(
            reserve=(left, less),
            policy=str(stored["policy"]),
            **{name: stored[name] for name in _ARRAYS},
            **{name: stored[name].item() for name in _SCALARS},
        )


def read_replanning(path: Path) -> Replanning:
    """Read what planning again takes, as `write_job` wrote it."""
    with np.load(path) as stored:
        return Replanning.from_arrays({name: stored[name] for name in stored.files})


def read_settings(folder: Path) -> JobSettings:
    """Read what `job.json` says, of a folder written by `write_job`.

    Raises
    ------
    EngineError
        If the folder has another format version.
    """
    raw = json.loads((folder / "job.json").read_text())
    version = raw.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise EngineError(f"{folder}: format version {version}, this engine reads {FORMAT_VERSION}")
    return JobSettings(**raw)


def read_job(folder: Path) -> Job:
    """Read a folder written by `write_job`.

    Raises
    ------
    EngineError
        If it has another format version or its parts do not belong together.
    """
    settings = read_settings(folder)
    tokens, offsets = np.load(folder / "tokens.npy", mmap_mode="r"), np.load(folder / "offsets.npy")
    request_ids, choices, sampling = [], [], []
    with (folder / "requests.jsonl").open() as file:
        for line in file:
            entry = json.loads(line)
            request_ids.append(entry.pop("request_id"))
            choices.append(entry.pop("choice"))
            entry["stop"], entry["stop_token_ids"] = tuple(entry["stop"]), tuple(entry["stop_token_ids"])
            entry["logit_bias"] = tuple((token, bias) for token, bias in entry["logit_bias"])
            sampling.append(Sampling(**entry))
    plan = read_plan_file(folder / PLAN_FILE)
    replanning = None
    if (folder / LENGTHS_FILE).exists():
        replanning = read_replanning(folder / LENGTHS_FILE)
    prompts = None
    if (folder / PROMPTS_FILE).exists():
        with (folder / PROMPTS_FILE).open() as file:
            prompts = [json.loads(line) for line in file]
    counts = {len(request_ids), len(offsets) - 1, len(plan.order)}
    if prompts is not None:
        counts.add(len(prompts))
    if len(counts) != 1 or offsets[-1] != len(tokens):
        raise EngineError(f"{folder}: requests, offsets, tokens and plan have different lengths")
    profile = folder / "profile.json"
    return Job(
        settings,
        np.asarray(tokens),
        offsets,
        request_ids,
        choices,
        sampling,
        plan,
        replanning,
        read_profile(profile) if profile.exists() else None,
        prompts,
    )


def write_message(stream: IO[bytes], message: dict[str, Any]) -> None:
    """Write one message and flush it."""
    body = json.dumps(message, separators=(",", ":")).encode()
    stream.write(_LENGTH.pack(len(body)) + body)
    stream.flush()


def read_messages(stream: IO[bytes]) -> Iterator[dict[str, Any]]:
    """Yield messages until the stream ends; one cut off by the death of the writer is left out."""
    while True:
        head = stream.read(_LENGTH.size)
        if len(head) < _LENGTH.size:
            return
        (length,) = _LENGTH.unpack(head)
        body = stream.read(length)
        if len(body) < length:
            return
        yield json.loads(body)
