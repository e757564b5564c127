"""Images of a chat: what a part of a message says, the bytes behind it, and what a prompt keeps of them.

In a prompt's normal form an image is `{"type": "image", "sha256", "media_type", "width", "height"}`, with
`detail` where the request gave one. Its bytes are kept apart, under that digest: no table row holds them, and
equal images are one.
"""

from __future__ import annotations

import base64
import hashlib
import io
import warnings
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol

from tasks.base.errors import ErrorCode, RequestError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

MOST_BYTES: Final = 20 << 20
MOST_PIXELS: Final = 50_000_000
MOST_IMAGES: Final = 100
"""Of one image, and in one request; a picture of few bytes can have any number of pixels."""
KIND: Final = "image"
"""Type of an image in a prompt's normal form."""
FORMATS: Final = ("PNG", "JPEG", "GIF", "WEBP")
"""As OpenAI takes them; other decoders are never tried."""
_MARK: Final = '"type":"image"'
_TURNED: Final = range(5, 9)
"""Orientations of EXIF in which width and height change places."""
_ORIENTATION: Final = 0x0112
_TURNING: Final = frozenset({"JPEG", "WEBP"})


class Fetch(Protocol):
    """Reads the bytes at an address that a part names; `where` is the field of the body, for errors.

    Raises `RequestError` if they cannot be had, or may not be.
    """

    def __call__(self, address: str, where: str) -> bytes: ...  # noqa: D102 - described by the class


class Keep(Protocol):
    """Keeps the bytes of an image under their digest."""

    def __call__(self, sha256: str, data: bytes) -> None: ...  # noqa: D102 - described by the class


class ImageReader:
    """Reads image parts of messages.

    Parameters
    ----------
    fetch
        What reads an address that is no data URL; None refuses them.
    keep
        What keeps the bytes; None forgets them.
    """

    def __init__(self, fetch: Fetch | None = None, keep: Keep | None = None) -> None:
        self._fetch, self._keep = fetch, keep
        self._found: list[str] = []

    def take(self) -> list[str]:
        """Return the digests of what was read since the last call."""
        found, self._found = self._found, []
        return found

    def part(self, part: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Return the normal form of an `image_url` part.

        Parameters
        ----------
        where
            Its place, for errors.

        Raises
        ------
        RequestError
            `invalid_parameter` or `unsupported_parameter`, naming a field of the part; `invalid_image`, if
            what is there is no image, or too large a one; `image_unavailable`, if it cannot be had.
        """
        if len(self._found) >= MOST_IMAGES:
            raise RequestError(
                ErrorCode.UNSUPPORTED_PARAMETER, where, f"a request may have {MOST_IMAGES} images at most"
            )
        given, place = part.get("image_url"), f"{where}.image_url"
        if isinstance(given, str):
            given = {"url": given}
        if not isinstance(given, dict):
            _invalid(place, "must be an object with a url")
        for name in sorted(given.keys() - {"url", "detail"}):
            if given[name] not in (None, ""):
                message = "this field of an image is not supported"
                raise RequestError(ErrorCode.UNSUPPORTED_PARAMETER, f"{place}.{name}"[:120], message)
        url, detail = given.get("url"), given.get("detail")
        if not isinstance(url, str) or not url:
            _invalid(f"{place}.url", "must be a text, not empty")
        if detail is not None and not isinstance(detail, str):
            _invalid(f"{place}.detail", "must be a text")
        data = self._bytes(url, f"{place}.url")
        media_type, width, height = look_at(data, f"{place}.url")
        sha256 = hashlib.sha256(data).hexdigest()
        if self._keep is not None:
            self._keep(sha256, data)
        self._found.append(sha256)
        size = {"sha256": sha256, "media_type": media_type, "width": width, "height": height}
        return {"type": KIND, **size, **({} if detail is None else {"detail": detail})}

    def _bytes(self, url: str, where: str) -> bytes:
        if url[:5].lower() == "data:":
            return _decoded(url, where)
        if self._fetch is None:
            refuse_address(where)
        return self._fetch(url, where)


def refuse_address(where: str) -> NoReturn:
    """Refuse an address that is read from nowhere."""
    message = (
        "an image is read from a data URL, from below the folder of the logs, or from where --image-source "
        "says"
    )
    raise RequestError(ErrorCode.UNSUPPORTED_PARAMETER, where, message)


def too_large(where: str) -> NoReturn:
    """Refuse an image of more than `MOST_BYTES`."""
    message = f"the image has more than {MOST_BYTES >> 20} MiB"
    raise RequestError(ErrorCode.INVALID_IMAGE, where, message)


def look_at(data: bytes, where: str) -> tuple[str, int, int]:
    """Return media type, width and height in pixels of an image, as it is shown.

    Its header is read and its check sums, where it has some; nothing is decoded.

    Raises
    ------
    RequestError
        `invalid_image`.
    """
    # Slow to import, and most logs have none.
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # Its own limit is beyond ours.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                form, (width, height) = str(image.format), image.size
                # Of PNG it would decode the whole.
                turned = form in _TURNING and image.getexif().get(_ORIENTATION) in _TURNED
                image.verify()
    except Image.DecompressionBombError:
        _too_many_pixels(where)
    except Exception:  # noqa: BLE001 - damaged files raise what they like in its many decoders
        known = ", ".join(FORMATS)
        message = f"it holds no whole image of a form that is taken: {known}"
        raise RequestError(ErrorCode.INVALID_IMAGE, where, message) from None
    if width * height > MOST_PIXELS:
        _too_many_pixels(where)
    return f"image/{form.lower()}", *((height, width) if turned else (width, height))


def _too_many_pixels(where: str) -> NoReturn:
    message = f"the image has more than {MOST_PIXELS:,} pixels"
    raise RequestError(ErrorCode.INVALID_IMAGE, where, message) from None


def has_images(messages_json: str | None) -> bool:
    """Tell whether a chat in its normal form has images; within texts a quote is never a plain one."""
    return messages_json is not None and _MARK in messages_json


def images_of(messages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the images of a chat in their order, each with its place."""
    for number, message in enumerate(messages):
        content = message["content"]
        if isinstance(content, list):
            for index, part in enumerate(content):
                if part["type"] == KIND:
                    yield f"messages[{number}].content[{index}]", part


def _decoded(url: str, where: str) -> bytes:
    head, comma, text = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        _no_base64(where)
    if len(text) > MOST_BYTES // 3 * 4 + 4:
        too_large(where)
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        _no_base64(where)


def _no_base64(where: str) -> NoReturn:
    message = "the data URL is not of the form data:image/TYPE;base64,TEXT"
    raise RequestError(ErrorCode.INVALID_IMAGE, where, message)


def _invalid(where: str, message: str) -> NoReturn:
    raise RequestError(ErrorCode.INVALID_PARAMETER, where, message)
