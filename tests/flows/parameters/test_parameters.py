"""Parameters: what is typed becomes a night, or one line that names the option."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from engine.choices import ORDERS
from engine.cost import devices
from flows.parameters.nightly import NightlyParameters
from flows.parameters.to_request import night_request
from tasks.base.errors import ConfigurationError
from tasks.infer.backends import ray_cluster

GIVEN = {"job": "triage", "source": "logs/{run_date:%Y/%m/%d}/", "store": "store", "model": "model"}


def test_everything_typed_arrives_in_the_night():
    request = night_request(
        NightlyParameters.parse(
            GIVEN
            | {
                "run_date": "2026-03-04",
                "policy": "dfs",
                "lengths": "logged",
                "max_tokens": "9",
                "temperature": "0.5",
                "top_k": "3",
            }
            | {
                "kv_tokens": "4096",
                "publish": False,
                "rerun": True,
                "model_filter": ["small-*"],
                "run_seed": "7",
            }
        )
    )
    settings = request.settings
    assert (request.job, request.store_uri, request.run_date) == ("triage", "store", date(2026, 3, 4))
    assert (settings.policy, settings.kv_tokens, settings.publish) == ("dfs", 4096, False)
    assert settings.defaults.as_dict() == {"max_tokens": 9, "temperature": 0.5, "top_k": 3, "top_p": 1.0}
    assert (request.rerun, request.take_over, request.model_filter) == (True, False, ("small-*",))
    assert (settings.run_seed, settings.lengths) == (7, "logged")


def test_device_and_precision_are_found_before_the_run(monkeypatch):
    monkeypatch.setattr(devices, "_DRIVER_FILES", ())
    settings = night_request(NightlyParameters.parse(GIVEN)).settings
    assert (settings.device, settings.dtype) == ("cpu", "float32")
    assert (settings.token_budget, settings.max_sequences) == (1024, 128)
    with pytest.raises(ConfigurationError) as error:
        night_request(NightlyParameters.parse(GIVEN | {"device": "cuda"}))
    expected = "--device: cuda cannot be used: this machine has no NVIDIA driver. Use --device cpu or auto"
    assert str(error.value).lower().startswith(expected.lower())
    assert "\n" not in str(error.value)
    monkeypatch.setattr(devices, "cuda_problem", lambda *_: None)
    settings = night_request(NightlyParameters.parse(GIVEN)).settings
    assert (settings.device, settings.dtype) == ("cuda:0", "bfloat16")
    assert (settings.token_budget, settings.max_sequences) == (2048, 512)
    settings = night_request(
        NightlyParameters.parse(GIVEN | {"device": "cuda:1", "dtype": "float32"})
    ).settings
    assert (settings.device, settings.dtype) == ("cuda:1", "float32")


def test_the_date_is_a_lag_of_local_calendar_days():
    parameters = NightlyParameters.parse(GIVEN | {"timezone": "Asia/Tokyo", "lag_days": 2})
    assert night_request(parameters, datetime(2026, 3, 4, 20, tzinfo=UTC)).run_date == date(2026, 3, 3)


def test_a_source_without_dates_needs_one():
    with pytest.raises(ConfigurationError, match=r"^--run-date: "):
        night_request(NightlyParameters.parse(GIVEN | {"source": "logs/"}))


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        (
            {"policy": "fastest"},
            "--policy: 'fastest' is unknown; it must be one of auto, fcfs, random, dfs, blend, interleave. ",
        ),
        ({"job": "Two Words"}, "--job: 'Two Words' should have only lower-case letters and digits"),
        ({"job": "../x"}, "--job: '../x' should"),
        ({"temperature": "3"}, "--temperature: '3' should be less than or equal to 2. "),
        ({"max_tokens": "many"}, "--max-tokens: 'many' should be a valid integer"),
        ({"kv_tokens": "0"}, "--kv-tokens: '0' should be greater than or equal to 1. "),
        ({"run_date": "yesterday"}, "--run-date: 'yesterday' should be a valid date"),
        ({"heartbeat_s": "90"}, "--heartbeat-s: '90' must be below lease_s (90)"),
        ({"timezone": "Mars/Base"}, "--timezone: 'Mars/Base' is not known. "),
        ({"colour": "red"}, "--colour: is not known. "),
    ],
)
def test_a_wrong_value_is_one_line_naming_its_option(wrong, line):
    with pytest.raises(ConfigurationError) as caught:
        night_request(NightlyParameters.parse(GIVEN | wrong))
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_the_first_missing_option_is_named():
    with pytest.raises(ConfigurationError, match=r"^--source: is missing\. "):
        NightlyParameters.parse({"job": "triage"})


def test_the_form_has_text_for_every_field():
    schema = NightlyParameters.model_json_schema()
    assert list(schema["properties"]) == list(NightlyParameters.model_fields)
    assert schema["properties"]["policy"]["enum"] == list(ORDERS)
    for name, field in schema["properties"].items():
        assert field["title"], name
        assert field["description"].endswith("."), name


def test_a_preset_does_not_beat_what_was_typed():
    def night(**typed):
        return NightlyParameters.parse(GIVEN | typed).with_preset()

    assert night(preset="trial").publish is False
    kept = night(preset="trial", publish=True, part_seconds="60")
    assert (kept.publish, kept.part_seconds, kept.part_answers, kept.preset) == (True, 60.0, 100, "standard")
    assert night(preset="exact", dtype="auto").dtype == "auto"
    assert night(preset="throughput", lengths="logged").lengths == "logged"
    # A second look changes nothing.
    assert kept.with_preset() == kept


def test_a_preset_holds_where_a_page_sends_all_fields_as_it_showed_them():
    shown = NightlyParameters.parse(GIVEN).model_dump(mode="json", exclude_none=True)
    given = NightlyParameters.parse(shown | {"preset": "trial", "part_answers": 7}).with_preset()
    assert (given.publish, given.part_seconds, given.part_answers) == (False, 10.0, 7)


def test_replicas_are_on_devices_that_are_there(monkeypatch):
    problems = {0: None, 1: None, 2: "there are 2 CUDA devices"}
    monkeypatch.setattr(devices, "cuda_problem", lambda index=0: problems[index])
    settings = night_request(NightlyParameters.parse(GIVEN | {"replicas": "2"})).settings
    assert (settings.device, settings.replicas) == ("cuda:0", 2)
    with pytest.raises(ConfigurationError, match=r"--replicas: 3 from cuda:0 on: .*there are 2 CUDA devices"):
        night_request(NightlyParameters.parse(GIVEN | {"replicas": "3"}))
    assert (
        night_request(NightlyParameters.parse(GIVEN | {"device": "cpu", "replicas": 9})).settings.replicas
        == 9
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"engine": "endpoint", "engine_option": ["url=http://127.0.0.1:1/v1"]}, "has no meaning with"),
        ({"compute_on": "compute/gpu"}, "does not go with --compute-on yet"),
    ],
)
def test_replicas_are_refused_where_they_cannot_be(more, said):
    with pytest.raises(ConfigurationError, match=f"--replicas: {said}"):
        night_request(NightlyParameters.parse(GIVEN | {"replicas": 2} | more))


def test_a_cluster_deals_its_gpus_out(monkeypatch):
    monkeypatch.setattr(ray_cluster, "find_spec", lambda _: object())
    settings = night_request(NightlyParameters.parse(GIVEN | {"ray": "auto", "replicas": 8})).settings
    # Nobody looks for GPUs here.
    assert (settings.ray, settings.replicas, settings.device) == ("auto", 8, "cuda:0")
    settings = night_request(NightlyParameters.parse(GIVEN | {"ray": "auto", "device": "cpu"})).settings
    assert (settings.replicas, settings.device) == (1, "cpu")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, r"--ray: Ray is not installed. pip install 'nightblend\[ray\]'"),
        ({"ray": "ray://10.0.0.5:10001"}, r"--ray: .*Ray's client.*HOST:6379"),
        ({"compute_on": "compute/compute"}, r"--ray: does not go with --compute-on"),
        ({"device": "cuda:1"}, r"--device: cuda:1 has no meaning on a cluster.*Use cuda or cpu"),
        (
            {"engine": "endpoint", "engine_option": ["url=http://localhost:1/v1"]},
            r"--ray: has no meaning with --engine endpoint",
        ),
    ],
)
def test_what_a_cluster_cannot_do_is_told_in_one_line(more, said, monkeypatch):
    monkeypatch.setattr(ray_cluster, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=said) as told:
        night_request(NightlyParameters.parse(GIVEN | {"ray": "auto"} | more))
    assert "\n" not in str(told.value)
