"""On threads, through Alpaca's clients and the twin's server, the trader does what the simulation did."""

from pathlib import Path

import pytest

from actors.signals import SignalActor
from live_traders import ledger, new_home, trade
from traders import BUSY, START, recorded_orders, simulated, simulated_orders


@pytest.mark.prove
def test_threaded_trader_and_simulation_order_the_same_to_the_last_cent(tmp_path: Path, proving: bool) -> None:
    """Every order (bar, symbol, side, quantity, end) and the final equity: the whole held-back year, 25 sessions of it
    in the suite."""
    start, sessions = (START, 250) if proving else (BUSY, 25)
    expected = simulated(sessions, start=start)
    assert len(expected.orders) > 20  # a comparison of nothing proves nothing

    summary = trade(home := new_home(tmp_path / "home", start), start=start, sessions=sessions)

    assert summary["exit_code"] == 0 and summary["restarts"] == 0
    with ledger(home) as database:
        assert recorded_orders(database) == simulated_orders(expected)
    assert summary["equity_end"] == f"{expected.final_equity:.2f}"
    assert summary["reconciliations"]["differences"] == 0


def test_where_time_runs_by_itself_the_orders_are_the_same(tmp_path: Path) -> None:
    """Two seconds a day: threads, sockets and timers race with the market, as they do when a market is real. A machine
    that is too busy to decide on every bar before the next opening gets four times as long."""
    sessions = 4
    expected = simulated(sessions, start=BUSY)
    assert len(expected.orders) >= 8

    for speed in ("43200", "10800"):
        home = new_home(tmp_path / speed, BUSY)
        summary = trade(home, start=BUSY, sessions=sessions, speed=speed)
        if summary["sessions"] == sessions:
            break

    assert summary["exit_code"] == 0
    with ledger(home) as database:
        assert recorded_orders(database) == simulated_orders(expected)
    assert summary["equity_end"] == f"{expected.final_equity:.2f}"


class LateSignals(SignalActor):
    """Reports where its strategies stood a bar ago."""

    def _report_last(self) -> None:
        if self._evaluated is not None:
            last, before, signal, score, _ = self._evaluated
            self._evaluated = (last, before, signal, score, before.is_in)
        super()._report_last()


def test_a_signal_one_bar_late_breaks_parity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison can fail."""
    monkeypatch.setattr("actors.trading.SignalActor", LateSignals)

    summary = trade(home := new_home(tmp_path / "home", BUSY), start=BUSY, sessions=4)

    assert summary["exit_code"] == 0
    with ledger(home) as database:
        assert recorded_orders(database) != simulated_orders(simulated(4, start=BUSY))
