import json
import random
from collections import Counter
from datetime import date

import pytest
import questions as q
import write_logs as w

from tasks.base.errors import ErrorCode, QuarantineCode
from tasks.requests.sampling import SamplingDefaults
from tests.support.parsing import Outcome, parse_lines

DAY = date(2026, 11, 22)


def read(folder):
    return {
        path.name: path.read_text("utf-8").splitlines() for path in sorted(folder.glob("2026/11/22/*.jsonl"))
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    return w.write_logs(folder, DAY, seed=3, requests=300), read(folder)


def parsed(lines):
    for line in lines:
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            yield None


def test_equal_arguments_give_equal_bytes(tmp_path, written):
    again = w.write_logs(tmp_path, DAY, seed=3, requests=300)
    assert (again, read(tmp_path)) == written
    w.write_logs(tmp_path, DAY, seed=4, requests=300)
    assert read(tmp_path) != written[1]


def test_every_good_request_is_written_once_and_first(written):
    answers, files = written
    assert len(answers) == 300
    assert len(files) == w.FILES
    seen = []
    for lines in files.values():
        first = {}
        for record in parsed(lines):
            if record and record["custom_id"] in answers:
                first.setdefault(record["custom_id"], record)
        for custom_id, record in first.items():
            task = answers[custom_id]["task"]
            body = record["body"]
            assert record["url"] == ("/v1/completions" if "prompt" in body else "/v1/chat/completions")
            assert ("prompt" in body) != ("messages" in body)
            assert body["metadata"] == {"workload": task}
            assert (body["temperature"] > 0) == (answers[custom_id]["sampled"] == "yes") == ("seed" in body)
        seen += first
    assert sorted(seen) == sorted(answers)


def test_each_kind_of_odd_line_is_there(written):
    answers, files = written
    first = files["batch-00.jsonl"]
    records = list(parsed(first))
    assert sum(record is None for record, line in zip(records, first, strict=True) if line) == 1
    assert "" in first
    good = [record for record in records if record]
    assert any("body" not in record for record in good)
    assert any(record["url"] == "/v1/moderations" for record in good)
    assert any("tools" in record.get("body", {}) for record in good)
    by_id = {}
    for record in good:
        by_id.setdefault(record["custom_id"], []).append(record)
    repeated = [group for group in by_id.values() if len(group) > 1]
    assert any(group[0] == later for group in repeated for later in group[1:])
    assert any(group[0]["body"] != later["body"] for group in repeated for later in group[1:])
    odd = sum(len(lines) for lines in files.values()) - len(answers)
    assert odd == 2 * w.FILES + 5


def test_the_project_reads_each_line_as_meant(written):
    answers, files = written
    outcomes, codes, workloads = Counter(), Counter(), Counter()
    for name, lines in files.items():
        data = "".join(f"{line}\n" for line in lines).encode()
        place = ("demo", DAY, name)
        for outcome, row in parse_lines(data, place, SamplingDefaults(), max_line_bytes=2**20):
            outcomes[outcome] += 1
            if outcome in (Outcome.QUARANTINED, Outcome.ERROR):
                codes[row["code"]] += 1
            elif outcome is Outcome.REQUEST:
                workloads[row["workload"]] += row["duplicate_of"] is None
    assert outcomes == {
        Outcome.REQUEST: len(answers) + w.FILES,
        Outcome.BLANK: w.FILES,
        Outcome.ERROR: 3,
        Outcome.QUARANTINED: 2,
    }
    assert codes == {
        ErrorCode.UNSUPPORTED_URL: 1,
        ErrorCode.MISSING_FIELD: 1,
        ErrorCode.UNSUPPORTED_PARAMETER: 1,
        QuarantineCode.DUPLICATE_CUSTOM_ID_CONFLICT: 1,
        QuarantineCode.INVALID_JSON: 1,
    }
    assert workloads == Counter(item["task"] for item in answers.values())


def test_lengths_vary_as_in_the_traces(written):
    answers, _ = written
    spans = [item["answer"].count(" ") + 1 for item in answers.values() if item["task"] == "count"]
    mean = sum(spans) / len(spans)
    deviation = (sum((span - mean) ** 2 for span in spans) / len(spans)) ** 0.5
    assert deviation / mean > 0.5
    assert max(spans) <= q.LONGEST_COUNT
    assert set(Counter(item["task"] for item in answers.values())) == set(q.TASKS)


def test_a_broken_count_of_requests_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least"):
        w.write_logs(tmp_path, DAY, requests=1)


def test_prompts_of_a_subject_share_their_prefix():
    rng = random.Random(0)
    for subject in q.SUBJECTS:
        prefix = q.pick_prefix(subject)
        assert prefix.count("Answer: ") == q.SHOTS
        for question in (q.pick(rng, subject), q.pick(rng, subject)):
            assert question.prompt.startswith(prefix)
            option = question.prompt.rsplit(f"{question.answer}. ", 1)[1].split("\n")[0]
            assert option in q.CATEGORIES[subject]


def test_questions_have_the_right_answers():
    rng = random.Random(1)
    for _ in range(50):
        found = q.find(rng, 40)
        assert found.prompt.count(">>") == 1
        assert f">> {found.answer} <<" in found.prompt
        counted = q.count(rng, held_out=False)
        first, last = (int(word) for word in counted.prompt.strip(".").split() if word.isdigit())
        assert counted.answer.split() == [str(number) for number in range(first, last + 1)]
        assert not q.is_held_out_count(first, last)
    assert len(set(q.WORDS)) == len(q.WORDS)
