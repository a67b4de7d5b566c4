"""Whatever actor fails at whatever message, before or after its work: the account ends as if nothing had happened."""

import pytest

from actors.kernel import CrashAt
from traders import BUSY, ledger_of, trader, truth_errors

SESSIONS = 4


@pytest.mark.prove
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_at_any_message_changes_nothing_in_the_ledger(when: str, proving: bool) -> None:
    """Every message of a short run in turn (every 9th in the suite): I1, I2, I8, I9 by the exchange's truth, I10 by the
    undisturbed ledger, I4 and I7 by the exit code, I3 by the kernel's own count."""
    undisturbed = trader(SESSIONS, start=BUSY)
    assert undisturbed.run() == 0
    assert undisturbed.system is not None
    expected, messages = ledger_of(undisturbed), undisturbed.system.handled_count
    assert len(expected["fill"]) >= 8 and messages > 150

    wrong = []
    for index in range(0, messages, 1 if proving else 9):
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
