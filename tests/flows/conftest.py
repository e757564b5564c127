"""One Prefect API for all tests, and the S3 server of the storage tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.tasks.conftest import s3_bucket, s3_server

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["prefect_api", "s3_bucket", "s3_server"]


@pytest.fixture(scope="session")
def prefect_api() -> Iterator[None]:
    """A Prefect API with a database of its own, inside this process."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=60):
        yield
