"""The whole trader against the twin, in processes of their own and over real sockets: what it takes and what it leaves.

    python benchmarks/trading.py growth              memory, message log and ledger over 250 sessions x 50 symbols
    python benchmarks/trading.py growth --sessions 60 --symbols 20
    python benchmarks/trading.py latency             bar in to order request out, with 4 symbols and with 500

Prices are random walks of a fixed seed; the strategy is in after every bar that rose and out after one that fell, so that there are
many orders. Memory is what is resident of the trader's own process, once in every session: when its decision is about to be
committed. Growth is the slope of a straight line through the sessions after the first fifth (until then caches fill). Neighbouring
samples are near each other, so its error is not that of independent ones: the line goes through the means of ten blocks of sessions,
and the interval is that in which the slope of such a line lies with a chance of 95 in 100. Memory is flat where that holds zero.

Latency is within the trader's process, message log on: from the moment the reader thread has a frame with the symbol's minute bar
until the POST of that symbol's order begins. Four symbols trade; the others, where there are others, have actors of their own
and never trade. The portfolio waits for every symbol's bar, and orders of one bar go out one after the other, each when the one before
is answered; so the first order of each bar is also told for itself.
"""

import argparse
import os
import re
import signal
import tempfile
import threading
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from scale import make, starts

from actors.alpaca import AlpacaRest, AlpacaStreams
from algo_royale.app.cli import Settings
from algo_royale.app.trader import run_trader, twin_process
from algo_royale.config import Config
from algo_royale.data.catalog import write_parquet
from algo_royale.exchange.wire import rfc3339
from algo_royale.market import Timeframe
from algo_royale.research.handover import Member, SymbolPlan, TradingPlan
from algo_royale.sessions import calendar, new_york_date
from algo_royale.strategies import default_trial, loading, resolve, strategy_id
from db.store import Store

NERVOUS = str(Path(__file__).parents[1] / "tests" / "nervous.py")
WARMUP = 30
BLOCKS = 10
STUDENT_8 = 2.306  # 97.5 in 100 of its values are smaller, with as many blocks less two
MINUTE_NS = 60_000_000_000
GRACE_S = 3.0  # for the orders of the last bar
SYMBOL = re.compile(r'"S":"([^"]+)"')


def plan_of(
    symbols: list[str], timeframe: Timeframe, last_session: date, *, calm: frozenset[str] = frozenset()
) -> TradingPlan:
    """A plan as research would hand it over: all symbols at equal weight, in after a bar that rose and out after one that fell;
    but the calm ones never in."""
    loading.forget()
    loading.load([NERVOUS])
    members = {name: member_of(name, timeframe) for name in ("Nervous", "Calm")}
    return TradingPlan(
        timeframe=timeframe.value, universe="bench", portfolio="EqualWeightPortfolioStrategy", portfolio_params={},
        symbols=tuple(
            SymbolPlan(symbol=symbol, viability=1.0, members=(members["Calm" if symbol in calm else "Nervous"],))
            for symbol in symbols
        ),
        warmup_bars=WARMUP, last_session=last_session.isoformat(), strategy_path=(NERVOUS,),
    )  # fmt: skip


def member_of(name: str, timeframe: Timeframe) -> Member:
    params = resolve(name, default_trial(name, timeframe), timeframe)
    return Member(
        strategy=name,
        strategy_id=strategy_id(name, params, timeframe),
        weight=1.0,
        params=params,
        version=loading.versions()[name],
    )


def config_of(data: Path) -> Config:
    """The development environment's configuration, on data of ours, with money enough for many symbols and no limit that
    random walks would break."""
    limits = (
        "order_notional_usd",
        "position_notional_usd",
        "orders_per_minute",
        "orders_per_day",
        "daily_loss_fraction",
    )
    risk = dict.fromkeys((*limits, "drawdown_fraction", "collar_fraction"), "off")
    return Settings().with_flags({"research": {"data": str(data)}, "account": {"cash": 1_000_000}, "risk": risk})


