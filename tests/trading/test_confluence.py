"""The same bars end in the same ledger, whatever order the actors happen to run in."""

from typing import Any

import pytest

from actors.messages import SignalReported
from actors.portfolio import PortfolioActor
from algo_royale.app.stepped import SteppedTrader
from traders import BUSY, ledger_of, trader, truth_errors


@pytest.mark.prove
def test_every_seed_ends_in_one_and_the_same_ledger(proving: bool) -> None:
    """500 seeds of 20 sessions (12 in the suite): a seed that differs is the bug report."""
    expected = None
    for seed in range(500 if proving else 12):
        account = trader(20, start=BUSY)

        exit_code = account.run(seed=seed)

        assert exit_code == 0, f"seed {seed} ended with {exit_code}"
        assert truth_errors(account) == [], f"seed {seed}"
        ledger = ledger_of(account)
        expected = expected or ledger
        assert ledger == expected, f"seed {seed} differs from seed 0"
    assert expected is not None and len(expected["fill"]) >= 8


class HastyPortfolio(PortfolioActor):
    """Decides as soon as one symbol has spoken."""

    def _on_report(self, report: SignalReported) -> None:
        self._late = max(self._late, report.bar_end_ns)
        super()._on_report(report)


def test_without_the_bar_barrier_the_money_depends_on_the_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the barrier is for, and proof that the comparison above can fail."""
    monkeypatch.setattr("actors.trading.PortfolioActor", HastyPortfolio)
    ledgers: list[Any] = []
    for seed in range(6):
        account: SteppedTrader = trader(6, start=BUSY)
        account.run(seed=seed)
        ledgers.append(ledger_of(account))

    assert any(ledger != ledgers[0] for ledger in ledgers)
