"""After `forget` no object of the store holds a trace of the requests, and the rest stays consistent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from flows import cli
from tasks.base.accounting import Account
from tasks.base.errors import ConfigurationError
from tasks.night.promises import Promise
from tasks.operations.forget import Wanted, forget
from tasks.profile.profile import profile
from tasks.publish.current import date_log
from tasks.publish.promises import judge_promises
from tasks.publish.publish import publish
from tasks.runlog.log import RunIsLiveError, RunLog
from tasks.runlog.places import date_prefix, publication_prefix, run_prefix
from tasks.runlog.state import current_publication
from tests.support.nights import (
    DAY,
    INFER,
    error,
    open_test_night,
    output,
    quarantined,
    read_published,
    request,
    rid,
    write,
    write_inputs,
)
from tests.support.tables import Place, place, rows

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.night.night import Night

__all__ = ["place"]
A, B = "aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb"
SECRET = "Ottokar"


def fill(night: Night, answers: str = "") -> None:
    """Two requests of tenant `acme` (one answered, one failed), two of others, one line that names acme."""
    asked = [request("a", tenant="acme", prompt=f"About {SECRET}"), request("b", tenant="other")]
    asked += [request("c"), request("d", tenant="acme", prompt=SECRET)]
    write_inputs(night, asked, Account(lines=6, quarantined=2, requests=4))
    of_acme = quarantined(5) | {"raw_text": f'{{"custom_id": "d", "tenant": "acme", "x": "{SECRET}'}
    write(night, "quarantine", [quarantined(3), of_acme])
    profile(night)
    night.log.finish_step("plan", {"policy": "blend"})
    write(
        night,
        "outputs",
        [output("a", f"{SECRET} said {answers}", tenant="acme"), output("b", tenant="other")],
    )
    write(night, "outputs", [output("c")])
    write(night, "errors", [error("d", tenant="acme", prompt=SECRET)])
    night.log.finish_step("infer", INFER)


def test_what_was_promised_to_a_tenant_is_forgotten_with_it(place: Place, tmp_path: Path) -> None:
    store, catalog = place
    limits = {"abort_quarantined_fraction": 1.0, "max_bad_fraction": 1.0}
    promises = (Promise("acme", "06:00"), Promise("other", None, 0.3))
    with open_test_night(store, tmp_path / A, A, catalog=catalog, promises=promises, **limits) as night:
        fill(night, "yes")
        kept = judge_promises(night)
        publish(night)
    told = [(row["tenant"], row["requests"], row["kept"]) for row in kept]
    assert told == [("acme", 2, 0.5), ("other", 1, 1.0)]
    assert rows(place, "promises")["tenant"].sort().to_list() == ["acme", "other"]
    forget(store, "job", Wanted("acme"), catalog=catalog, lease_s=5.0)
    assert rows(place, "promises")["tenant"].to_list() == ["other"]
    current = date_log(store, "job", DAY, lease_s=5.0).refresh().publications[-1]
    assert current.details["promises"] is None


def run(place: Place, scratch: Path, key: str, answers: str = "") -> dict[str, Any]:
    limits = {"abort_quarantined_fraction": 1.0, "max_bad_fraction": 1.0}
    with open_test_night(place[0], scratch / key, key, catalog=place[1], **limits) as night:
        if "infer" not in night.log.state.steps:
            fill(night, answers)
        return publish(night)


def traces(place: Place, folder: Path) -> list[str]:
    """Keys of the objects that hold the secret or the ids, read as what they are."""
    found = []
    for info in place[0].list(""):
        data = place[0].get(info.key)
        text = data.decode(errors="replace")
        if info.key.endswith(".parquet"):
            path = folder / "trace.parquet"
            path.write_bytes(data)
            text = str(pq.read_table(path).to_pylist())
        if any(word in text for word in (SECRET, "acme", rid("a"), rid("d"))):
            found.append(info.key)
    return found


@pytest.mark.parametrize(
    "wanted",
    [
        Wanted("acme"),
        Wanted(request_ids=frozenset({rid("a"), rid("d")})),
        Wanted(custom_ids=frozenset({"a", "d"})),
    ],
)
def test_nothing_of_them_is_left(place: Place, tmp_path: Path, wanted: Wanted) -> None:
    store, catalog = place
    run(place, tmp_path, A, "yes")
    last = run(place, tmp_path, B, "no")
    before = publication_prefix("job", DAY, last["publication_id"])
    store.put(f"{before}/report.html", b"<p>Cost of acme</p>")
    store.put("job/parsed/run_date=2026-01-02/settings/group/requests-00000.parquet", _parsed(tmp_path))
    assert len(traces(place, tmp_path)) > 10
    (dry,) = forget(store, "job", wanted, catalog=catalog, dry_run=True)
    assert (dry.run_date, dry.requests) == ("2026-01-02", 2)
    assert rows(place, "outputs").height == 3
    (done,) = forget(store, "job", wanted, catalog=catalog, lease_s=5.0)
    assert done.requests == 2
    assert done.publication_id not in {None, last["publication_id"]}
    left = traces(place, tmp_path)
    if wanted.request_ids:
        # A quarantined line has no id.
        left = [key for key in left if "quarantine" not in key]
    assert left == []
    assert set(rows(place, "outputs")["custom_id"]) == {"b", "c"}
    assert rows(place, "errors").height == 0
    assert set(rows(place, "profiles")["request_id"]) == {rid("b"), rid("c")}
    prefix = publication_prefix("job", DAY, done.publication_id)
    found = read_published(store, prefix, tmp_path / "read")
    assert [line["custom_id"] for line in found["output"]] == ["b", "c"]
    assert (found["summary"]["outputs"], found["summary"]["errors"]) == (2, 0)
    assert found["summary"]["output_tokens"] == last["output_tokens"] - 2
    current = current_publication(RunLog(store, date_prefix("job", DAY.isoformat())).refresh())
    assert current is not None
    assert current.publication_id == done.publication_id
    assert store.object_uri(f"{prefix}/output.jsonl") == current.details["output_file"]
    # The table of a date without errors is empty; the rows of the attempts stay, they hold sums only.
    assert rows(place, "batch_runs").height == 2
    assert forget(store, "job", wanted, catalog=catalog, lease_s=5.0) == []


def _parsed(folder: Path) -> bytes:
    path = folder / "parsed.parquet"
    import pyarrow as pa

    from tasks.base.schema import SCHEMAS

    pq.write_table(pa.Table.from_pylist([request("a", tenant="acme")], schema=SCHEMAS["requests"]), path)
    return path.read_bytes()


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("after", [0, 20])
def test_what_was_interrupted_is_finished_by_the_next(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    store, catalog = place
    run(place, tmp_path, A)
    run(place, tmp_path, B)
    delete, calls = type(store).delete, []

    def crash(self: Any, key: str) -> None:
        # Releasing a log deletes nothing of the date.
        if "/log/" in key or "published" in key or key.endswith((".parquet", ".npy")):
            calls.append(key)
            if len(calls) > after:
                raise Killed
        delete(self, key)

    with monkeypatch.context() as patch:
        patch.setattr(type(store), "delete", crash)
        with pytest.raises(Killed):
            forget(store, "job", Wanted("acme"), catalog=catalog, lease_s=5.0)
    assert traces(place, tmp_path)
    forget(store, "job", Wanted("acme"), catalog=catalog, lease_s=5.0)
    assert traces(place, tmp_path) == []
    assert set(rows(place, "outputs")["custom_id"]) == {"b", "c"}


@pytest.mark.parametrize("earlier", [True, False])
def test_rows_in_tables_that_no_log_names_go(place: Place, tmp_path: Path, *, earlier: bool) -> None:
    """A run was killed between the commit to the tables and the record in the date's log."""
    store, catalog = place
    if earlier:
        with open_test_night(store, tmp_path / A, A, catalog=catalog) as night:
            write_inputs(night, [request("b", tenant="other")], Account(lines=1, requests=1))
            profile(night)
            night.log.finish_step("plan", {"policy": "blend"})
            write(night, "outputs", [output("b", tenant="other")])
            night.log.finish_step("infer", INFER)
            publish(night)
    known = len(list(store.list(f"job/dates/run_date={DAY}/log/")))
    run(place, tmp_path, B)
    for info in list(store.list(f"job/dates/run_date={DAY}/log/"))[known:]:
        store.delete(info.key)
    assert rows(place, "outputs").height == 3
    forget(store, "job", Wanted("acme"), catalog=catalog, lease_s=5.0)
    assert traces(place, tmp_path) == []
    assert list(rows(place, "outputs")["custom_id"]) == (["b"] if earlier else [])


