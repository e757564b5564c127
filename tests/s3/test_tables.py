"""Tables on a real S3 server: what `tests/tasks/warehouse/test_tables_s3.py` does against moto."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.servers.radosgw import ACCESS_KEY, SECRET_KEY
from tests.support.s3_table_checks import check_tables_on_s3

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_a_night_is_replaced_and_rolled_back(
    radosgw: str, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Checksums that Ceph 16 does not know yet.
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    check_tables_on_s3(radosgw, bucket, tmp_path, monkeypatch, ACCESS_KEY, SECRET_KEY)
