"""Each check fails for its own reason and says what to do."""

from __future__ import annotations

import fcntl
from datetime import UTC, datetime, timedelta

import pytest

from flows.deploy.doctor import check_prefect
from tasks.operations import doctor
from tasks.operations.doctor import Asked, check_clock, check_night
from tasks.store.open import open_store
from tests.support.dated_nights import day, write_day
from tests.support.paths import DEMO_MODEL


def found(**asked):
    return {check.name: check for check in check_night(Asked(**asked))}


@pytest.fixture
def asked(tmp_path):
    write_day(tmp_path, day(0))
    return {
        "store": str(tmp_path / "store"),
        "job": "triage",
        "source": f"{tmp_path}/logs/{{run_date}}/",
        "run_date": day(0),
        "model": str(DEMO_MODEL),
        "device": "cpu",
    }


def test_all_is_well_and_nothing_is_left_behind(asked):
    checks = found(**asked)
    assert {name: check.outcome for name, check in checks.items()} == dict.fromkeys(
        ("store", "clock", "source", "catalog", "model", "device"), "ok"
    )
    assert "1 objects" in checks["source"].text
    assert "cpu, float32" in checks["device"].text
    left = {info.key for info in open_store(asked["store"]).list()}
    assert doctor.CLOCK_KEY not in left
    assert not any(key.startswith("triage") for key in left)


@pytest.mark.parametrize(
    ("changed", "name", "outcome", "said"),
    [
        ({"run_date": day(3)}, "source", "warning", "0 objects"),
        ({"source": None}, "source", "skipped", "not asked for"),
        ({"source": "postgresql://db/logs?query=select 1"}, "source", "skipped", "rows of a table"),
        ({"catalog": "none"}, "catalog", "skipped", "files only"),
        ({"catalog": "postgresql+psycopg://u@127.0.0.1:9/x"}, "catalog", "failed", "refused"),
        ({"catalog": "mysql://x"}, "catalog", "failed", "--catalog: unknown kind"),
        ({"model": None}, "model", "skipped", "not asked for"),
        ({"device": "cuda:99"}, "device", "failed", "--device: cuda:99 cannot be used"),
        ({"dtype": "int3"}, "device", "failed", "--dtype"),
    ],
)
def test_what_is_wrong_is_named(asked, changed, name, outcome, said):
    check = found(**asked | changed)[name]
    assert check.outcome == outcome
    assert said in check.text
    assert (check.remedy == "") == (outcome == "skipped")


def test_without_a_store_what_needs_it_is_skipped(asked, tmp_path):
    (tmp_path / "file").write_text("x")
    checks = found(**asked | {"store": str(tmp_path / "file")})
    assert checks["store"].outcome == "failed"
    assert [checks[name].outcome for name in ("clock", "source", "catalog")] == ["skipped"] * 3
    assert checks["model"].outcome == "ok"


@pytest.mark.parametrize(
    ("off_s", "outcome", "said"),
    [
        (0, "ok", "agrees"),
        (120, "warning", "ahead of"),
        (-120, "warning", "behind"),
        (-3600, "failed", "behind"),
    ],
)
def test_the_clock_is_held_against_the_stores(store, off_s, outcome, said):
    check = check_clock(store, lambda: datetime.now(UTC) + timedelta(seconds=off_s))
    assert check.outcome == outcome
    assert said in check.text


def test_a_device_in_use_is_seen(asked, tmp_path, monkeypatch):
    path = tmp_path / "lock"
    monkeypatch.setattr(doctor, "find_device", lambda _: "cuda:0")
    monkeypatch.setattr(doctor, "lock_file", lambda _: path)
    assert found(**asked)["device"].outcome == "ok"
    with path.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert found(**asked)["device"].outcome == "warning"
    assert found(**asked)["device"].outcome == "ok"


def test_prefect_may_be_off_or_down(monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert check_prefect("pool").outcome == "skipped"
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    check = check_prefect(None)
    assert check.outcome == "failed"
    assert "http://127.0.0.1:9/api" in check.text
