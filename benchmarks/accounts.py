"""W4: one strategy through the decision core, one call per bar. W5: a portfolio of 500 symbols rebalanced every fifth close.

W4 has the data and the rules of crosses.py. W5: 2,520 daily bars; at every fifth close from the 65th on, 98 % of the equity is
spread in inverse proportion to the standard deviation (ddof 1) of each symbol's last 60 returns; filled whole at the next open,
fractional shares, 5 bp of slippage either way, nothing else.
"""

import sys
import time
from typing import Any

import numpy as np
from _harness import OURS, Arrays, Engine, Part, Run, Work, main
from crosses import CASH, FEE, LOT, arrays, load_backtesting, load_backtrader

LOOKBACK, EVERY, INVESTED, SLIP = 60, 5, 0.98, 5e-4


def load_python_loop() -> Run:
    """What one writes in plain Python for this one strategy: signals, fills, equity and drawdown in one pass."""

    def run(a: Arrays) -> dict[str, Any]:
        opens, closes = a["open"].tolist(), a["close"].tolist()
        cash, shares, wanted, trades = CASH, 0.0, 0, 0
        sum_fast = sum_slow = deepest = 0.0
        before, peak, equity = float("nan"), CASH, []
        for t, close in enumerate(closes):
            if wanted == 1 and shares == 0.0:
                shares = LOT
                cash -= LOT * opens[t] * (1.0 + FEE)
            elif wanted == -1 and shares > 0.0:
                cash += LOT * opens[t] * (1.0 - FEE)
                shares = 0.0
                trades += 1
            wanted = 0
            sum_fast += close
            sum_slow += close
            if t >= 20:
                sum_fast -= closes[t - 20]
            if t >= 50:
                sum_slow -= closes[t - 50]
            if t >= 49:
                gap = sum_fast / 20 - sum_slow / 50
                if before <= 0.0 < gap:
                    wanted = 1
                elif before >= 0.0 > gap:
                    wanted = -1
                before = gap
            value = cash + shares * close
            equity.append(value)
            peak = max(peak, value)
            deepest = max(deepest, 1.0 - value / peak)
        mean = sum(equity) / len(equity)
        return {"trades": trades, "final_equity": equity[-1], "mean_equity": mean, "max_drawdown": deepest}

    return run


def _told(equity: Any, sells: int) -> dict[str, Any]:
    deepest = (1.0 - equity / np.maximum.accumulate(np.maximum(equity, CASH))).max()
    return {"trades": sells, "final_equity": equity[-1], "mean_equity": equity.mean(), "max_drawdown": deepest}


def _ours() -> Any:
    from decimal import Decimal

    from algo_royale.costs import CostRules
    from algo_royale.engine import EngineConfig
    from algo_royale.market import Bars, Timeframe
    from algo_royale.portfolio.sizing import AccountRules
    from algo_royale.strategies.strategy import compose

    windows = {"short_window": 20, "long_window": 50}
    cross = {"entry_conditions": [{"MovingAverageEntry": windows}], "exit_conditions": [{"MovingAverageExit": windows}]}
    costs = CostRules(slippage_bps=Decimal(0), commission_bps=Decimal(1))
    rules = AccountRules(shares=Decimal(100), lot=Decimal(1), drift_band=Decimal(0), costs=costs)
    config = EngineConfig(ledger_id="w4", symbols=("A",), strategy="EqualWeightPortfolioStrategy", rules=rules)

    def bars(a: Arrays) -> Bars:
        n = len(a["close"])
        return Bars(
            symbol="A", timeframe=Timeframe.MIN_1, start_ns=a["start"], end_ns=a["end"], open=a["open"], high=a["high"],
            low=a["low"], close=a["close"], volume=a["volume"], vwap=np.full(n, np.nan), trade_count=np.full(n, -1),
        )  # fmt: skip

    return compose("cross", cross, Timeframe.MIN_1), config, bars


