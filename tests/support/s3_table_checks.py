"""What must hold of tables on S3, against moto as well as against a real server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.publish.current import roll_back
from tasks.publish.publish import publish
from tasks.store.s3 import S3Store
from tests.support.finished_nights import fill
from tests.support.nights import DAY, open_test_night
from tests.support.s3_tables import catalog_for_s3, read_rows

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def check_tables_on_s3(
    endpoint: str, bucket: str, folder: Path, patch: pytest.MonkeyPatch, key: str, secret: str
) -> None:
    store = S3Store(bucket, "some/prefix", attempts=3, pause_s=0.1)
    catalog = catalog_for_s3(folder, patch)

    def run(run_key: str) -> dict[str, Any]:
        with open_test_night(store, folder / run_key, run_key, catalog=catalog) as night:
            if "infer" not in night.log.state.steps:
                fill(night)
            return publish(night)

    def run_keys(kind: str) -> list[str]:
        rows = read_rows(catalog, store.uri, kind, endpoint, key, secret)
        assert set(zip(rows["job"], rows["run_date"], strict=True)) <= {("job", DAY)}
        return sorted(rows["run_key"].to_list())

    first = run("aaaaaaaaaaaaaaaa")
    assert all(
        uri.startswith(f"s3://{bucket}/some/prefix/job/published/") for uri in first["tables"].values()
    )
    assert run_keys("utilization") == ["aaaaaaaaaaaaaaaa"]
    run("bbbbbbbbbbbbbbbb")
    assert run_keys("utilization") == ["bbbbbbbbbbbbbbbb"]
    assert len(run_keys("outputs")) == 3
    roll_back(store, "job", DAY, catalog=catalog, lease_s=5.0)
    assert run_keys("utilization") == ["aaaaaaaaaaaaaaaa"]
    assert run_keys("batch_runs") == ["aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb"]
