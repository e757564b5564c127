"""Before any work: options are checked, servers are asked, and one line says what is wrong."""

from __future__ import annotations

import socket

import pytest

from engine.backends.endpoint.bodies import NoReply, Reply, read_reply
from engine.backends.endpoint.examine import examine
from engine.backends.endpoint.options import KEY_VARIABLE, EndpointOptions, parse_options
from engine.errors import OptionError
from tests.servers.openai_api import MODEL, openai_server

URL = "url=http://localhost:8000/v1"
SECRET = "sk-very-secret"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "url: is missing"),
        (["model=x"], "url: is missing"),
        ([URL, f"key={SECRET}"], "'key' is not known"),
        ([URL, SECRET], "not of the form KEY=VALUE"),
        ([URL, f"key_env={SECRET}"], "key_env: that is no name"),
        ([f"url=http://user:{SECRET}@host/v1"], "url: an address has a user"),
        ([f"url=http://host/v1?key={SECRET}"], "url: an address has a user"),
        (["url=localhost:8000"], "url: 'localhost:8000' is no address"),
        (["url=http://host:99999/v1"], "is no address"),
        (["url=ftp://host/v1"], "is no address"),
        ([URL, "prompts=audio"], "prompts: 'audio' is unknown"),
        ([URL, "timeout_s=nan"], "timeout_s: 'nan' is out of range"),
        ([URL, "timeout_s=0"], "timeout_s: '0' is out of range"),
        ([URL, "retries=-1"], "retries: '-1' is out of range"),
        ([URL, "model=a", "model=b"], "model: is given twice"),
        ([URL, "model="], "model: is empty"),
    ],
)
def test_a_wrong_option_is_named_and_no_secret_repeated(given: list[str], said: str) -> None:
    with pytest.raises(OptionError) as error:
        parse_options(given)
    assert said in str(error.value)
    assert SECRET not in str(error.value)
    assert "\n" not in str(error.value)


def test_options_survive_the_job_folder() -> None:
    options = parse_options(
        [URL, "url=https://other/v1/", "url=https://other/v1", "retries=0", "timeout_s=2.5", "model=a=b"], 7
    )
    assert options.urls == ("http://localhost:8000/v1", "https://other/v1")
    assert (options.retries, options.timeout_s, options.model, options.max_in_flight) == (0, 2.5, "a=b", 7)
    assert EndpointOptions.of_job(options.as_dict()) == options


