"""A real S3 server. `make test-s3` sets NIGHTBLEND_S3=1; anything else collects nothing here."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING
from uuid import uuid4

import boto3
import pytest

from tests.servers.radosgw import ACCESS_KEY, SECRET_KEY, CannotStartError, Server, missing_programs

if TYPE_CHECKING:
    from collections.abc import Iterator

if os.environ.get("NIGHTBLEND_S3") != "1":
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def radosgw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server; the process's AWS settings point at it for the rest of the session."""
    missing = missing_programs()
    if missing:
        pytest.skip(
            f"not installed: {', '.join(missing)} (apt-get install radosgw ceph-mon ceph-osd, as root)"
        )
    with ExitStack() as stack:
        server = _start(stack, tmp_path_factory)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_CONFIG_FILE"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_ENDPOINT_URL", server.url)
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield server.url


def _start(stack: ExitStack, folders: pytest.TempPathFactory) -> Server:
    """Start a server, a second time in new folders and on new ports if the first start fails."""
    why = ""
    for _ in range(2):
        try:
            return stack.enter_context(Server(folders.mktemp("ceph")))
        except CannotStartError as error:
            why = f"radosgw cannot be started here: {error}"
            print(why)
    pytest.skip(why)


@pytest.fixture
def bucket(radosgw: str) -> str:
    """A new, empty bucket."""
    del radosgw
    name = f"bucket-{uuid4().hex[:12]}"
    boto3.session.Session().client("s3").create_bucket(Bucket=name)
    return name
