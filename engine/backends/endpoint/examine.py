"""What is found out about the servers before any work: kind, version, model, and what they take.

Each server is asked for its models and for one token. A night goes to servers that are all alike: answers of
two versions are not the same answers.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import httpx

from engine.backends.endpoint.bodies import NoReply, Reply, json_of, reply_in, request_body
from engine.backends.endpoint.kinds import KINDS, OTHER, kind_of
from engine.backends.endpoint.options import KEY_VARIABLE, OPTION, EndpointOptions
from engine.backends.endpoint.picture import TEXT_PART, image_part
from engine.backends.facts import Capabilities, EngineFacts
from engine.choices import ENDPOINT
from engine.errors import OptionError
from engine.runtime.sample.settings import CHANGING, Sampling

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.backends.endpoint.kinds import Kind

CONNECT_S: Final = 10.0
PROBE_S: Final = 120.0
"""A server may be busy with others."""
BUSY_TRIES: Final = 5
_BEYOND: Final = (
    *("top_k", "seed", "stop_token_ids", "ignore_eos", "logprobs", "constraint"),
    *CHANGING,
    *("logit_bias", "include_stop_str_in_output", "chat_template_kwargs", "tools"),
)
"""Fields of `Sampling`, and what is said to the chat template, that not every server honours."""


def examine(
    options: EndpointOptions,
    names: Sequence[str],
    sample: list[int],
    *,
    images: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> EngineFacts:
    """Ask the servers what they are.

    Parameters
    ----------
    options
        As a person gave them.
    names
        What the servers may call the model, if the options do not say.
    sample
        Token ids of a short text, of the model's vocabulary.
    images
        Whether the model has a vision tower: it is then tried whether the servers take images.

    Raises
    ------
    OptionError
        One line, if a server cannot be reached, refuses the key, does not have the model or answers nothing,
        or if two of them differ.
    """
    timeout = httpx.Timeout(min(PROBE_S, options.timeout_s), connect=CONNECT_S)
    found = []
    with httpx.Client(headers=options.headers(), timeout=timeout) as client:
        for url in options.urls:
            found.append(_Look(client, url, options, sleep).examine(names, sample, images=images))
            if found[-1] != found[0]:
                first, other = (f"{one.version}, {one.prompts}" for one in (found[0], found[-1]))
                raise OptionError(
                    f"{OPTION} url",
                    f"{url} has {other}, {options.urls[0]} has {first}",
                    "give a night servers of one version with one model",
                )
    return facts_of(found[0])


def facts_of(options: EndpointOptions) -> EngineFacts:
    """Return what is known of servers that were asked."""
    kind = KINDS[options.kind or OTHER]
    return EngineFacts(
        ENDPOINT,
        options.version,
        Capabilities(exact_hits=kind.exact_hits, seeded="seed" in kind.honours, images=options.images),
        unsupported=tuple(name for name in _BEYOND if name not in kind.honours),
        prompts="text" if options.prompts == "text" else "ids",
        options=options.as_dict(),
    )


class _Look:
    """A look at one server."""

    def __init__(
        self, client: httpx.Client, url: str, options: EndpointOptions, sleep: Callable[[float], None]
    ) -> None:
        self._client, self._url, self._options, self._sleep = client, url, options, sleep

    def examine(self, names: Sequence[str], sample: list[int], *, images: bool) -> EndpointOptions:
        models = self._models()
        model = self._model(models, names)
        kind = kind_of(next((one.get("owned_by") for one in models if one.get("id") == model), None))
        asked = replace(self._options, model=model, kind=kind.name)
        found = self._probe(asked, kind, sample)
        words = [kind.name, self._version(kind), model, *(["as text"] if found.prompts == "text" else [])]
        sees = images and self._sees(found)
        return replace(found, version=" ".join(word for word in words if word), images=sees)

    def _sees(self, asked: EndpointOptions) -> bool:
        """Tell whether the server takes an image: its prompt is then longer than without.

        One that answers all the same has not looked at it.
        """
        counts = []
        for parts in ([TEXT_PART], [image_part(), TEXT_PART]):
            reply = self._ask(
                asked, Sampling(max_tokens=1), {"messages": [{"role": "user", "content": parts}]}
            )
            if not isinstance(reply, Reply):
                return False
            counts.append(reply.prompt_tokens)
        return counts[1] > counts[0]

    def _models(self) -> list[dict[str, Any]]:
        response = self._send("GET", f"{self._url}/models")
        if response.status_code in {401, 403}:
            raise self._key_refused(response.status_code)
        if response.status_code != 200:
            raise self._error(
                f"answers {response.status_code} to /models", "name the address up to and with /v1"
            )
        body = json_of(response)
        models = body.get("data") if isinstance(body, dict) else None
        if not isinstance(models, list):
            raise self._error("has no list of models", "name the address of an OpenAI-compatible API")
        return [one for one in models if isinstance(one, dict) and isinstance(one.get("id"), str)]

    def _model(self, models: list[dict[str, Any]], names: Sequence[str]) -> str:
        wanted = [self._options.model] if self._options.model is not None else list(names)
        for name in wanted:
            for one in models:
                # One kind of server adds a revision; another tells the folder beside its own name for it.
                if name in {one["id"], one["id"].partition("@")[0], one.get("root")}:
                    return str(one["id"])
        served = ", ".join(one["id"] for one in models[:5]) or "none"
        raise OptionError(
            f"{OPTION} model",
            f"{self._url} does not have {wanted[0]}; it has {served}",
            f"name one of these by {OPTION} model=NAME, or start the server with the model",
        )

    def _version(self, kind: Kind) -> str:
        if not kind.version_path:
            return ""
        response = self._send("GET", f"{self._url.removesuffix('/v1')}{kind.version_path}")
        body = json_of(response) if response.status_code == 200 else None
        return str(body.get(kind.version_field, "")) if isinstance(body, dict) else ""

    def _probe(self, asked: EndpointOptions, kind: Kind, sample: list[int]) -> EndpointOptions:
        """Return the form of requests that the server takes, by sending it one."""
        settings = Sampling(max_tokens=1)
        chat = {"messages": [{"role": "user", "content": "Hello"}]}
        prompts: dict[str, list[list[int] | dict[str, Any]]] = {
            "ids": [sample],
            "text": [chat, {"prompt": "Hello"}],
        }
        said = ""
        for form in ("ids", "text") if asked.prompts == "auto" else (asked.prompts,):
            for prompt in prompts[form]:
                for extended in (True,) if kind.name != OTHER else (True, False):
                    found = replace(asked, prompts=form, extended=extended)
                    reply = self._ask(found, settings, prompt)
                    if isinstance(reply, Reply):
                        # One that takes ids for a text, or adds to them, has another number of them.
                        if form != "ids" or reply.prompt_tokens == len(sample):
                            return found
                        said = f"{reply.prompt_tokens} tokens counted of {len(sample)} sent"
                    else:
                        said = said or reply.said
        raise self._error(f"does not answer a request for one token: {said}", "see what the server logs")

    def _ask(
        self, options: EndpointOptions, settings: Sampling, prompt: list[int] | dict[str, Any]
    ) -> Reply | NoReply:
        path, body = request_body(options, settings, prompt)
        for again in range(BUSY_TRIES):
            response = self._send("POST", self._url + path, body)
            reply = reply_in(response)
            if isinstance(reply, Reply) or reply.fate in {"bad_request", "unusable"}:
                break
            # Of a failure the second one is believed.
            if again and reply.fate == "failed":
                break
            self._sleep(min(2.0**again, reply.wait_s or 30.0))
        if response.status_code in {401, 403}:
            raise self._key_refused(response.status_code)
        return reply

    def _send(self, method: str, url: str, body: dict[str, Any] | None = None) -> httpx.Response:
        try:
            try:
                return self._client.request(method, url, json=body)
            except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
                # A connection may be cut now and then.
                return self._client.request(method, url, json=body)
        except httpx.TimeoutException:
            raise self._error("does not answer in time", "see that the server is up") from None
        except httpx.RequestError as error:
            raise self._error(
                f"cannot be reached ({type(error).__name__})", "see that the server is up, and its address"
            ) from None

    def _key_refused(self, status: int) -> OptionError:
        name = self._options.key_env or KEY_VARIABLE
        sent = "Authorization" in self._client.headers
        return OptionError(
            f"{OPTION} key_env",
            f"{self._url} answers {status}: it {f'refuses the key of {name}' if sent else 'wants a key'}",
            f"put the key into {name} of the environment of the night",
        )

    def _error(self, message: str, remedy: str) -> OptionError:
        return OptionError(f"{OPTION} url", f"{self._url} {message}", remedy)
