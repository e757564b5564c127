"""What nights of many processes need to be quick."""

from __future__ import annotations

import logging
import os
import time
from functools import cache, partialmethod
from types import SimpleNamespace
from typing import TYPE_CHECKING

import boto3
import botocore.endpoint
import pytest
from botocore.config import Config

from tasks.attempt import extract_inputs, tokenize_inputs
from tasks.infer.uploads import Uploads
from tasks.profile.tokenizer import load_tokenizer
from tasks.runlog import log as run_log
from tasks.store import s3
from tests.tasks.conftest import s3_bucket, s3_server

if TYPE_CHECKING:
    from typing import Any

__all__ = ["s3_bucket", "s3_server"]

READ_TIMEOUT_S = 1.0


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The tokenizer is loaded once, a disk is not waited for, and a store that fails not for long."""
    loaded = cache(load_tokenizer)
    for module in (extract_inputs, tokenize_inputs):
        monkeypatch.setattr(module, "load_tokenizer", loaded)
    patient = run_log.NumberedRecords
    monkeypatch.setattr(run_log, "NumberedRecords", lambda store, prefix, _: patient(store, prefix, 0.2))
    # No machine loses its power here.
    monkeypatch.setattr(os, "fsync", lambda _: None)
    return monkeypatch


@pytest.fixture
def stored_at_once(quick: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """`quick`, and no answer comes while a part is stored.

    A kill ends the thread that stores parts with its process: here they are stored where they are made.
    """
    quick.setattr(Uploads, "put", lambda _, store, __: store())
    return quick


@pytest.fixture
def impatient(stored_at_once: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """`stored_at_once`, and the client of S3 waits little between its tries; a store tries twice."""
    patch = stored_at_once

    def config(**settings: Any) -> Any:
        return Config(**settings | {"read_timeout": READ_TIMEOUT_S})

    patch.setattr(s3, "Config", config)
    # Reading its description of all services takes a client a second.
    session = boto3.session.Session()
    patch.setattr(boto3.session, "Session", lambda: session)
    brief = partialmethod(s3.S3Store.__init__, attempts=2, pause_s=0.002)
    patch.setattr(s3.S3Store, "__init__", brief)
    patch.setattr(botocore.endpoint, "time", SimpleNamespace(time=time.time, sleep=lambda _: None))
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    return patch