class Samples:
    """Resident memory, in KiB, of this process and of the one below it (the twin), by sessions traded."""

    def __init__(self) -> None:
        self.trader: list[float] = []
        self.twin: list[float] = []
        self._record = Store.record_decision

    def __enter__(self) -> "Samples":
        samples, record, me = self, self._record, psutil.Process()

        def record_decision(store: Store, *args: Any, **options: Any) -> Any:
            samples.trader.append(me.memory_info().rss / 2**10)
            samples.twin.append(sum(child.memory_info().rss for child in me.children()) / 2**10)
            return record(store, *args, **options)

        Store.record_decision = record_decision  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        Store.record_decision = self._record  # type: ignore[method-assign]


def slope(values: list[float]) -> tuple[float, float]:
    """Of a least-squares line through the means of blocks: per value, and half of its 95% interval."""
    parts = np.array_split(np.arange(len(values)), BLOCKS)
    x, y = (np.array([np.mean(of[part]) for part in parts]) for of in (np.arange(len(values)), np.array(values)))
    x = x - x.mean()
    beta = float((x * y).sum() / (x * x).sum())
    rest = y - y.mean() - beta * x
    return beta, STUDENT_8 * float(np.sqrt((rest * rest).sum() / (BLOCKS - 2) / (x * x).sum()))


