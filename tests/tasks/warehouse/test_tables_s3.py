"""Tables on S3, against moto; `tests/s3` has the same against a real server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.s3_table_checks import check_tables_on_s3

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.slow


def test_a_night_is_replaced_and_rolled_back_on_s3(
    s3_server: str, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_tables_on_s3(s3_server, s3_bucket, tmp_path, monkeypatch, "test-access", "test-secret")