def load_simulation() -> Run:
    """Signals of all bars at once, then `research.simulate`: an event and a call of `engine.step` per bar, and per fill."""
    from decimal import Decimal

    from algo_royale.research.simulate import SymbolInput, prepare, simulate

    strategy, config, bars_of = _ours()

    def run(a: Arrays) -> dict[str, Any]:
        bars = bars_of(a)
        found = strategy.run(bars)
        one = SymbolInput(
            traded=bars, adjusted_close=bars.close, state_in=found.state_in, score=found.state_in.astype(float)
        )
        done = simulate(prepare({"A": one}, 0, 2**62), config, Decimal(int(CASH)))
        return _told(done.equity, sum(fill.action == "sell" for fill in done.fills))

    return run


def load_orders(count: int) -> Any:
    """A simulation of `count` bars that decides an order at each of them, in and out in turn."""
    from decimal import Decimal

    from algo_royale.research.simulate import SymbolInput, prepare, simulate

    _, config, bars_of = _ours()
    bars, inside = bars_of(arrays(count)), np.arange(count) % 2 == 0
    one = SymbolInput(traded=bars, adjusted_close=bars.close, state_in=inside, score=inside.astype(float))
    market = prepare({"A": one}, 0, 2**62)
    return lambda: simulate(market, config, Decimal(int(CASH)))


def flatness() -> str:
    """What an order costs (processor time of bar, decision, risk and fill) after few and after many."""
    load_orders(500)()
    told = []
    for count in (1_000, 10_000, 100_000):
        run = load_orders(count)
        began = time.process_time()
        orders = len(run().orders)
        told.append(f"{(time.process_time() - began) / orders * 1e6:.0f} us at {orders:,}")
    return "An order on every bar, processor time per order: " + ", ".join(told) + "."


def load_live() -> Run:
    """As a trader does it: per bar `Strategy.step` on that bar alone, then `engine.step`; a fill at the open before."""
    from decimal import Decimal

    from algo_royale.costs import commission, usd
    from algo_royale.engine import BarsClosed, FillApplied, SymbolBar, start, step
    from algo_royale.orders import Fill

    strategy, config, bars_of = _ours()

    def run(a: Arrays) -> dict[str, Any]:
        bars, memory, state = bars_of(a), strategy.init(), start(config, Decimal(int(CASH)))
        closes, opens, ends, equity, sells = a["close"].tolist(), a["open"].tolist(), a["end"].tolist(), [], 0
        for t, close in enumerate(closes):
            for order in tuple(state.orders.values()):
                price, lot = usd(opens[t]), order.quantity
                fill = Fill(
                    execution_id="1", client_order_id=order.client_order_id, broker_order_id="", symbol="A", side=order.side,
                    quantity=lot, cumulative_quantity=lot, price_usd=price,
                    fees_usd=commission(order.side, lot, price, config.rules.costs),
                )  # fmt: skip
                state, _ = step(state, FillApplied(fill), config)
                sells += order.side == "sell"
            found, memory = strategy.step(bars.slice(t, t + 1), memory)
            inside = bool(found.state_in[0])
            event = BarsClosed(ends[t], "2000-01-03", {"A": SymbolBar(usd(close), close, inside, float(inside))})
            state, _ = step(state, event, config)
            equity.append(float(state.equity))
        return _told(np.array(equity), sells)

    return run


# W5