def growth(sessions: int, count: int) -> None:
    with tempfile.TemporaryDirectory(prefix="growth-") as place:
        home, bars = Path(place, "home"), sessions + WARMUP + 20
        symbols = make(Path(place, "data"), count, bars, "1Day")
        days = starts(bars, "1Day")
        first = new_york_date(int(days[-sessions]))
        plan = plan_of(symbols, Timeframe.DAY_1, calendar().offset(first, -1).date)
        config = config_of(Path(place, "data"))
        home.mkdir()
        began = time.perf_counter()
        last = new_york_date(int(days[-1]))
        with twin_process(plan, config, first=first, last=last, speed="max") as twin, Samples() as samples:
            summary = run_trader(plan, config, twin, home=home, run_id="growth")
        took = time.perf_counter() - began

        log = sum(path.stat().st_size for path in (home / "runs").rglob("messages.db*"))
        ledger = sum(path.stat().st_size for path in home.glob("ledger.db*"))
    done = summary["sessions"]
    print(f"{done} sessions x {count} symbols in {took:.0f} s: {summary['orders']['submitted']} orders, "
          f"{summary['fills']} fills, exit {summary['exit_code']}")  # fmt: skip
    for name, values in (("trader", samples.trader), ("twin", samples.twin)):
        fifths = ", ".join(f"{np.mean(part) / 1024:.1f}" for part in np.array_split(np.array(values), 5))
        beta, error = slope(values[len(values) // 5 :])
        print(f"memory of the {name}: {fifths} MiB by fifths; slope {beta:+.2f} KiB a session +- {error:.2f}")
    print(f"message log {log / 2**20:.1f} MiB, {log / done / 2**10:.1f} KiB a session; "
          f"ledger {ledger / 2**20:.1f} MiB, {ledger / done / 2**10:.1f} KiB a session")  # fmt: skip


class Taps:
    """When each symbol's bar came in and when its order began to go out, in nanoseconds of this process; a while after the bars of
    the minute `last` the process is asked to end."""

    def __init__(self, last: str) -> None:
        self._last = f'"t":"{last}'
        self.came: dict[str, int] = {}
        self.ends = False
        self.waits: list[tuple[int, int]] = []  # (when its bar came, how long until its order went)
        self._open, self._request = AlpacaStreams.open, AlpacaRest.request

    def __enter__(self) -> "Taps":
        taps, opened, requested = self, self._open, self._request

        def open_stream(streams: AlpacaStreams, endpoint: str, number: int, on_frame: Any, on_state: Any) -> Any:
            def came(number: int, text: str) -> None:
                now_ns = time.perf_counter_ns()
                if endpoint == "data" and '"T":"b"' in text:
                    taps.came |= dict.fromkeys(SYMBOL.findall(text), now_ns)
                    if taps._last in text and not taps.ends:
                        taps.ends = True
                        threading.Timer(GRACE_S, os.kill, (os.getpid(), signal.SIGTERM)).start()
                on_frame(number, text)

            return opened(streams, endpoint, number, came, on_state)

        def request(rest: AlpacaRest, method: str, path: str, data: Any = None) -> Any:
            now_ns = time.perf_counter_ns()
            if method == "POST" and data["symbol"] in taps.came:
                came_ns = taps.came[data["symbol"]]
                taps.waits.append((came_ns, now_ns - came_ns))
            return requested(rest, method, path, data)

        AlpacaStreams.open, AlpacaRest.request = open_stream, request  # type: ignore[method-assign, assignment]
        return self

    def __exit__(self, *_: object) -> None:
        AlpacaStreams.open, AlpacaRest.request = self._open, self._request  # type: ignore[method-assign]


def minutes(folder: Path, symbols: list[str], count: int) -> tuple[date, str]:
    """An hour of one session and the first `count` minutes of the next one, random walks in cents; that session's date, and when the last
    minute begins."""
    before, session = calendar().offset(date(2024, 12, 27), 0), calendar().offset(date(2024, 12, 30), 0)
    at = np.r_[
        np.arange(before.close_ns - 60 * MINUTE_NS, before.close_ns, MINUTE_NS),
        session.open_ns + np.arange(count) * MINUTE_NS,
    ]
    for number, name in enumerate(symbols):
        chance = np.random.default_rng(number)
        close = np.round(50.0 * np.exp(np.cumsum(chance.normal(0, 0.001, len(at)))), 2)
        opens = np.r_[50.0, close[:-1]]
        columns = {
            "timestamp": at, "open": opens, "high": np.maximum(opens, close) + 0.01,
            "low": np.minimum(opens, close) - 0.01, "close": close, "volume": np.full(len(at), 1000.0),
        }  # fmt: skip
        write_parquet(folder / "1Min" / f"{name}.parquet", columns)
    return session.date, rfc3339(int(at[-1]))[:16]


def latency(count: int, bars: int) -> None:
    with tempfile.TemporaryDirectory(prefix="latency-") as place:
        home, data, symbols = Path(place, "home"), Path(place, "data"), [f"S{i:03d}" for i in range(count)]
        day, last = minutes(data, symbols, bars)
        plan = plan_of(symbols, Timeframe.MIN_1, calendar().offset(day, -1).date, calm=frozenset(symbols[4:]))
        config = config_of(data)
        home.mkdir()
        with twin_process(plan, config, first=day, last=day, speed="max") as twin, Taps(last) as taps:
            summary = run_trader(plan, config, twin, home=home, run_id="latency")
    firsts: dict[int, int] = {}
    for came_ns, wait_ns in taps.waits:
        firsts.setdefault(came_ns, wait_ns)
    print(f"{count} symbols, {bars} minutes, {len(taps.waits)} orders, exit {summary['exit_code']}")
    for name, waits in (("first order of a bar", list(firsts.values())), ("every order", [w for _, w in taps.waits])):
        p50, p99 = np.percentile(waits, [50, 99]) / 1e6
        print(f"  {name}: p50 {p50:.1f} ms, p99 {p99:.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("work", choices=("growth", "latency"), nargs="?", help="default: both")
    parser.add_argument("--sessions", type=int, default=250, help="growth: how long")
    parser.add_argument("--symbols", type=int, default=50, help="growth: how many")
    parser.add_argument("--minutes", type=int, default=60, help="latency: how long")
    parser.add_argument("--burst", type=int, default=500, help="latency: symbols of the second run")
    asked = parser.parse_args()
    if asked.work in ("latency", None):
        for count in (4, asked.burst):
            latency(count, asked.minutes)
    if asked.work in ("growth", None):
        growth(asked.sessions, asked.symbols)


if __name__ == "__main__":
    main()
