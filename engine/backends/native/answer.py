"""Our own engine answering a job: model and runner are made, then it runs step after step.

Every step's figures are sent as it ends, every answer as it is finished.
"""

from __future__ import annotations

import base64
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.backends.contract import Ended
from engine.backends.facts import NATIVE_FACTS
from engine.cost.devices import (
    check_kv_dtype,
    device_uuid,
    find_device,
    find_dtype,
    model_shape,
    nominal_profile,
    torch_dtype,
)
from engine.cost.metrics import step_metrics
from engine.cost.step import measure_cpu, step_cost
from engine.errors import EngineError
from engine.grammar.constraint import field_of
from engine.job.format import Job, read_job, write_plan_file
from engine.job.running import RunningFile
from engine.models.config import ModelConfig, load_config
from engine.models.decoder import Decoder
from engine.models.weights import load_weights
from engine.plan.moves import Giver
from engine.runtime.core import Completion, Engine, EngineSettings
from engine.runtime.sample.settings import wants_embedding
from engine.runtime.sample.token_text import TokenText
from engine.runtime.schedule.revision import Reviser
from engine.runtime.setup import RunnerSizes, make_runner
from engine.tokenizer import load_folder
from engine.warm import make_ready

if TYPE_CHECKING:
    import threading

    from engine.arrays import Float32, Int32
    from engine.backends.contract import Send


def answer(folder: Path, send: Send, stop: threading.Event, asked: threading.Event) -> Ended:
    """Answer the requests of a job; see `engine.backends.contract.Answer`.

    Each time that `asked` is set some of those that wait are given back.
    """
    job = read_job(folder)
    begin = time.perf_counter()
    settings = job.settings
    # First of all: so an engine that dies while it loads is known to have computed nothing.
    running = RunningFile(folder, settings.max_sequences)
    place = find_device(settings.device)
    config = load_config(Path(settings.model))
    _check_kinds(job, config, place)
    dtype, kv_dtype = find_dtype(settings.dtype, place), check_kv_dtype(settings.kv_dtype, place)
    shape = model_shape(config, dtype, kv_dtype)
    planned = job.profile or nominal_profile(settings.device)
    device = job.profile or (measure_cpu() if place == "cpu" else planned)
    decoder = Decoder(config, load_weights(Path(settings.model), config, torch_dtype(dtype), place))
    runner = make_runner(
        decoder,
        runner_sizes(job, config),
        shape.kv_bytes_per_token,
        fp8_kv=kv_dtype == "fp8",
        # Only a profile in which it was measured says that shared pages are worth reading once.
        cascade=step_cost(shape, device) if device.shared_read < 1.0 else None,
    )
    tokenizer = load_folder(Path(settings.model))
    token_text = TokenText(tokenizer)
    reviser = None
    if job.replanning is not None:
        reviser = Reviser(job.replanning, job.plan, shape, planned)
    engine = Engine(
        runner,
        tokenizer,
        EngineSettings(
            kv_tokens=runner.kv_tokens,
            page_size=settings.page_size,
            token_budget=max(settings.token_budget, settings.max_sequences),
            max_sequences=settings.max_sequences,
            pacing=bool(settings.pacing),
        ),
        job.tokens,
        job.offsets,
        job.sampling,
        job.plan,
        # Of the profile that the plan was made with: its seconds are in these terms.
        step_cost(shape, planned),
        reviser,
        running.write,
    )
    seconds = time.perf_counter() - begin
    ready = {"kv_tokens": runner.kv_tokens, "device": asdict(device), "load_seconds": seconds}
    send({"type": "ready", **NATIVE_FACTS.told(), **ready, "device_uuid": device_uuid(place)})
    # Of the profile of the device at hand, unlike the plan's: what its work should have taken here.
    cost, pages = step_cost(shape, device), runner.kv_tokens // settings.page_size

    def send_answers(finished: list[Completion]) -> None:
        answered = [completion for completion in finished if completion.failure is None]
        if answered:
            items = [answer_item(job, completion, token_text) for completion in answered]
            send({"type": "answers", "items": items})
        refused = [refused_item(job, completion) for completion in finished if completion.failure is not None]
        if refused:
            send({"type": "refused", "items": refused})

    tree = None if job.replanning is None else job.replanning.tree
    giver = Giver(job.request_ids, job.tokens, job.offsets, tree, shape, planned)
    replans = 0
    while engine.unfinished and not stop.is_set():
        finished, sample = engine.step()
        figures = step_metrics(sample, shape, cost, pages)
        send({"type": "step", **asdict(sample), **figures})
        send_answers(finished)
        if reviser is not None and reviser.replans > replans:
            replans = reviser.replans
            name = f"plan-{replans}.npz"
            write_plan_file(folder / name, reviser.plan)
            send({"type": "plan", "file": name})
        if asked.is_set():
            asked.clear()
            given = engine.give_back(giver).tolist()
            send({"type": "given", "items": [(job.request_ids[i], job.choices[i]) for i in given]})
    send_answers(engine.drain())
    return Ended(not engine.unfinished, engine.counters())