def test_the_key_is_that_of_the_environment(monkeypatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert parse_options([URL]).headers() == {}
    monkeypatch.setenv(KEY_VARIABLE, f" {SECRET}\n")
    assert parse_options([URL]).headers() == {"Authorization": f"Bearer {SECRET}"}
    assert SECRET not in repr(parse_options([URL]))
    with pytest.raises(OptionError, match="the environment has no OTHER_KEY"):
        parse_options([URL, "key_env=OTHER_KEY"]).headers()
    monkeypatch.setenv("OTHER_KEY", f"{SECRET}\n{SECRET}")
    with pytest.raises(OptionError, match="what no HTTP header can") as error:
        parse_options([URL, "key_env=OTHER_KEY"]).headers()
    assert SECRET not in str(error.value)


def look(*given: str, names: tuple[str, ...] = (MODEL,)):
    return examine(parse_options(given), names, [5, 6, 7], sleep=lambda _: None)


def test_what_is_wrong_with_a_server_is_one_line() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(OptionError, match=r"url: http://127.0.0.1:\d+/v1 cannot be reached \(Conn"):
            look(f"url=http://127.0.0.1:{unused.getsockname()[1]}/v1")
    with openai_server() as server:
        with pytest.raises(OptionError, match="answers 404 to /models; name the address up to and with /v1"):
            look(f"url={server.url.removesuffix('/v1')}")
        with pytest.raises(OptionError, match=f"model: .* does not have another; it has {MODEL}; name one"):
            look(f"url={server.url}", "model=another")
        with pytest.raises(OptionError, match="does not have demo; it has"):
            look(f"url={server.url}", names=("demo", "/models/demo"))


def test_a_key_that_is_missing_or_wrong_is_one_line(monkeypatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with openai_server(key=SECRET) as server:
        with pytest.raises(
            OptionError, match=f"answers 401: it wants a key; put the key into {KEY_VARIABLE}"
        ):
            look(f"url={server.url}")
        monkeypatch.setenv("MINE", "wrong")
        with pytest.raises(OptionError, match="answers 401: it refuses the key of MINE"):
            look(f"url={server.url}", "key_env=MINE")
        monkeypatch.setenv("MINE", SECRET)
        assert look(f"url={server.url}", "key_env=MINE").name == "endpoint"


def test_a_busy_server_is_asked_again_and_a_broken_one_told() -> None:
    with openai_server(fault=lambda number, _: "503" if number < 3 else None) as server:
        assert look(f"url={server.url}").version == f"vllm 0.32.0 {MODEL}"
        assert len(server.seen.bodies) == 4
    for once in ("reset", "half", "500", "abort", "429"):
        with openai_server(fault=lambda number, _, once=once: None if number else once) as server:
            assert look(f"url={server.url}").version == f"vllm 0.32.0 {MODEL}"
            assert len(server.seen.bodies) == 2
    with (
        openai_server(fault=lambda *_: "500") as server,
        pytest.raises(OptionError, match="does not answer a request for one token: status 500"),
    ):
        look(f"url={server.url}")
    with (
        openai_server(fault=lambda *_: "abort") as server,
        pytest.raises(OptionError, match="one token: status 200 with an answer that was broken off"),
    ):
        look(f"url={server.url}")


def test_servers_of_one_night_are_alike() -> None:
    with openai_server() as one, openai_server(version="0.33.0") as other:
        with pytest.raises(OptionError, match=r"has vllm 0.33.0 served, ids, .* has vllm 0.32.0 served, ids"):
            look(f"url={one.url}", f"url={other.url}")
        other.version = "0.32.0"
        assert look(f"url={one.url}", f"url={other.url}").options["urls"] == [one.url, other.url]


def test_a_server_that_refuses_fields_beyond_the_api_does_not_get_them() -> None:
    with openai_server(owned_by="library", refuses=frozenset({"min_p", "top_k"})) as server:
        facts = look(f"url={server.url}")
    assert (facts.prompts, facts.options["extended"]) == ("ids", False)
    assert "top_k" in facts.unsupported


def test_the_folder_that_a_server_was_started_with_names_its_model() -> None:
    with openai_server() as server:
        assert look(f"url={server.url}", names=("one", "/models/one")).options["model"] == MODEL


BODY = {
    "choices": [{"text": "a", "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1},
}


def test_what_counts_as_an_answer() -> None:
    assert read_reply(200, BODY, {}) == Reply("a", None, "stop", 3, 1, None)
    chat = {"message": {"content": None}, "finish_reason": "length"}
    assert read_reply(200, {**BODY, "choices": [chat]}, {}) == Reply("", None, "length", 3, 1, None)
    for broken in (
        None,
        [],
        {},
        {**BODY, "choices": []},
        {**BODY, "usage": None},
        {**BODY, "usage": {"prompt_tokens": 3, "completion_tokens": True}},
        {**BODY, "choices": [{"text": None, "finish_reason": "stop"}]},
        {**BODY, "choices": [{"text": "a", "finish_reason": None}]},
        {**BODY, "choices": [{"text": "a", "finish_reason": "tool_calls"}]},
    ):
        found = read_reply(200, broken, {})
        assert isinstance(found, NoReply)
        assert found.fate == "failed"


@pytest.mark.parametrize(
    ("status", "body", "fate", "too_long"),
    [
        (400, {"error": {"type": "exceed_context_size_error"}}, "bad_request", True),
        (400, {"error": {"param": "input_tokens", "type": "BadRequestError"}}, "bad_request", True),
        (400, {"error": {"code": "context_length_exceeded"}}, "bad_request", True),
        (422, {"detail": ["prompt"]}, "bad_request", False),
        (404, {"error": {"type": "NotFoundError"}}, "unusable", False),
        (403, None, "unusable", False),
        (429, None, "refused", False),
        (503, {"error": "text"}, "refused", False),
        (500, "plain", "failed", False),
        (302, None, "failed", False),
    ],
)
def test_what_is_no_answer_is_told_apart(status: int, body: object, fate: str, too_long: bool) -> None:
    found = read_reply(status, body, {"retry-after": "7"})
    assert isinstance(found, NoReply)
    assert (found.fate, found.too_long) == (fate, too_long)
    assert found.wait_s == (7.0 if fate == "refused" else None)


def test_nothing_that_a_server_says_of_the_prompt_is_repeated() -> None:
    error = {"message": SECRET, "type": f"{SECRET} {SECRET} {'x' * 60}", "code": 400, "param": "a\nb"}
    found = read_reply(400, {"error": error}, {"retry-after": "Mon, 30 Nov 2026"})
    assert isinstance(found, NoReply)
    assert (found.said, found.wait_s) == ("status 400", None)
