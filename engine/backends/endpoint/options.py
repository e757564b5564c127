"""What a night may set of the servers that answer it, checked before anything is sent."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, Literal, Self
from urllib.parse import urlsplit

from engine.backends.endpoint.hours import Hours
from engine.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Sequence

OPTION: Final = "--engine-option"
KEY_VARIABLE: Final = "NIGHTBLEND_ENDPOINT_KEY"
MOST_IN_FLIGHT: Final = 512
"""Requests at a time per server where nobody sets less."""

MEANINGS: Final = {
    "url": "address of a server up to and with /v1; once for each of them",
    "model": "name of the model there; without it that of the model folder",
    "key_env": f"environment variable that holds the API key; without it {KEY_VARIABLE}, if it is set",
    "prompts": "ids, text (as the request gave them) or auto: ids where the servers take them",
    "timeout_s": "seconds that an answer may take; 600",
    "give_up_s": "seconds without any server after which the night stops, to be resumed; 300",
    "retries": "how often a request is sent again that a server has failed on; 5",
}
"""Key of `--engine-option` -> what it is."""


@dataclass(frozen=True)
class EndpointOptions:
    """The options of the engine `endpoint`, as they stand in a job folder too.

    Attributes
    ----------
    urls
        Of the servers, without a slash at the end.
    model
        Name of the model there; None until the servers were asked.
    key_env
        Environment variable of the API key; an empty one sends none.
    prompts
        What is sent, see `MEANINGS`; never `auto` once the servers were asked.
    kind
        Name in `engine.backends.endpoint.kinds.KINDS`; None until then.
    version
        What the servers' answers depend on: kind, its version, model, form of the prompts; empty until then.
    extended
        Whether the servers take fields that OpenAI's API does not have.
    images
        Whether they were seen to take an image.
    timeout_s, give_up_s, retries
        See `MEANINGS`.
    max_in_flight
        Most requests at a time over all servers; None: as many as they turn out to bear.
    hours, timezone
        When they may be used (`engine.backends.endpoint.hours`); no hours: at any time.
    """

    urls: tuple[str, ...]
    model: str | None = None
    key_env: str = ""
    prompts: Literal["auto", "ids", "text"] = "auto"
    kind: str | None = None
    version: str = ""
    extended: bool = False
    images: bool = False
    timeout_s: float = 600.0
    give_up_s: float = 300.0
    retries: int = 5
    max_in_flight: int | None = None
    hours: str = ""
    timezone: str = "UTC"

    @classmethod
    def of_job(cls, options: dict[str, Any]) -> Self:
        """Read them from a job folder."""
        return cls(**{**options, "urls": tuple(options["urls"])})

    def as_dict(self) -> dict[str, Any]:
        """Return them as JSON; a key is not among them."""
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        return {**found, "urls": list(self.urls)}

    def headers(self) -> dict[str, str]:
        """Return what every request says of who sends it.

        Raises
        ------
        OptionError
            If the variable is named and not set.
        """
        name = self.key_env or KEY_VARIABLE
        key = os.environ.get(name, "").strip()
        if not key:
            if not self.key_env:
                return {}
            raise OptionError(
                f"{OPTION} key_env", f"the environment has no {name}", "set it where the night runs"
            )
        if not key.isascii() or not key.isprintable():
            raise OptionError(
                f"{OPTION} key_env", f"{name} holds what no HTTP header can", "set it to the key alone"
            )
        return {"Authorization": f"Bearer {key}"}


def parse_options(
    given: Sequence[str], max_in_flight: int | None = None, hours: str | None = None, timezone: str = "UTC"
) -> EndpointOptions:
    """Read options as they were typed, KEY=VALUE; beside them what `run` has options of its own for.

    Raises
    ------
    OptionError
        Naming the one that is wrong. The value of a key that is not known is not repeated: it may be secret.
    """
    urls: list[str] = []
    values: dict[str, Any] = {}
    for one in given:
        key, equals, value = one.partition("=")
        if not equals or key not in MEANINGS:
            raise OptionError(
                OPTION,
                f"{key!r} is not known" if equals else "one of them is not of the form KEY=VALUE",
                f"engine endpoint has {', '.join(MEANINGS)}",
            )
        if key == "url":
            urls.append(_url(value))
        elif key in values:
            raise OptionError(f"{OPTION} {key}", "is given twice", "give it once")
        else:
            values[key] = _value(key, value)
    if not urls:
        raise OptionError(
            f"{OPTION} url", "is missing", f"name a server, for example {OPTION} url=http://localhost:8000/v1"
        )
    if hours:
        Hours.parse(hours, timezone)
    return EndpointOptions(
        tuple(dict.fromkeys(urls)),
        **values,
        max_in_flight=max_in_flight,
        hours=hours or "",
        timezone=timezone,
    )


def _url(value: str) -> str:
    parts = urlsplit(value)
    name = f"{OPTION} url"
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        # Not repeated: what is there may be secret.
        raise OptionError(
            name,
            "an address has a user, a password or a query in it",
            f"give a key by the environment variable {KEY_VARIABLE}",
        )
    try:
        known = (
            parts.scheme in {"http", "https"} and parts.hostname and (parts.port is None or parts.port > 0)
        )
    except ValueError:
        known = False
    if not known:
        raise OptionError(name, f"{value!r} is no address", "give one like http://localhost:8000/v1")
    return value.rstrip("/")


def _value(key: str, value: str) -> Any:  # noqa: ANN401 - of any option
    name = f"{OPTION} {key}"
    if key == "key_env":
        if not value.isidentifier() or not value.isascii():
            # Not repeated: it may be the key itself.
            raise OptionError(
                name, "that is no name of an environment variable", f"name one, like {KEY_VARIABLE}"
            )
        return value
    if key == "prompts":
        if value not in {"auto", "ids", "text"}:
            raise OptionError(name, f"{value!r} is unknown", "use auto, ids or text")
        return value
    if key == "model":
        if not value:
            raise OptionError(name, "is empty", "name the model as the servers do")
        return value
    try:
        number = int(value) if key == "retries" else float(value)
    except ValueError:
        number = -1
    # The comparison also refuses what is not a number.
    if not 0 <= number <= 1e9 or (number == 0 and key != "retries"):
        raise OptionError(name, f"{value!r} is out of range", "give a number above 0")
    return number
