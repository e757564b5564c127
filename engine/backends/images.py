"""Images of a job, from the files of its folder into the messages that an engine is sent."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from engine.job.format import IMAGES_FOLDER

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def with_images(prompt: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a prompt with its images as OpenAI's API has them: `image_url` parts with data URLs.

    Parameters
    ----------
    prompt
        With `messages` or `prompt`; see `engine.job.format`.
    folder
        Of the job.
    """
    if "messages" not in prompt:
        return dict(prompt)
    return {**prompt, "messages": [_message(message, folder) for message in prompt["messages"]]}


def _message(message: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    content = message["content"]
    if not isinstance(content, list):
        return dict(message)
    return {**message, "content": [_part(part, folder) for part in content]}


def _part(part: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    if part["type"] != "image":
        return dict(part)
    data = (folder / IMAGES_FOLDER / str(part["sha256"])).read_bytes()
    text = base64.b64encode(data).decode()
    detail = {"detail": part["detail"]} if "detail" in part else {}
    return {
        "type": "image_url",
        "image_url": {"url": f"data:{part['media_type']};base64,{text}", **detail},
    }
