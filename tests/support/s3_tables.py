"""Tables whose files are on S3.

A catalog that others could reach is a PostgreSQL database; where there is none, these tests have a SQLite
file of their own, which the product refuses for a store on S3.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import polars as pl

from tasks.warehouse import catalogs, tables
from tasks.warehouse.replace import open_warehouse
from tasks.warehouse.tables import TABLES

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def catalog_for_s3(folder: Path, patch: pytest.MonkeyPatch) -> str:
    """Return the URI of a catalog whose tables are this test's own."""
    patch.setattr(tables, "NAMESPACE", f"test_{uuid4().hex[:12]}")
    patch.setenv("POLARS_ICEBERG_PLANNER", "pyiceberg")
    shared = os.environ.get("NIGHTBLEND_CATALOG")
    if shared is None:
        patch.setattr(catalogs, "is_s3", lambda uri: uri.startswith("s3:") and not uri.endswith("_warehouse"))
        return f"sqlite:///{folder}/catalog.db"
    return shared


def read_rows(catalog: str, store_uri: str, kind: str, endpoint: str, key: str, secret: str) -> pl.DataFrame:
    """Return the rows of a table by Polars' own reader and its own S3 client."""
    table = open_warehouse(catalog, store_uri).load_table(f"{tables.NAMESPACE}.{TABLES[kind]}")
    options: dict[str, Any] = {"aws_endpoint_url": endpoint, "aws_access_key_id": key}
    options |= {"aws_secret_access_key": secret, "aws_region": "us-east-1", "aws_allow_http": "true"}
    # The metadata file is read through pyiceberg, the rows by Polars itself.
    options |= {"s3.endpoint": endpoint, "s3.access-key-id": key, "s3.secret-access-key": secret}
    options |= {"s3.region": "us-east-1"}
    return pl.scan_iceberg(
        table.metadata_location, reader_override="native", storage_options=options
    ).collect()
