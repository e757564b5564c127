"""How many tokens an image takes in a prompt, as the processor of the model makes them, from its size alone.

A chat template writes one mark for an image; the processor puts a text in its place, in which one token
stands for each vector of the vision tower. Which text that is follows from the image's width and height by a
rule of the model's family (`FAMILIES`) and the settings of its processor. The rules are those of
`transformers`, whose processors would load torch for it (a test holds the two together).

What stands for the image gets ids of its own in the tokens of a prompt, one for each image: they are never
sent to an engine, and tell the plan which prompts begin with the same picture.
"""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tasks.base.errors import ErrorCode, RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

FIRST_ID: Final = 1 << 30
"""Ids from here on stand for images; no tokenizer has them."""
_IDS: Final = 1 << 30
_LARGEST_SIDE: Final = 4096
"""To which SmolVLM shrinks an image before it is split, whatever its settings."""
_QWEN_MARK: Final = "<|image_pad|>"
_WIDEST: Final = 200
"""Of an image of Qwen's: how many times as long as wide."""


@dataclass(frozen=True)
class ImageTokens:
    """The rule of one model.

    Attributes
    ----------
    mark
        What the chat template writes for an image.
    soft
        The token that stands for a vector.
    text
        (width, height) -> what the processor puts in the place of `mark`.
    """

    mark: str
    soft: str
    text: Callable[[int, int], str]

    def expand(self, text: str, images: Sequence[Mapping[str, Any]]) -> tuple[str, list[int]]:
        """Return a rendered chat with its images in it, and of how many `soft` each of them is.

        Parameters
        ----------
        images
            In their order, as `tasks.requests.images` has them.

        Raises
        ------
        RequestError
            `template_error`, if the template does not write one mark for each image; `invalid_image`, if the
            processor takes none of this size.
        """
        pieces = text.split(self.mark)
        if len(pieces) != len(images) + 1:
            message = f"the chat template has {len(pieces) - 1} places for {len(images)} images"
            raise RequestError(ErrorCode.TEMPLATE_ERROR, "messages", message)
        shown = []
        for image in images:
            try:
                shown.append(self.text(image["width"], image["height"]))
            except ValueError as error:
                raise RequestError(ErrorCode.INVALID_IMAGE, "messages", str(error)) from None
        whole = pieces[0] + "".join(a + b for a, b in zip(shown, pieces[1:], strict=True))
        return whole, [one.count(self.soft) for one in shown]


def stand_in(image: Mapping[str, Any]) -> int:
    """Return the id that stands for each vector of an image: equal for equal images alone, but for chance."""
    told = f"{image['sha256']} {image.get('detail', '')}"
    return FIRST_ID + zlib.crc32(told.encode()) % _IDS


def stand_for_images(
    ids: npt.NDArray[np.int32], soft: int, images: Sequence[Mapping[str, Any]], counts: Sequence[int]
) -> npt.NDArray[np.int32]:
    """Return the tokens of a prompt with ids of its images in place of `soft`.

    Raises
    ------
    RequestError
        `template_error`, if the tokens do not hold as many as the images are of.
    """
    places = np.flatnonzero(ids == soft)
    if len(places) != sum(counts):
        message = f"the prompt has {len(places)} tokens of images, where its images have {sum(counts)}"
        raise RequestError(ErrorCode.TEMPLATE_ERROR, "messages", message)
    found = ids.copy()
    found[places] = np.repeat(np.array([stand_in(image) for image in images], np.int32), counts)
    return found


def image_tokens_of(folder: Path) -> ImageTokens | None:
    """Return the rule of the model in a folder; None if it has no eyes, or those of an unknown family."""
    config = _json(folder / "config.json")
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None:
        return None
    whole = _json(folder / "processor_config.json")
    nested = whole.get("image_processor")
    single = _json(folder / "preprocessor_config.json")
    return family(config, whole, {**single, **(nested if isinstance(nested, dict) else {})})


def _qwen(_: Mapping[str, Any], __: Mapping[str, Any], image: Mapping[str, Any]) -> ImageTokens:
    """Of Qwen2-VL, Qwen2.5-VL and Qwen3-VL: whole patches, of which `merge_size` squared are one token.

    Their number is bounded from both sides; else the image keeps about its size.
    """
    patch, merge = image.get("patch_size", 14), image.get("merge_size", 2)
    size = image.get("size") or {}
    least = image.get("min_pixels") or size.get("shortest_edge") or 56 * 56
    most = image.get("max_pixels") or size.get("longest_edge") or 28 * 28 * 1280
    cell = int(patch * merge)

    def text(width: int, height: int) -> str:
        if max(width, height) > _WIDEST * min(width, height):
            raise ValueError(f"the image is more than {_WIDEST} times as long as wide")
        rows, columns = round(height / cell), round(width / cell)
        if rows * columns * cell * cell > most:
            shrink = math.sqrt(height * width / most)
            rows, columns = (max(1, math.floor(side / shrink / cell)) for side in (height, width))
        elif rows * columns * cell * cell < least:
            grow = math.sqrt(least / (height * width))
            rows, columns = (math.ceil(side * grow / cell) for side in (height, width))
        return _QWEN_MARK * (rows * columns)

    return ImageTokens(_QWEN_MARK, _QWEN_MARK, text)


