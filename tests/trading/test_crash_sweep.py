"""Whatever actor fails at whatever message, before or after its work: the account ends as if nothing had happened."""

from datetime import date

import pytest

import intraday
from actors.kernel import CrashAt
from algo_royale.app.stepped import SteppedTrader
from traders import BUSY, ledger_of, trader, truth_errors

SESSIONS = 4


@pytest.mark.prove
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_at_any_message_changes_nothing_in_the_ledger(when: str, proving: bool) -> None:
    """Every message of a short run in turn (every 13th in the suite): I1, I2, I8, I9 by the exchange's truth, I10 by the
    undisturbed ledger, I4 and I7 by the exit code, I3 by the kernel's own count."""
    undisturbed = trader(SESSIONS, start=BUSY)
    assert undisturbed.run() == 0
    assert undisturbed.system is not None
    expected, messages = ledger_of(undisturbed), undisturbed.system.handled_count
    assert len(expected["fill"]) >= 8 and messages > 150

    wrong = []
    for index in range(0, messages, 1 if proving else 13):
        account = trader(SESSIONS, start=BUSY)
        exit_code = account.run(faults=CrashAt(index, when))
        assert account.system is not None
        problems = truth_errors(account)
        if exit_code != 0:
            problems.append(f"exit code {exit_code}: {account.system.exit_reason}")
        if ledger_of(account) != expected:
            problems.append("another ledger than the undisturbed run's")
        if problems:
            wrong.append(f"crash {when} message {index}: {'; '.join(problems)}")

    assert wrong == []


HALF, MONDAY = intraday.HALF, date(2012, 11, 26)  # a half session, and the next one


def within_the_day(last: date = HALF) -> SteppedTrader:
    """Quarters of an hour, with minutes in which nobody traded."""
    the_plan = intraday.plan("15Min", strategies=intraday.BUSY)
    return intraday.trader(the_plan, intraday.seeded(gaps=0.05, seed=5), HALF, last)


@pytest.mark.prove
def test_a_crash_at_any_message_within_a_session_changes_nothing_in_the_ledger(proving: bool) -> None:
    """The same on bars of a quarter of an hour, which are made of the stream's minutes: what a crash loses of a bar under way comes
    from history. Every 7th message (every 100th in the suite)."""
    undisturbed = within_the_day()
    assert undisturbed.run() == 0
    assert undisturbed.system is not None
    expected, messages = ledger_of(undisturbed), undisturbed.system.handled_count
    assert len(expected["fill"]) >= 5 and messages > 600

    wrong = []
    for index in range(3, messages, 7 if proving else 100):
        account = within_the_day()
        when = "before" if index % 2 else "after"
        exit_code = account.run(faults=CrashAt(index, when))
        problems = truth_errors(account)
        if exit_code != 0 or ledger_of(account) != expected:
            problems.append(
                f"exit code {exit_code}, the ledger is {'' if ledger_of(account) == expected else 'not '}the same"
            )
        wrong += [f"crash {when} message {index}: {'; '.join(problems)}"] if problems else []

    assert wrong == []


def test_killed_and_started_again_within_a_session_the_ledger_is_the_same() -> None:
    """The process dies in the middle of a bar, at its end, in the last one; the next begins at once with nothing but the ledger."""
    undisturbed, account = within_the_day(MONDAY), within_the_day(MONDAY)
    assert undisturbed.run() == 0
    opens = [session.open_ns for session in account.exchange.replay.calendar.sessions(HALF, MONDAY)]

    for session_open_ns, minutes in ((opens[0], 0), (opens[0], 31), (opens[0], 75), (opens[0], 209), (opens[1], 97)):
        account.run(until_ns=session_open_ns + minutes * 60_000_000_000)
    assert account.run() == 0

    assert len(ledger_of(undisturbed)["fill"]) >= 15
    assert ledger_of(account) == ledger_of(undisturbed)
    assert truth_errors(account) == []
