"""A trader that runs for long says how it stands, once a month of its clock."""

from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from algo_royale.app.trader import _monthly, last_session
from algo_royale.clock import ManualClock
from algo_royale.sessions import calendar
from db.store import NewDecision, Store

MARCH_30, APRIL_2, MAY_1 = (
    calendar().offset(day, 0) for day in (date(2012, 3, 30), date(2012, 4, 2), date(2012, 5, 1))
)


def test_one_line_when_the_month_changes_and_none_in_between(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "ledger.db", run_id="run-1", now_ns=1, live_start_ns=1, ledger_id="a")
    decision = NewDecision(
        decision_id="d-1", bar_end_ns=MARCH_30.close_ns, session_date="2012-03-30", equity_usd=Decimal("101234.5"),
        cash_usd=Decimal(1), strategy="s", targets="[]", approved=(),
    )  # fmt: skip
    store.record_decision(decision, now_ns=MARCH_30.close_ns)
    store.close()
    clock, said = ManualClock(MARCH_30.open_ns), []
    watch = _monthly(clock, tmp_path / "ledger.db", lambda: clock.now_ns() >= MAY_1.open_ns, said.append)

    answers = []
    for now_ns in (MARCH_30.close_ns, APRIL_2.open_ns, APRIL_2.close_ns, MAY_1.open_ns):
        clock.move_to(now_ns)
        answers.append(watch())

    assert said == [
        "  2012-03: equity 101,234.50 USD after 0 fills",
        "  2012-04: equity 101,234.50 USD after 0 fills",
    ]
    assert answers == [False, False, False, True]  # what it watches for is still seen


@pytest.mark.parametrize(("until", "session"), [(9, 9), (10, 9), (11, 9), (12, 12)])  # the 10th is a Saturday
def test_a_trader_told_to_end_on_a_weekend_does_not_trade_the_monday_after(until: int, session: int) -> None:
    assert last_session(date(2012, 3, until)).date == date(2012, 3, session)
