"""A night whose logs and store are both on S3, over real HTTP."""

from __future__ import annotations

import json

import boto3
from demo_nights import DAY, MODEL, batch_line

from flows import cli

COUNT = 12


def test_a_night_from_s3_to_s3(s3_bucket, capsys, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
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
        "model": str(MODEL),
        "run-date": DAY.isoformat(),
        "catalog": "none",
    }
    flags = [text for name, value in arguments.items() for text in (f"--{name}", value)]
    assert cli.main(["run", *flags, "--no-report", "--json"], with_flow=False) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["requests"], result["outputs"], result["reused"]) == (COUNT, COUNT, False)
    assert result["output_file"].startswith(f"s3://{s3_bucket}/nights/cloud/published/run_date={DAY}/")
    key = result["output_file"].removeprefix(f"s3://{s3_bucket}/")
    published = client.get_object(Bucket=s3_bucket, Key=key)["Body"].read().decode().splitlines()
    answers = {}
    for line in map(json.loads, published):
        answers[line["custom_id"]] = line["response"]["body"]["choices"][0]["message"]["content"].strip()
    assert answers == {f"c{i}": " ".join(str(n) for n in range(i, i + 5)) for i in range(1, COUNT + 1)}
    assert cli.main(["run", *flags, "--no-report", "--json"], with_flow=False) == 0
    assert json.loads(capsys.readouterr().out)["reused"] is True
