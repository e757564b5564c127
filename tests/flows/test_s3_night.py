"""A night whose logs and store are both on S3, over real HTTP."""

from __future__ import annotations

import json

import boto3
import pytest

from flows import cli
from tasks.store.s3 import S3Store
from tests.support.demo_nights import DAY, batch_line
from tests.support.paths import DEMO_MODEL

pytestmark = pytest.mark.slow

COUNT = 12
SECRET = "a-secret-key-that-must-not-be-kept"  # what moto takes without a question


def test_a_night_from_s3_to_s3(s3_bucket, capsys, caplog, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    caplog.set_level("DEBUG", logger="tasks")
    caplog.set_level("DEBUG", logger="flows")
    client = boto3.session.Session().client("s3")
    lines = [batch_line(f"c{i}", f"Count from {i} to {i + 4}.", max_tokens=32) for i in range(1, COUNT + 1)]
    for hour in (0, 1):
        body = "\n".join(lines[hour * 6 : hour * 6 + 6]) + "\n"
        client.put_object(Bucket=s3_bucket, Key=f"logs/{DAY:%Y/%m/%d}/{hour}.jsonl", Body=body.encode())
    client.put_object(Bucket=s3_bucket, Key="logs/2020/01/01/0.jsonl", Body=lines[0].encode())
    arguments = {
        "job": "cloud",
        "source": f"s3://{s3_bucket}/logs/{{run_date:%Y/%m/%d}}/",
        "store": f"s3://{s3_bucket}/nights",
        "model": str(DEMO_MODEL),
        "run-date": DAY.isoformat(),
        "catalog": "none",
    }
    flags = [text for name, value in arguments.items() for text in (f"--{name}", value)]
    assert cli.main(["run", "--no-as-flow", *flags, "--no-report", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["requests"], result["outputs"], result["reused"]) == (COUNT, COUNT, False)
    assert result["output_file"].startswith(f"s3://{s3_bucket}/nights/cloud/published/run_date={DAY}/")
    key = result["output_file"].removeprefix(f"s3://{s3_bucket}/")
    published = client.get_object(Bucket=s3_bucket, Key=key)["Body"].read().decode().splitlines()
    answers = {}
    for line in map(json.loads, published):
        answers[line["custom_id"]] = line["response"]["body"]["choices"][0]["message"]["content"].strip()
    assert answers == {f"c{i}": " ".join(str(n) for n in range(i, i + 5)) for i in range(1, COUNT + 1)}
    assert cli.main(["run", "--no-as-flow", *flags, "--no-report", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["reused"] is True
    kept = list(S3Store(s3_bucket).list("nights/"))
    records = 0
    for info in kept:
        data = client.get_object(Bucket=s3_bucket, Key=info.key)["Body"].read()
        assert SECRET.encode() not in data, info.key
        if "/log/" in info.key or info.key.endswith((".json", "heartbeat")):
            records += 1
            assert b"Count from" not in data, info.key
    assert records > 5
    for text in (told.out, told.err, caplog.text):
        assert SECRET not in text
        assert "Count from" not in text
