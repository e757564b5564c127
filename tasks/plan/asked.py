"""What an engine is asked for: the sequences to compute, and the folder that its process reads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.job.format import IMAGES_FOLDER, JobSettings, write_job
from engine.model_files import write_model_files
from engine.models.config import load_config
from engine.runtime.sample.settings import Sampling
from tasks.night.abilities import pooling_of
from tasks.night.images import unpack_images
from tasks.night.model import check_model
from tasks.plan.work import chats_with_images, prompts_as_given, sampling_of
from tasks.requests.choices import Choices, choice_seed, sequences
from tasks.requests.embeddings import DIMENSIONS, LENGTHS
from tasks.requests.images import images_of
from tasks.requests.tools import SETTINGS as TOOL_SETTINGS
from tasks.runlog.parts import images_part

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from engine.plan.policies import Plan
    from engine.plan.replan import Replanning
    from engine.simulate.schedules import Schedule
    from tasks.night.night import Night
    from tasks.plan.work import NightWork

    Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Asked:
    """The sequences to compute, in input order.

    Attributes
    ----------
    rows
        Of the requests table, once per sequence.
    named
        (request_id, choice, settings) of each.
    tokens, offsets
        int32 [total], int64 [N + 1]: their prompts.
    """

    rows: list[dict[str, Any]]
    named: list[tuple[str, int, Sampling]]
    tokens: npt.NDArray[np.int32]
    offsets: Int64

    @classmethod
    def of(cls, night: Night, work: NightWork, choices: Choices) -> Asked:
        """Return what has no durable answer; what `choices` holds of unfinished ones is left out."""
        asked = _sequences(night, work, choices)
        named = [(work.rows[i]["request_id"], choice, settings) for i, choice, settings in asked]
        prompts = work.sequence_prompts([(i, choice) for i, choice, _ in asked])
        return cls([work.rows[i] for i, _, _ in asked], named, *prompts)

    def write(
        self,
        night: Night,
        folder: Path,
        made: Plan,
        replanning: Replanning | None,
        schedule: Schedule | None,
    ) -> None:
        """Write the engine's folder; raise `ConfigurationError` if the model has changed meanwhile.

        `schedule` says what steps the engine takes; None: as the settings and the engine have it.
        """
        settings = night.settings
        budget, sequences = settings.token_budget, settings.max_sequences
        if schedule is not None:
            budget, sequences = schedule.token_budget, min(sequences, schedule.token_budget)
        job = JobSettings(
            model=str(night.model_dir),
            dtype=settings.dtype,
            kv_dtype=settings.kv_dtype,
            engine=night.engine.name,
            options=night.engine.options,
            python=night.settings.engine_python,
            device=settings.device,
            kv_tokens=settings.kv_tokens,
            page_size=settings.page_size,
            token_budget=budget,
            max_sequences=sequences,
            pacing=None if schedule is None else schedule.pacing,
        )
        write_model_files(folder, night.model_dir, check_model(night))
        prompts = given_prompts(night, self.rows, folder)
        profile = settings.device_profile
        write_job(folder, job, self.tokens, self.offsets, self.named, made, replanning, profile, prompts)


def given_prompts(
    night: Night, rows: list[dict[str, Any]], folder: Path
) -> Sequence[dict[str, Any] | None] | None:
    """Return the prompts that an engine gets as they were given, and write their images below `folder`.

    None: it gets all as token ids.
    """
    images = images_part(night.log.state)
    as_text = night.engine.prompts == "text"
    if images is None and not as_text:
        return None
    prompts: Sequence[dict[str, Any] | None]
    prompts = prompts_as_given(night, rows) if as_text else chats_with_images(night, rows)
    chats = [prompt["messages"] for prompt in prompts if prompt is not None and "messages" in prompt]
    names = {image["sha256"] for chat in chats for _, image in images_of(chat)}
    if images is not None and names:
        unpack_images(night.fetch(images), names, folder / IMAGES_FOLDER)
    return prompts if as_text or names else None


def _sequences(night: Night, work: NightWork, choices: Choices) -> list[tuple[int, int, Sampling]]:
    """Return (row, choice, settings) of every sequence to compute, in input order."""
    asked = []
    longest = load_config(night.model_dir).max_positions
    pooling = pooling_of(night)
    for key in work.open_keys():
        row = work.members[key][0]
        settings = sampling_of(night, work.rows[row])
        # What is left of the context: servers refuse a limit beyond it.
        settings["max_tokens"] = min(settings["max_tokens"], longest - work.rows[row]["input_tokens"])
        missing = choices.missing(key, sequences(settings))
        if LENGTHS in settings:
            if pooling is None:
                raise RuntimeError("a request for embeddings was let in, though the model gives none")
            one = Sampling(
                max_tokens=1,
                ignore_eos=True,
                pooling=pooling.kind,
                normalised=pooling.normalised,
                dimensions=settings.get(DIMENSIONS),
            )
            asked += [(row, i, one) for i in missing]
            continue
        seed = settings["seed"]
        # These are made of prompts and answers around the engine.
        for name in ("n", "echo", "chat_template_kwargs", *TOOL_SETTINGS):
            settings.pop(name, None)
        for name in ("stop", "stop_token_ids"):
            settings[name] = tuple(settings[name])
        if "logit_bias" in settings:
            settings["logit_bias"] = tuple(map(tuple, json.loads(settings["logit_bias"])))
        asked += [(row, i, Sampling(**{**settings, "seed": choice_seed(seed, i)})) for i in missing]
    return asked