def _check_kinds(job: Job, config: ModelConfig, place: str) -> None:
    """Refuse a job that asks for what this model gives nowhere, or not on this device.

    Whoever wrote the job should have refused these requests one by one.
    """
    embeds = wants_embedding(job.sampling)
    if embeds.any() and place != "cpu":
        raise EngineError("--device: our engine computes embeddings on the CPU alone; take --device cpu")
    if not config.generates and not embeds.all():
        raise EngineError(f"--model: {config.architecture} has no LM head, so it gives embeddings alone")


def prepare(device: str, send: Send) -> None:
    """Load or compile the functions of every step, so that no device waits for it."""
    other = "engine.runtime.device" if device == "cpu" else "engine.runtime.cpu"
    make_ready("engine.cost", "engine.runtime", without=(other,), begin=lambda: send({"type": "compiling"}))


def runner_sizes(job: Job, config: ModelConfig) -> RunnerSizes:
    """Return what the job's runner is made for."""
    settings = job.settings
    prompts = job.offsets[1:] - job.offsets[:-1]
    lengths = [
        min(int(p) + s.max_tokens, config.max_positions) for p, s in zip(prompts, job.sampling, strict=True)
    ]
    size = settings.page_size
    pages = [-(-length // size) for length in lengths]
    return RunnerSizes(
        kv_tokens=settings.kv_tokens,
        page_size=size,
        token_budget=max(settings.token_budget, settings.max_sequences),
        max_sequences=settings.max_sequences,
        longest=max(lengths, default=1),
        least=(max(pages, default=0) + 1) * size,
        most=(sum(pages) + 1) * size,
    )


def answer_item(job: Job, completion: Completion, token_text: TokenText) -> dict[str, Any]:
    """Return a finished sequence as it is sent.

    `logprobs` is None or one ``[token id, bytes, log probability, alternatives]`` per token, the alternatives
    without a fourth entry; bytes are written as the Latin-1 text that has them. An embedding is added as
    `embedding`: its float32 numbers, little-endian, in base64.
    """
    vector = completion.embedding
    made = {} if vector is None else {"embedding": base64.b64encode(vector.astype("<f4").tobytes()).decode()}
    return {
        "request": completion.request,
        "request_id": job.request_ids[completion.request],
        "choice": job.choices[completion.request],
        "token_ids": completion.token_ids.tolist(),
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "cached_tokens": completion.cached_tokens,
        "started_at": completion.started_at,
        "finished_at": completion.finished_at,
        "logprobs": None if completion.logprobs is None else _logprobs(completion, token_text),
        **made,
    }


def refused_item(job: Job, completion: Completion) -> dict[str, Any]:
    """Return a sequence that could not be held to its constraint, as it is sent."""
    return {
        "request_id": job.request_ids[completion.request],
        "choice": job.choices[completion.request],
        "code": "unsupported_parameter",
        "field": field_of(job.sampling[completion.request].constraint or ""),
        "message": f"the answer could not be held to it: {completion.failure}",
        "retryable": False,
    }


def _logprobs(completion: Completion, token_text: TokenText) -> list[list[Any]]:
    def entries(ids: Int32, values: Float32) -> list[list[Any]]:
        pairs = zip(ids.tolist(), values.tolist(), strict=True)
        return [[token, token_text(token).decode("latin-1"), value] for token, value in pairs]

    found = completion.logprobs
    if found is None:
        return []
    chosen = entries(completion.token_ids, found.chosen)
    others = (entries(ids, top) for ids, top in zip(found.top_ids, found.top, strict=True))
    return [[*token, top] for token, top in zip(chosen, others, strict=True)]
