"""Whatever the world does to a trader, it ends with the ledger of the undisturbed run, or halted with a name: never silently different."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any


from actors.direct import DirectFaults
from algo_royale.app.stepped import SteppedTrader
from traders import BUSY, ledger_of, trader, truth_errors

SESSIONS = 4
Tamper = Callable[[str, Sequence[str]], Sequence[str]]


@lru_cache
def undisturbed() -> Any:
    account = trader(SESSIONS, start=BUSY)
    assert account.run() == 0
    return ledger_of(account)


def tampered(tamper: Tamper, **options: Any) -> SteppedTrader:
    """A trader whose frames pass through `tamper(endpoint, frames)`."""
    return trader(SESSIONS, start=BUSY, faults=DirectFaults(frames=tamper), **options)


def assert_undisturbed(account: SteppedTrader, exit_code: int) -> None:
    assert exit_code == 0, account.system and account.system.exit_reason
    assert truth_errors(account) == []
    assert ledger_of(account) == undisturbed()


# --- the trading stream ---


def test_fills_that_are_never_told_are_known_before_the_next_decision() -> None:
    """The stream says nothing of any fill: a decision on the cash and shares of before would order other quantities."""

    def without_fills(endpoint: str, frames: Sequence[str]) -> Sequence[str]:
        return [f for f in frames if endpoint == "data" or '"event":"fill"' not in f]

    account = tampered(without_fills)

    assert_undisturbed(account, account.run())