def test_a_run_that_goes_on_is_left_alone(place: Place, tmp_path: Path) -> None:
    store, catalog = place
    run(place, tmp_path, A)
    with (
        RunLog(store, run_prefix("job", DAY.isoformat(), A), lease_s=5.0, heartbeat_s=0.5).hold(),
        pytest.raises(RunIsLiveError),
    ):
        forget(store, "job", Wanted("acme"), catalog=catalog, lease_s=5.0)
    assert rows(place, "outputs").height == 3


def test_what_must_be_said(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, catalog = place
    with pytest.raises(ConfigurationError, match="--tenant: is missing"):
        forget(store, "job", Wanted(), catalog=catalog)
    run(place, tmp_path, A)
    with pytest.raises(ConfigurationError, match="--catalog: 2026-01-02 is in tables"):
        forget(store, "job", Wanted("acme"), catalog=None, lease_s=5.0)
    # The tables of the right one would be made of files that are gone.
    other = f"sqlite:///{tmp_path}/other.db"
    with pytest.raises(ConfigurationError, match=r"but not in those of sqlite:///.*other\.db"):
        forget(store, "job", Wanted("acme"), catalog=other, lease_s=5.0)
    assert rows(place, "outputs").height == 3
    command = ["forget", "--job", "job", "--store", str(tmp_path / "store"), "--catalog", catalog]
    assert cli.main([*command, "--tenant", "acme", "--dry-run"]) == 0
    assert capsys.readouterr().out == ("2026-01-02  2 requests\n2 requests of 1 dates would be forgotten\n")
    assert cli.main([*command, "--custom-id", "a", "--custom-id", "d", "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("2026-01-02  2 requests\n")
    for nobody in (["--tenant", "nobody"], ["--custom-id", "A"], ["--request-id", "a", "--dry-run"]):
        assert cli.main([*command, *nobody]) == 1
        said = capsys.readouterr().out
        assert "0 requests of 0 dates" in said
        assert "Nothing of them is kept for job job" in said
