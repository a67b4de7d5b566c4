"""On threads, through Alpaca's clients and the twin's server, the trader does what the simulation did."""

import json
from datetime import date
from pathlib import Path

import pytest
import requests

import intraday
from actors.signals import SignalActor
from algo_royale.app.exchange_process import ExchangeProcess
from algo_royale.app.pacing import TwinMarket
from algo_royale.app.trader import Endpoints, run_trader, twin_process
from algo_royale.clock import WallClock
from algo_royale.errors import BrokerUnavailable
from algo_royale.market import Timeframe
from conftest import shared
from live_traders import ledger, new_home, trade, truth_errors, twin, twin_truth
from traders import BUSY, START, config, plan, recorded_orders, simulated, simulated_orders


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


def test_frames_that_never_come_end_the_wait_for_them_however_slowly_the_twin_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that was counted and got lost would else hold a trader up for minutes, and it would not say why."""
    monkeypatch.setattr("algo_royale.app.pacing.CATCH_UP_S", 0.5)
    now_s = WallClock().monotonic_s
    with twin(BUSY, 3) as endpoints:
        market = TwinMarket(endpoints.trading_url, lambda: {"data": 7})
        began_s = now_s()
        with pytest.raises(
            BrokerUnavailable, match=r"within 0.5 s: it sent {'data': 0, 'trading': 0}, and {'data': 7} came"
        ):
            market.advance(market.now_ns + 1)
        took_s = now_s() - began_s

    assert took_s < 5 * 0.5


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


# --- within the day --------------------------------------------------------------------------------------------------


def test_minutes_through_the_twin_give_the_orders_of_the_simulation(tmp_path: Path) -> None:
    """A half day on minutes, some without a trade, over a market that the plan's length of bar has chosen."""
    the_plan, catalog = intraday.plan("1Min"), intraday.seeded(gaps=0.05)
    expected = intraday.simulated(the_plan, catalog, intraday.HALF, intraday.HALF)
    assert len(expected.orders) >= 3
    settings = intraday.config_on(tmp_path / "bars", catalog)
    home = new_home(tmp_path / "home", intraday.HALF)

    with twin_process(the_plan, settings, first=intraday.HALF, last=intraday.HALF, speed="max") as endpoints:
        summary = run_trader(the_plan, settings, endpoints, home=home, run_id="run-1")

    assert (summary["exit_code"], summary["restarts"], summary["reconciliations"]["differences"]) == (0, 0, 0)
    with ledger(home) as database:
        assert recorded_orders(database) == simulated_orders(expected)
    assert summary["equity_end"] == f"{expected.final_equity:.2f}"


TICKS = date(2013, 10, 8)
RECORDED = ("AIG", "BAC", "IBM", "SPY")


@pytest.mark.prove
def test_a_session_of_recorded_ticks_runs_through_the_whole_tree(tmp_path: Path, proving: bool) -> None:
    """Every trade and every change of the best bid and offer of four symbols, traded minute by minute (every five minutes in
    the suite): each bar told once, each order filled at a real quote, and the ledger is the twin's truth."""
    folder = shared("data/lean/ticks")
    timeframe = "1Min" if proving else "5Min"
    the_plan = intraday.plan(timeframe, RECORDED, warmup_bars=60)
    options = [f"--data={folder}", "--market=ticks", f"--start={TICKS}", f"--end={TICKS}", "--speed=max", f"--symbols={','.join(RECORDED)}"]  # fmt: skip
    home = new_home(tmp_path / "home", TICKS)
    with ExchangeProcess(options) as twin:
        endpoints = Endpoints(
            trading_url=twin.url, data_url=twin.url, trading_stream_url=twin.trading_stream,
            data_stream_url=twin.data_stream, keys=(twin.key_id, twin.secret_key), twin=True,
        )  # fmt: skip
        summary = run_trader(the_plan, config(), endpoints, home=home, run_id="run-1")
        truth = twin_truth(endpoints)

    assert (summary["exit_code"], summary["restarts"], summary["dead_letters"]) == (0, 0, 0)
    bars = 390 // Timeframe(timeframe).minutes
    assert summary["bars"] == summary["signals"] == bars * len(RECORDED)
    orders = summary["orders"]
    assert orders["submitted"] == orders["filled"] + orders["canceled"] > 0
    assert orders["rejected"] == 0 and summary["reconciliations"]["differences"] == 0
    assert truth_errors(home, truth) == []
    if proving:
        print(f"{summary['bars']} bars, {summary['signals']} signals, {orders}, {summary['elapsed_s']} s")


# --- orders whose answers are lost -----------------------------------------------------------------------------------


def test_over_the_network_no_order_is_sent_again_before_two_looks_that_are_apart(tmp_path: Path) -> None:
    """The first submit is taken, its answer lost, and it is not to be seen at first; the second one never arrives: the orders are
    those of the simulation, the first posted once and the second twice."""
    requests_failing = [
        {"kind": "lost_answer", "method": "POST", "path": "/v2/orders"}, {"kind": "unseen"},
        {"kind": "not_processed", "method": "POST", "path": "/v2/orders"},
    ]  # fmt: skip
    home = new_home(tmp_path / "home", BUSY)
    with twin(BUSY, 4) as endpoints:
        url = f"{endpoints.trading_url}/sim"
        asked = {"record": True, "requests": requests_failing}
        assert requests.post(f"{url}/faults", json=asked, timeout=10).status_code == 200
        summary = run_trader(plan(), config(), endpoints, home=home, run_id="run-1")
        wire = requests.get(f"{url}/wire", timeout=30).json()["requests"]
        truth = twin_truth(endpoints)

    about = [(r["method"], r["fault"], r) for r in wire if r["method"] == "POST" or "by_client" in r["path"]]
    posts = [json.loads(r["body"])["client_order_id"] for method, _, r in about if method == "POST"]
    assert [fault for _, fault, _ in about[:6]] == ["lost_answer", "unseen", None, "not_processed", None, None], about[
        :6
    ]
    assert [posts.count(name) for name in posts[:2]] == [1, 2]
    assert (summary["exit_code"], truth_errors(home, truth)) == (0, [])
    with ledger(home) as database:
        assert recorded_orders(database) == simulated_orders(simulated(4, start=BUSY))