def market(symbols: int, days: int) -> Arrays:
    """Independent walks with gaps at the open."""
    rng = np.random.default_rng(7)
    risk = rng.uniform(0.005, 0.03, symbols)
    close = 50.0 * np.exp(np.cumsum(rng.normal(0.0003, 1.0, (days, symbols)) * risk, axis=0))
    open_ = np.vstack((np.full((1, symbols), 50.0), close[:-1])) * np.exp(rng.normal(0.0, 0.003, (days, symbols)))
    index, day_ns = np.arange(days), 86_400 * 10**9
    start = (10_960 + index // 5 * 7 + index % 5) * day_ns + 5 * 3600 * 10**9
    return {"open": open_, "close": close, "start": start, "end": start + 16 * 3600 * 10**9}


def rebalanced(days: int) -> Any:
    """Which closes decide."""
    at = np.arange(1, days + 1) % EVERY == 0
    at[:LOOKBACK] = False
    return at


def load_numba_portfolio() -> Run:
    import numba

    @numba.njit
    def loop(open_, close, at):  # type: ignore[no-untyped-def]
        """One pass; deviations by running sums."""
        days, n = close.shape
        shares, wanted, returns = np.zeros(n), np.zeros(n), np.zeros((days, n))
        total, squares, equity, weight = np.zeros(n), np.zeros(n), np.empty(days), np.zeros(n)
        cash, fills = CASH, 0
        for t in range(days):
            if t > 0 and at[t - 1]:
                cost = 0.0
                for j in range(n):
                    change = wanted[j] - shares[j]
                    if change < 0.0:
                        cash -= change * open_[t, j] * (1.0 - SLIP)
                        shares[j] = wanted[j]
                        fills += 1
                    elif change > 0.0:
                        cost += change * open_[t, j] * (1.0 + SLIP)
                part = min(1.0, cash / cost)
                for j in range(n):
                    change = wanted[j] - shares[j]
                    if change > 0.0:
                        cash -= part * change * open_[t, j] * (1.0 + SLIP)
                        shares[j] += part * change
                        fills += 1
            value = cash
            for j in range(n):
                value += shares[j] * close[t, j]
            equity[t] = value
            if t > 0:
                for j in range(n):
                    x = close[t, j] / close[t - 1, j] - 1.0
                    returns[t, j] = x
                    total[j] += x
                    squares[j] += x * x
            if t > LOOKBACK:
                for j in range(n):
                    x = returns[t - LOOKBACK, j]
                    total[j] -= x
                    squares[j] -= x * x
            if at[t]:
                whole = 0.0
                for j in range(n):
                    weight[j] = 1.0 / np.sqrt((squares[j] - total[j] * total[j] / LOOKBACK) / (LOOKBACK - 1))
                    whole += weight[j]
                for j in range(n):
                    wanted[j] = INVESTED * weight[j] / whole * value / close[t, j]
        return equity, fills

    def run(a: Arrays) -> dict[str, Any]:
        equity, fills = loop(a["open"], a["close"], rebalanced(len(a["close"])))
        return {"fills": fills, "final_equity": equity[-1], "mean_equity": equity.mean()}

    return run


def load_panel() -> Run:
    """The account that every trial of a portfolio study goes through."""
    from decimal import Decimal

    from algo_royale.engine import EngineConfig
    from algo_royale.portfolio.sizing import AccountRules
    from algo_royale.portfolio.weights import WeightConfig
    from algo_royale.research.panel import Panel, simulate_panel

    rules = AccountRules(drift_band=Decimal(0), min_notional=Decimal(0))
    weights = WeightConfig(max_weight=1.0, cash_buffer=1.0 - INVESTED)

    def run(a: Arrays) -> dict[str, Any]:
        days, n = a["close"].shape
        symbols = tuple(f"S{i:03}" for i in range(n))
        panel = Panel.whole(symbols, a["start"], a["end"], a["open"], a["close"])
        config = EngineConfig(
            ledger_id="w5", symbols=symbols, strategy="InverseVolatilityPortfolioStrategy", params={"lookback": LOOKBACK},
            rules=rules, weights=weights,
        )  # fmt: skip
        done = simulate_panel(panel, config, CASH, rebalance_at=rebalanced(days))
        return {"fills": done.num_fills, "final_equity": done.equity[-1], "mean_equity": done.equity.mean()}

    return run


def _weights(close: Any) -> Any:
    """Weights by pandas, at the closes that decide; else missing."""
    inverse = 1.0 / close.pct_change().rolling(LOOKBACK).std()
    weights = inverse.mul(INVESTED / inverse.sum(axis=1), axis=0)
    return weights.where(np.broadcast_to(rebalanced(len(close))[:, None], weights.shape))


def load_vectorbt_portfolio(engine: str) -> Run:
    import pandas as pd
    import vectorbt as vbt

    vbt.settings["engine"] = engine
    vbt.settings.array_wrapper["freq"] = "1D"

    def run(a: Arrays) -> dict[str, Any]:
        close, open_ = pd.DataFrame(a["close"]), pd.DataFrame(a["open"])
        held = vbt.Portfolio.from_orders(
            close, size=_weights(close).shift(1), size_type="targetpercent", price=open_, val_price=close.shift(1),
            slippage=SLIP, init_cash=CASH, cash_sharing=True, group_by=True, call_seq="auto",
        )  # fmt: skip
        equity = held.value()
        return {"fills": held.orders.count(), "final_equity": equity.iloc[-1], "mean_equity": equity.mean()}

    return run


def load_bt() -> Run:
    import bt
    import pandas as pd

    def run(a: Arrays) -> dict[str, Any]:
        close = pd.DataFrame(
            a["close"], index=pd.to_datetime(a["start"]), columns=[f"S{i}" for i in range(a["close"].shape[1])]
        )
        weights = _weights(close).dropna(how="all")
        algos = [bt.algos.RunOnDate(*weights.index), bt.algos.WeighTarget(weights), bt.algos.Rebalance()]
        test = bt.Backtest(
            bt.Strategy("inverse volatility", algos), close, initial_capital=CASH, integer_positions=False, progress_bar=False,
            commissions=lambda quantity, price: abs(quantity) * price * SLIP,
        )  # fmt: skip
        bt.run(test, progress_bar=False)
        equity = test.strategy.values.iloc[1:]
        return {"fills": 0, "final_equity": equity.iloc[-1], "mean_equity": equity.mean()}

    return run


W4 = Work(
    name="W4",
    title="W1's strategy through the decision core, one call per bar, 100,000 bars",
    make=arrays,
    sizes={"full": {"bars": 100_000}, "quick": {"bars": 5_000}},
    reference="Python loop",
    tolerance={"trades": 0.0, "final_equity": 1e-11, "mean_equity": 1e-11, "max_drawdown": 1e-8},
    engines=[
        Engine("Python loop", "numba", load_python_loop),
        Engine("AlgoRoyale (research)", OURS, load_simulation),
        Engine("AlgoRoyale (live)", OURS, load_live),
        Engine("backtesting.py", "backtesting", load_backtesting),
        Engine("backtrader", "backtrader", load_backtrader, repeats=2),
    ],
)
AT_CLOSE = "it trades at the close that decides"
W5 = Work(
    name="W5",
    title="500 symbols x 2,520 days, inverse volatility at every fifth close",
    make=market,
    sizes={"full": {"symbols": 500, "days": 2520}, "quick": {"symbols": 20, "days": 300}},
    reference="numba loop",
    tolerance={"fills": 0.0, "final_equity": 1e-6, "mean_equity": 1e-6},
    engines=[
        Engine("numba loop", "numba", load_numba_portfolio),
        Engine("AlgoRoyale", OURS, load_panel),
        Engine("vectorbt (Rust)", "vectorbt", lambda: load_vectorbt_portfolio("auto"), repeats=3),
        Engine("vectorbt (numba)", "vectorbt", lambda: load_vectorbt_portfolio("numba"), repeats=3),
        Engine(
            "bt",
            "bt",
            load_bt,
            repeats=1,
            part=Part(size={"symbols": 50}, factor=10.0, why="50 of the 500 symbols"),
            unlike={"fills": AT_CLOSE, "final_equity": AT_CLOSE, "mean_equity": AT_CLOSE},
        ),
    ],
)
WORKS = [W4, W5]

if __name__ == "__main__":
    main(WORKS, __file__)
    if "W5" not in sys.argv and "--quick" not in sys.argv:
        print(flatness())