def _llava(config: Mapping[str, Any], whole: Mapping[str, Any], image: Mapping[str, Any]) -> ImageTokens:
    """Of LLaVA: cut to one size, so each image is of as many tokens."""
    vision = config.get("vision_config") or {}
    patch = whole.get("patch_size") or vision.get("patch_size", 14)
    strategy = whole.get("vision_feature_select_strategy") or config.get("vision_feature_select_strategy")
    crop = image.get("crop_size") or {"height": 336, "width": 336}
    sides = (crop, crop) if isinstance(crop, int) else (crop["height"], crop["width"])
    # The tower adds a vector of its own, which the strategy `default` leaves out again.
    count = (sides[0] // patch) * (sides[1] // patch) + whole.get("num_additional_image_tokens", 0)
    mark = whole.get("image_token") or "<image>"
    shown = mark * (count - (strategy == "default"))
    return ImageTokens(mark, mark, lambda _width, _height: shown)


def _gemma(
    config: Mapping[str, Any], whole: Mapping[str, Any], image: Mapping[str, Any]
) -> ImageTokens | None:
    """Of Gemma 3: one size; an image that is cut into crops as well is of no known number."""
    if image.get("do_pan_and_scan"):
        return None
    count = whole.get("image_seq_length") or config.get("mm_tokens_per_image", 256)
    begin, soft, end = "<start_of_image>", "<image_soft_token>", "<end_of_image>"
    shown = f"\n\n{begin}{soft * count}{end}\n\n"
    return ImageTokens(begin, soft, lambda _width, _height: shown)


def _smol(_: Mapping[str, Any], whole: Mapping[str, Any], image: Mapping[str, Any]) -> ImageTokens:
    """Of SmolVLM and Idefics 3: cut into squares, row by row, and then the whole image once more."""
    longest = (image.get("size") or {}).get("longest_edge", 4 * 364)
    square = (image.get("max_image_size") or {}).get("longest_edge", 364)
    splits = image.get("do_image_splitting", True)
    count = whole.get("image_seq_len", 169)
    soft, around, overview = "<image>", "<fake_token_around_image>", "<global-img>"
    last = f"{around}{overview}{soft * count}{around}"

    def text(width: int, height: int) -> str:
        rows, columns = _squares(width, height, longest, square) if splits else (1, 1)
        if rows * columns == 1:
            return last
        lines = (
            "".join(f"{around}<row_{row}_col_{column}>{soft * count}" for column in range(1, columns + 1))
            for row in range(1, rows + 1)
        )
        return "".join(f"{line}\n" for line in lines) + "\n" + last

    return ImageTokens(soft, soft, text)


def _squares(width: int, height: int, longest: int, square: int) -> tuple[int, int]:
    """Return how many rows and columns of squares an image is cut into, its longer side made `longest`."""
    wide = width >= height
    ratio = width / height

    def other_of(side: int, ratio: float) -> int:
        # In this order: divided and multiplied floats are rounded down to other numbers.
        return int(side / ratio) if wide else int(side * ratio)

    side, other = longest, other_of(longest, ratio)
    other = max(other + other % 2, 1)
    if side > _LARGEST_SIDE:
        ratio = side / other if wide else other / side
        side, other = _LARGEST_SIDE, max(other_of(_LARGEST_SIDE, ratio), 1)
    ratio = side / other if wide else other / side
    along = math.ceil(side / square)
    across = math.ceil(other_of(along * square, ratio) / square)
    return (across, along) if wide else (along, across)


FAMILIES: Final[
    dict[str, Callable[[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]], ImageTokens | None]]
] = {
    "gemma3": _gemma,
    "idefics3": _smol,
    "llava": _llava,
    "qwen2_5_vl": _qwen,
    "qwen2_vl": _qwen,
    "qwen3_vl": _qwen,
    "qwen3_vl_moe": _qwen,
    "smolvlm": _smol,
}
"""`model_type` of config.json -> its rule, of that file, of the processor's and of the image processor's."""


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
