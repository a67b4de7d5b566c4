"""W1 and W2: the cross of two moving averages, once over a million bars, and 400 pairs of windows over 100,000.

Rules: start with 1,000,000 dollars, long only, a fixed lot of 100 shares, 1 bp commission of the notional, a signal at the
close of a bar fills at the open of the next, and what is open at the end is sold at the last close. Prices lie on a grid of
1/64 dollar: sums of them are exact in every engine, however it sums, so that trades can be compared one for one.
"""

from decimal import Decimal
from functools import lru_cache
from typing import Any

import numpy as np
from _harness import OURS, Arrays, Engine, Part, Run, Work, main

CASH, LOT, FEE = 1_000_000.0, 100.0, 1e-4
BARS_PER_SESSION = 390
FASTS, SLOWS = list(range(5, 25)), list(range(30, 126, 5))


def arrays(bars: int, fasts: int = len(FASTS), slows: int = len(SLOWS)) -> Arrays:
    """A walk of minute bars between 50 and 200 dollars.

    It falls over its first 200 bars, so that no average begins equal to another (engines differ in what a cross from
    there is), and over its last 400, so that everyone ends flat.
    """
    rng = np.random.default_rng(11)
    walk = np.cumsum(np.rint(rng.normal(0.0, 3.0, bars)))
    close = 3200.0 + np.abs((walk + 3200.0) % 19200.0 - 9600.0)
    close[:200] = close[200] + np.arange(200, 0, -1)
    falling = min(400, bars // 4)
    close[-falling:] = close[-falling] - np.arange(falling)
    open_ = np.concatenate((close[:1], close[:-1])) + np.rint(rng.normal(0.0, 1.0, bars))
    high = np.maximum(open_, close) + np.abs(np.rint(rng.normal(0.0, 2.0, bars)))
    low = np.minimum(open_, close) - np.abs(np.rint(rng.normal(0.0, 2.0, bars)))
    index = np.arange(bars)
    minute_ns = 60 * 10**9
    start = (index // BARS_PER_SESSION * 1440 + index % BARS_PER_SESSION + 870) * minute_ns + 946_857_600 * 10**9
    last_bar = np.unique(np.append(index[BARS_PER_SESSION - 1 :: BARS_PER_SESSION], bars - 1))
    prices = {"open": open_ / 64, "high": high / 64, "low": low / 64, "close": close / 64}
    return prices | {
        "volume": np.floor(rng.uniform(100.0, 10_000.0, bars)), "start": start, "end": start + minute_ns,
        "last_bar": last_bar, "fast": np.array(FASTS[:fasts]), "slow": np.array(SLOWS[:slows]),
    }  # fmt: skip


# The bare loops: what one writes with numba for this one strategy.


@lru_cache(maxsize=1)
def _loops() -> Any:
    import numba

    @numba.njit
    def one(open_, close, fast, slow):  # type: ignore[no-untyped-def]
        """Signals, fills, equity and drawdown in one pass; the averages are running sums."""
        n = len(close)
        equity = np.empty(n)
        cash, shares, wanted, trades = CASH, 0.0, 0, 0
        sum_fast, sum_slow, before = 0.0, 0.0, np.nan
        peak, deepest = CASH, 0.0
        for t in range(n):
            if wanted == 1 and shares == 0.0:
                shares = LOT
                cash -= LOT * open_[t] + LOT * (open_[t] * FEE)
            elif wanted == -1 and shares > 0.0:
                cash += LOT * open_[t] - FEE * (LOT * open_[t])
                shares = 0.0
                trades += 1
            wanted = 0
            sum_fast += close[t]
            sum_slow += close[t]
            if t >= fast:
                sum_fast -= close[t - fast]
            if t >= slow:
                sum_slow -= close[t - slow]
            if t >= slow - 1:
                gap = sum_fast / fast - sum_slow / slow
                if before <= 0.0 and gap > 0.0:
                    wanted = 1
                elif before >= 0.0 and gap < 0.0:
                    wanted = -1
                before = gap
            value = cash + shares * close[t]
            equity[t] = value
            peak = max(peak, value)
            deepest = max(deepest, 1.0 - value / peak)
        return equity, trades, deepest

    @numba.njit
    def averages(close, windows):  # type: ignore[no-untyped-def]
        out = np.full((len(windows), len(close)), np.nan)
        for i in range(len(windows)):
            total = 0.0
            for t in range(len(close)):
                total += close[t]
                if t >= windows[i]:
                    total -= close[t - windows[i]]
                if t >= windows[i] - 1:
                    out[i, t] = total / windows[i]
        return out

    @numba.njit
    def grid(open_, close, fasts, slows):  # type: ignore[no-untyped-def]
        """Each average once, then one pass over all bars for each pair."""
        fast, slow = averages(close, fasts), averages(close, slows)
        final, count = np.empty((len(fasts), len(slows))), np.zeros((len(fasts), len(slows)))
        for i in range(len(fasts)):
            for j in range(len(slows)):
                cash, shares, side = CASH, 0.0, 2
                for t in range(slows[j] - 1, len(close) - 1):
                    gap = fast[i, t] - slow[j, t]
                    now = 1 if gap > 0.0 else -1 if gap < 0.0 else 0
                    if now != side:
                        if now == 1 and side <= 0 and shares == 0.0:
                            shares = LOT
                            cash -= LOT * open_[t + 1] + LOT * (open_[t + 1] * FEE)
                        elif now == -1 and side != 2 and shares > 0.0:
                            shares = 0.0
                            cash += LOT * open_[t + 1] - FEE * (LOT * open_[t + 1])
                            count[i, j] += 1
                        side = now
                final[i, j] = cash + shares * close[-1] * (1.0 - FEE)
        return final, count

    @numba.njit
    def tiled(open_, close, fasts, slows):  # type: ignore[no-untyped-def]
        """As `grid`, in tiles of bars that stay in the cache, looking only at the side on which the gap is."""
        fast, slow = averages(close, fasts), averages(close, slows)
        final, count = np.full((len(fasts), len(slows)), CASH), np.zeros((len(fasts), len(slows)))
        above = np.zeros((len(fasts), len(slows)), np.int8)  # of the bar before: 1 above, -1 below, 0 equal, 2 unknown
        above[:] = 2
        shares = np.zeros((len(fasts), len(slows)))
        tile = 2048
        for low in range(0, len(close) - 1, tile):
            high = min(low + tile, len(close) - 1)
            for i in range(len(fasts)):
                for j in range(len(slows)):
                    side, held = above[i, j], shares[i, j]
                    for t in range(max(low, slows[j] - 1), high):
                        gap = fast[i, t] - slow[j, t]
                        now = 1 if gap > 0.0 else -1 if gap < 0.0 else 0
                        if now != side:
                            if now == 1 and side <= 0 and held == 0.0:
                                held = LOT
                                final[i, j] -= LOT * open_[t + 1] + LOT * (open_[t + 1] * FEE)
                            elif now == -1 and side != 2 and held > 0.0:
                                held = 0.0
                                final[i, j] += LOT * open_[t + 1] - FEE * (LOT * open_[t + 1])
                                count[i, j] += 1
                            side = now
                    above[i, j], shares[i, j] = side, held
        for i in range(len(fasts)):
            for j in range(len(slows)):
                final[i, j] += shares[i, j] * close[-1] * (1.0 - FEE)
        return final, count

    return one, grid, tiled


def load_loop() -> Run:
    one = _loops()[0]

    def run(a: Arrays) -> dict[str, Any]:
        equity, trades, deepest = one(a["open"], a["close"], 20, 50)
        return {"trades": trades, "final_equity": equity[-1], "mean_equity": equity.mean(), "max_drawdown": deepest}

    return run


def load_grid(which: int) -> Run:
    grid = _loops()[which]

    def run(a: Arrays) -> dict[str, Any]:
        final, count = grid(a["open"], a["close"], a["fast"], a["slow"])
        return {"trades": count.ravel(), "final_equity": final.ravel()}

    return run


# Ours: the public steps of the product, and nothing made for this.


def _bars(a: Arrays) -> Any:
    from algo_royale.market import Bars, Timeframe

    n = len(a["close"])
    return Bars(
        symbol="WALK", timeframe=Timeframe.MIN_1, start_ns=a["start"], end_ns=a["end"], open=a["open"], high=a["high"],
        low=a["low"], close=a["close"], volume=a["volume"], vwap=np.broadcast_to(np.nan, n),
        trade_count=np.broadcast_to(np.int64(-1), n),
    )  # fmt: skip


def _costs() -> Any:
    from algo_royale.costs import CostRules

    return CostRules(slippage_bps=Decimal(0), commission_bps=Decimal(1))


def load_ours() -> Run:
    """Strategy, run, backtest and every metric that the product has: what a unit of research does with one point."""
    from algo_royale.research import backtest, metrics
    from algo_royale.strategies import build, resolve

    def run(a: Arrays) -> dict[str, Any]:
        bars = _bars(a)
        point = {"shared.short_window": 20, "shared.gap": 30}
        params = resolve("MovingAverageStrategy", point, bars.timeframe)
        signal = build("MovingAverageStrategy", params, bars.timeframe).run(bars).signal
        done = backtest.run(bars, signal, _costs(), CASH, lot=LOT)
        found = metrics.compute(
            equity=done.equity, last_bar=a["last_bar"], start_equity=CASH, exposure=done.exposure, notional=done.notional,
            trades=metrics.TradeResults(done.trades.net_pnl, done.trades.returns),
        )  # fmt: skip
        return {
            "trades": len(done.trades), "final_equity": done.equity[-1], "mean_equity": done.equity.mean(),
            "max_drawdown": found["max_drawdown"],
        }  # fmt: skip

    return run


def load_our_grid() -> Run:
    from algo_royale.research.sweep import sweep

    def run(a: Arrays) -> dict[str, Any]:
        points = [
            {"shared.short_window": f, "shared.gap": s - f} for f in a["fast"].tolist() for s in a["slow"].tolist()
        ]
        done = sweep(_bars(a), "MovingAverageStrategy", points, _costs(), CASH, lot=LOT)
        return {"trades": done.trades, "final_equity": done.final_equity}

    return run


# vectorbt


def _vectorbt(engine: str) -> Any:
    import pandas as pd
    import vectorbt as vbt

    vbt.settings["engine"] = engine  # "auto" is Rust wherever it can; shifts of signals it cannot
    vbt.settings.array_wrapper["freq"] = "1min"
    return vbt, pd


def _traded(vbt: Any, close: Any, open_: Any, fast: Any, slow: Any) -> Any:
    """What the crosses of two averages, or of many pairs, make of the money."""
    enter, leave = (
        signals.vbt.signals.fshift(1) for signals in (fast.ma_crossed_above(slow), fast.ma_crossed_below(slow))
    )
    return vbt.Portfolio.from_signals(close, enter, leave, price=open_, size=LOT, init_cash=CASH, fees=FEE)


def load_vectorbt(engine: str) -> Run:
    vbt, pd = _vectorbt(engine)

    def run(a: Arrays) -> dict[str, Any]:
        close, open_ = pd.Series(a["close"]), pd.Series(a["open"])
        fast, slow = vbt.MA.run(close, 20), vbt.MA.run(close, 50)
        held = _traded(vbt, close, open_, fast, slow)
        equity = held.value()
        return {
            "trades": held.trades.count(), "final_equity": equity.iloc[-1], "mean_equity": equity.mean(),
            "max_drawdown": -held.max_drawdown(),
        }  # fmt: skip

    return run


def load_vectorbt_grid(engine: str) -> Run:
    vbt, pd = _vectorbt(engine)

    def run(a: Arrays) -> dict[str, Any]:
        close, open_ = pd.Series(a["close"]), pd.Series(a["open"])
        pairs = [(int(f), int(s)) for f in a["fast"] for s in a["slow"]]
        fast = vbt.MA.run(close, [f for f, _ in pairs], short_name="fast")
        slow = vbt.MA.run(close, [s for _, s in pairs], short_name="slow")
        held = _traded(vbt, close, open_, fast, slow)
        return {"trades": held.trades.count().to_numpy(), "final_equity": held.final_value().to_numpy()}

    return run


# backtesting.py and backtrader: a Python call per bar


def load_backtesting(pairs: bool = False) -> Run:
    import pandas as pd
    from backtesting import Backtest, Strategy

    def mean(values: Any, n: int) -> Any:
        return pd.Series(values).rolling(n).mean()

    class Cross(Strategy):  # type: ignore[misc]
        fast, slow = 20, 50

        def init(self) -> None:
            self.quick = self.I(mean, self.data.Close, self.fast)
            self.calm = self.I(mean, self.data.Close, self.slow)

        def next(self) -> None:
            before, now = self.quick[-2] - self.calm[-2], self.quick[-1] - self.calm[-1]
            if before <= 0.0 < now:
                if not self.position:
                    self.buy(size=int(LOT))
            elif now < 0.0 <= before and self.position:
                self.position.close()

    def tested(a: Arrays, fast: int, slow: int) -> Any:
        columns = {name.capitalize(): a[name] for name in ("open", "high", "low", "close", "volume")}
        frame = pd.DataFrame(columns, index=pd.to_datetime(a["start"]))
        return Backtest(frame, Cross, cash=CASH, commission=FEE, finalize_trades=True).run(fast=fast, slow=slow)

    def run(a: Arrays) -> dict[str, Any]:
        if pairs:
            every = [tested(a, int(f), int(s)) for f in a["fast"] for s in a["slow"]]
            return {
                "trades": [len(d["_trades"]) for d in every],
                "final_equity": [d["Equity Final [$]"] for d in every],
            }
        done = tested(a, 20, 50)
        equity = done["_equity_curve"]["Equity"]
        return {
            "trades": len(done["_trades"]), "final_equity": equity.iloc[-1], "mean_equity": equity.mean(),
            "max_drawdown": -done["Max. Drawdown [%]"] / 100,
        }  # fmt: skip

    return run


def load_backtrader() -> Run:
    import backtrader as bt
    import pandas as pd

    class Cross(bt.Strategy):  # type: ignore[misc]
        params = (("fast", 20), ("slow", 50))

        def __init__(self) -> None:
            gap = bt.ind.SMA(period=self.p.fast) - bt.ind.SMA(period=self.p.slow)
            self.up, self.down = bt.ind.CrossUp(gap, 0.0), bt.ind.CrossDown(gap, 0.0)
            self.values: list[float] = []

        def next(self) -> None:
            self.values.append(self.broker.getvalue())
            if self.up[0] and not self.position:
                self.buy(size=int(LOT))
            elif self.down[0] and self.position:
                self.close()

    def run(a: Arrays) -> dict[str, Any]:
        columns = {name: a[name] for name in ("open", "high", "low", "close", "volume")}
        feed = bt.feeds.PandasData(dataname=pd.DataFrame(columns, index=pd.to_datetime(a["start"])))
        cerebro = bt.Cerebro(stdstats=False)
        cerebro.adddata(feed)
        cerebro.addstrategy(Cross)
        cerebro.addanalyzer(bt.analyzers.DrawDown, _name="drawdown")
        cerebro.addanalyzer(bt.analyzers.TradeAnalyzer, _name="trades")
        cerebro.broker.setcash(CASH)
        cerebro.broker.setcommission(commission=FEE)
        (done,) = cerebro.run()
        waited = len(a["close"]) - len(done.values)
        return {
            "trades": done.analyzers.trades.get_analysis().total.closed, "final_equity": cerebro.broker.getvalue(),
            "mean_equity": (sum(done.values) + waited * CASH) / len(a["close"]),
            "max_drawdown": done.analyzers.drawdown.get_analysis().max.drawdown / 100,
        }  # fmt: skip

    return run


W1 = Work(
    name="W1",
    title="SMA(20)/SMA(50) cross over 1,000,000 minute bars, with equity curve and drawdown",
    make=arrays,
    sizes={"full": {"bars": 1_000_000}, "quick": {"bars": 5_000}},
    reference="numba loop",
    tolerance={"trades": 0.0, "final_equity": 1e-11, "mean_equity": 1e-11, "max_drawdown": 1e-8},
    engines=[
        Engine("numba loop", "numba", load_loop),
        Engine("AlgoRoyale", OURS, load_ours),
        Engine("vectorbt (Rust)", "vectorbt", lambda: load_vectorbt("auto")),
        Engine("vectorbt (numba)", "vectorbt", lambda: load_vectorbt("numba")),
        Engine("backtesting.py", "backtesting", load_backtesting, repeats=1),
        Engine("backtrader", "backtrader", load_backtrader, repeats=1),
    ],
)
W2 = Work(
    name="W2",
    title="the same over 100,000 bars for 400 pairs of windows: trades and final equity of every pair",
    make=arrays,
    sizes={"full": {"bars": 100_000}, "quick": {"bars": 5_000, "fasts": 3, "slows": 4}},
    reference="numba loop",
    tolerance={"trades": 0.0, "final_equity": 1e-11},
    engines=[
        Engine("numba loop", "numba", lambda: load_grid(1)),
        Engine("AlgoRoyale", OURS, load_our_grid),
        Engine("numba loop (tiled)", "numba", lambda: load_grid(2)),
        Engine("vectorbt (Rust)", "vectorbt", lambda: load_vectorbt_grid("auto"), repeats=3),
        Engine("vectorbt (numba)", "vectorbt", lambda: load_vectorbt_grid("numba"), repeats=3),
        Engine(
            "backtesting.py",
            "backtesting",
            lambda: load_backtesting(pairs=True),
            repeats=1,
            part=Part(size={"fasts": 1, "slows": 4}, factor=100.0, why="4 of the 400 pairs"),
        ),
    ],
)
WORKS = [W1, W2]

if __name__ == "__main__":
    main(WORKS, __file__)
