"""Answer lengths from night to night, and plans that are made again while a night runs."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from engine.choices import COMBINED, ESTIMATORS
from tasks.base.errors import ConfigurationError
from tasks.plan.lengths import FADING, read_history, workload_number
from tasks.plan.plan import plan
from tasks.profile.profile import profile
from tasks.publish.publish import publish
from tests.support.demo_nights import DAY, answer, batch_line, night_request, opened, outputs_of, write_lines

pytestmark = pytest.mark.slow


def lines(long: int = 40, count: int = 48) -> list[str]:
    """Every fourth request is of a workload with answers of `long` tokens, the others have 4."""
    return [
        batch_line(
            f"r{i}",
            f"{'Tell a story about' if i % 4 == 0 else 'Name the number'} {i}",
            max_tokens=long if i % 4 == 0 else 4,
            ignore_eos=True,
            metadata={"workload": "story" if i % 4 == 0 else "number"},
        )
        for i in range(count)
    ]


def request_of(root, day=0, lengths=COMBINED, **settings):
    request = night_request(root, part_answers=100, max_sequences=4, lengths=lengths, **settings)
    return replace(request, run_date=DAY + timedelta(days=day))


def whole(root, name: str, request) -> tuple[dict, dict]:
    """Run a night to its publication; return its answers and the results of step infer."""
    with opened(request, root / name) as night:
        profile(night)
        results = answer(night)
        publish(night)
        return outputs_of(night), results


def test_a_night_learns_from_the_ones_before(tmp_path):
    write_lines(tmp_path / "logs", "a.jsonl", lines())
    with opened(request_of(tmp_path), tmp_path / "zero") as night:
        assert read_history(night) is None
        unknown = plan(night)["estimated_output_tokens"]
        profile(night)
    for day in (0, 1):
        whole(tmp_path, f"night{day}", request_of(tmp_path, day))
    with opened(request_of(tmp_path, 2), tmp_path / "later") as night:
        found = read_history(night)
        assert found is not None
        assert sorted(set(found.weight)) == pytest.approx([FADING, 1.0])
        story = found.features.group == workload_number("story")
        assert story.sum() == 2 * 12
        assert set(found.length[story]) == {40.0}
        assert set(found.length[~story]) == {4.0}
        # Every answer was cut off by its limit.
        assert not found.ended.any()
        known = plan(night)["estimated_output_tokens"]
    # With half of the limit expected where nothing is known.
    assert unknown == pytest.approx(12 * 20 + 36 * 2)
    assert known == pytest.approx(12 * 40 + 36 * 4, rel=0.02)
    with opened(request_of(tmp_path), tmp_path / "first") as night:
        assert read_history(night) is None


def test_nights_of_another_model_or_unpublished_ones_say_nothing(tmp_path):
    write_lines(tmp_path / "logs", "a.jsonl", lines(count=8))
    with opened(request_of(tmp_path), tmp_path / "one") as night:
        profile(night)
        answer(night)
    with opened(request_of(tmp_path, 1), tmp_path / "two") as night:
        assert read_history(night) is None
    whole(tmp_path, "three", request_of(tmp_path, 1))
    with opened(request_of(tmp_path, 2), tmp_path / "four") as night:
        assert read_history(night) is not None
        night.attempt.params["model"] = "another"
        assert read_history(night) is None


def test_answers_do_not_depend_on_the_estimator_and_new_plans_are_kept(tmp_path):
    write_lines(tmp_path / "logs", "a.jsonl", lines(60, 80))
    found, replans = {}, {}
    for name in ESTIMATORS:
        with opened(request_of(tmp_path, lengths=name, rerun=True), tmp_path / name) as night:
            results = answer(night)
            found[name] = outputs_of(night)
            parts = [part.name for part in night.parts("plan", "replan")]
            assert len(parts) == results["replans"]
            replans[name] = len(parts)
            for part in night.parts("plan", "replan"):
                with np.load(night.fetch(part)) as stored:
                    assert 0 < len(stored["order"]) < 80
    assert all(texts == found["fixed"] for texts in found.values())
    assert replans["fixed"] == replans["logged"] == 0
    assert replans["combined"] > 0


def test_an_unknown_estimator_is_refused(tmp_path):
    write_lines(tmp_path / "logs", "a.jsonl", lines(count=2))
    with (
        opened(request_of(tmp_path, lengths="oracle"), tmp_path / "scratch") as night,
        pytest.raises(ConfigurationError, match="--lengths: 'oracle' is unknown"),
    ):
        plan(night)
