from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.base.accounting import (
    Account,
    AccountingError,
    ExitCode,
    RunStatus,
    bad_fraction,
    check_run,
    decide,
    must_abort,
)

COUNTS = st.integers(0, 1000)


def account(requests: int, quarantined: int = 0, **others: int) -> Account:
    return Account(lines=requests + quarantined, requests=requests, quarantined=quarantined, **others)


@given(COUNTS, COUNTS, COUNTS, COUNTS, st.integers(-2, 2))
def test_the_equation_of_an_object(blank: int, filtered: int, bad: int, good: int, off: int) -> None:
    total = Account(blank + filtered + bad + good + off, blank, filtered, bad, good)
    if off == 0:
        total.check("x")
        (total + total).check("x")
    else:
        with pytest.raises(AccountingError, match="x"):
            total.check("x")


def test_more_refused_than_asked_is_broken() -> None:
    with pytest.raises(AccountingError):
        Account(lines=1, requests=1, errors=2).check("x")


def test_the_equation_of_a_run() -> None:
    check_run(5, 3, 2)
    for outputs, errors in ((3, 3), (3, 1), (6, -1)):
        with pytest.raises(AccountingError):
            check_run(5, outputs, errors)


def test_bad_fraction() -> None:
    assert bad_fraction(0, 0, 0) == 0
    assert bad_fraction(90, 5, 10) == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("total", "outputs", "errors", "stopped", "expected"),
    [
        (account(100), 100, 0, False, (RunStatus.COMPLETED, ExitCode.OK)),
        (account(100), 99, 1, False, (RunStatus.COMPLETED, ExitCode.OK)),
        (account(100), 98, 2, False, (RunStatus.COMPLETED_WITH_ERRORS, ExitCode.COMPLETED_WITH_ERRORS)),
        (account(98, 2), 98, 0, False, (RunStatus.COMPLETED_WITH_ERRORS, ExitCode.COMPLETED_WITH_ERRORS)),
        (
            account(100, object_errors=1),
            100,
            0,
            False,
            (RunStatus.COMPLETED_WITH_ERRORS, ExitCode.COMPLETED_WITH_ERRORS),
        ),
        (account(100), 50, 0, True, (RunStatus.STOPPED, ExitCode.STOPPED)),
        (account(100), 50, 0, False, (RunStatus.FAILED, ExitCode.FAILED)),
        (account(100), 101, 0, True, (RunStatus.FAILED, ExitCode.FAILED)),
        (account(79, 21), 0, 0, False, (RunStatus.ABORTED, ExitCode.FAILED)),
        (Account(lines=3, requests=2), 2, 0, False, (RunStatus.FAILED, ExitCode.FAILED)),
        (Account(), 0, 0, False, (RunStatus.COMPLETED, ExitCode.OK)),
    ],
)
def test_decisions(
    total: Account, outputs: int, errors: int, stopped: bool, expected: tuple[RunStatus, ExitCode]
) -> None:
    assert decide(total, outputs, errors, stopped=stopped) == expected


def test_abort_is_above_the_limit_only() -> None:
    assert not must_abort(account(80, 20))
    assert must_abort(account(79, 20))
    assert not must_abort(Account())
