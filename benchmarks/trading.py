"""The whole trader against the twin, in processes of their own and over real sockets: what it takes and what it leaves.

    python benchmarks/trading.py growth              memory, message log and ledger over 250 sessions x 50 symbols
    python benchmarks/trading.py growth --sessions 60 --symbols 20

Prices are random walks of a fixed seed; the strategy is in after every bar that rose and out after one that fell, so that there are
many orders. Memory is the trader's own
process, sampled while sessions pass. Growth is the slope of a straight line through the samples after the first fifth (until then
caches fill), with twice its standard error: memory is flat where the slope is not larger than that.
"""

import argparse
import tempfile
import threading
import time
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import numpy as np
import psutil
from scale import make, starts

from algo_royale.app.cli import Settings
from algo_royale.app.trader import run_trader, twin_process
from algo_royale.config import Config
from algo_royale.errors import LedgerError
from algo_royale.market import Timeframe
from algo_royale.research.handover import Member, SymbolPlan, TradingPlan
from algo_royale.sessions import calendar, new_york_date
from algo_royale.strategies import default_trial, loading, resolve, strategy_id
from db.store import Reader

NERVOUS = """\
from algo_royale.strategies.own import condition, strategy


@condition(lookback=2)
def up(bars):
    return bars.close[-1] > bars.close[-2]


@condition(lookback=2)
def down(bars):
    return bars.close[-1] < bars.close[-2]


strategy("Nervous", entry=up, exit=down)
"""
WARMUP = 30
PERIOD_S = 0.25


def plan_of(symbols: list[str], timeframe: Timeframe, last_session: date, place: Path) -> TradingPlan:
    """A plan as research would hand it over: all symbols at equal weight, in after a bar that rose and out after one that fell."""
    file, name = place / "nervous.py", "Nervous"
    file.write_text(NERVOUS)
    loading.load([str(file)])
    params = resolve(name, default_trial(name, timeframe), timeframe)
    member = Member(
        strategy=name,
        strategy_id=strategy_id(name, params, timeframe),
        weight=1.0,
        params=params,
        version=loading.versions()[name],
    )
    return TradingPlan(
        timeframe=timeframe.value, universe="bench", portfolio="EqualWeightPortfolioStrategy", portfolio_params={},
        symbols=tuple(SymbolPlan(symbol=symbol, viability=1.0, members=(member,)) for symbol in symbols),
        warmup_bars=WARMUP, last_session=last_session.isoformat(), strategy_path=(str(file),),
    )  # fmt: skip


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


@dataclass
class Samples:
    """Resident memory of this process by sessions traded, read beside the run."""

    ledger: Path
    rows: list[tuple[float, float]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        me = psutil.Process()
        while not self.over.wait(PERIOD_S):
            try:
                with Reader(self.ledger) as reader:
                    sessions = reader.summary().decisions
            except LedgerError:  # it is being made
                continue
            self.rows.append((sessions, me.memory_info().rss / 2**10))


def slope(rows: list[tuple[float, float]]) -> tuple[float, float]:
    """Of a least-squares line: y per x, and its standard error."""
    x, y = np.array(rows).T
    x = x - x.mean()
    beta = float((x * y).sum() / (x * x).sum())
    rest = y - y.mean() - beta * x
    return beta, float(np.sqrt((rest * rest).sum() / (len(x) - 2) / (x * x).sum()))


def growth(sessions: int, count: int) -> None:
    with tempfile.TemporaryDirectory(prefix="growth-") as place:
        home, bars = Path(place, "home"), sessions + WARMUP + 20
        symbols = make(Path(place, "data"), count, bars, "1Day")
        days = starts(bars, "1Day")
        first = new_york_date(int(days[-sessions]))
        plan = plan_of(symbols, Timeframe.DAY_1, calendar().offset(first, -1).date, Path(place))
        config = config_of(Path(place, "data"))
        home.mkdir()
        samples = Samples(home / "ledger.db")
        watcher = threading.Thread(target=samples.watch)
        watcher.start()
        began = time.perf_counter()
        try:
            with twin_process(plan, config, first=first, last=new_york_date(int(days[-1])), speed="max") as twin:
                summary = run_trader(plan, config, twin, home=home, run_id="growth")
        finally:
            samples.over.set()
            watcher.join()
        took = time.perf_counter() - began

        log = sum(path.stat().st_size for path in (home / "runs").rglob("messages.db*"))
        ledger = sum(path.stat().st_size for path in home.glob("ledger.db*"))
    late = [row for row in samples.rows if row[0] >= sessions / 5]
    beta, error = slope(late)
    print(f"{summary['sessions']} sessions x {count} symbols in {took:.0f} s: {summary['orders']['submitted']} orders, "
          f"{summary['fills']} fills, exit {summary['exit_code']}")  # fmt: skip
    print(f"memory {late[0][1] / 1024:.1f} MiB after a fifth, {late[-1][1] / 1024:.1f} MiB at the end; "
          f"slope {beta:+.2f} KiB a session +- {2 * error:.2f}")  # fmt: skip
    print(f"message log {log / 2**20:.1f} MiB, {log / sessions / 2**10:.1f} KiB a session; "
          f"ledger {ledger / 2**20:.1f} MiB, {ledger / sessions / 2**10:.1f} KiB a session")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("work", choices=("growth",))
    parser.add_argument("--sessions", type=int, default=250)
    parser.add_argument("--symbols", type=int, default=50)
    asked = parser.parse_args()
    growth(asked.sessions, asked.symbols)


if __name__ == "__main__":
    main()
