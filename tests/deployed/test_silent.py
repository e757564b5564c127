"""A machine that hangs: its run is found by its silence, and started again."""

from __future__ import annotations

from site_of_tests import JOB, LONG_S, counted, wait


def test_a_run_without_a_sign_of_life_has_crashed_and_is_started_again(site, silent_run):
    run = site.ended(silent_run.id)
    assert (run["state_type"], run["state"]["message"]) == (
        "CRASHED",
        "No sign of life for 120 s: its process has gone.",
    )
    (successor,) = wait(lambda: site.reruns_of(run["id"]), LONG_S, site.tail)
    assert successor["parameters"]["parameters"]["run_date"] == silent_run.day.isoformat()
    ended = site.ended(successor["id"])
    assert ended["state_name"] == "Completed", site.logs(ended["id"])
    assert site.answers(JOB, silent_run.day) == counted(silent_run.count)

    # The machine comes back: what was done meanwhile stays as it is.
    silent_run.process.resume()
    silent_run.process.wait(120)
    (log,) = site.run_logs(JOB, silent_run.day)
    assert log.state.finished
    assert [end.exit_code for end in log.state.endings.values()].count(0) == 1
    assert site.answers(JOB, silent_run.day) == counted(silent_run.count)
