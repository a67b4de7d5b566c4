"""Make tests/research/peer_trades.json: what other engines trade on the bundled prices.

    python -m venv peers && peers/bin/pip install backtesting==0.6.6 vectorbt==1.2.0 ta-lib==0.8.2 pyarrow==26.0.1
    peers/bin/python tools/make_peer_trades.py

Written without any code of this project: the strategies' signals come from pandas and TA-Lib after the formulas in
docs/strategies.md, the position from the engine itself, and the prices straight from the bundled file (unadjusted). Decide at
the close, fill at the next open, all-in with fractional shares. backtesting.py applies its spread on entries alone, so it runs with
commission only; vectorbt runs with slippage on both sides as well, and only strategies whose exits do not ask for the position.
"""

import importlib.metadata
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import talib
import vectorbt
from backtesting import Strategy
from backtesting.lib import FractionalBacktest

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "tests" / "research" / "peer_trades.json"
SYMBOLS = ("AAPL", "IBM", "MSFT")
CASH, COMMISSION, SLIPPAGE = 100_000.0, 0.001, 0.0005
UNIT = 1e-8

Flags = tuple[pd.Series, pd.Series]


def up(a: pd.Series, b: pd.Series) -> pd.Series:
    return (a > b) & (a.shift() <= b.shift())


def down(a: pd.Series, b: pd.Series) -> pd.Series:
    return (a < b) & (a.shift() >= b.shift())


def macd(close: pd.Series) -> tuple[pd.Series, pd.Series]:
    line = pd.Series(talib.EMA(close, 12) - talib.EMA(close, 26), close.index)
    smoothed = pd.Series(talib.EMA(line.dropna(), 9), line.dropna().index).reindex(close.index)
    return line, smoothed


def surge(bars: pd.DataFrame) -> pd.Series:
    return bars.Volume > 2.0 * bars.Volume.rolling(20).mean().shift()


def golden(bars: pd.DataFrame) -> pd.Series:
    return bars.Close.rolling(50).mean() > bars.Close.rolling(200).mean()


def bollinger(bars: pd.DataFrame) -> Flags:
    mean, spread = bars.Close.rolling(20).mean(), 2.0 * bars.Close.rolling(20).std(ddof=0)
    return (bars.Close < mean - spread) & golden(bars), bars.Close > mean + spread


def rsi(bars: pd.DataFrame) -> Flags:
    found = talib.RSI(bars.Close, 14)
    return found < 30, found > 70


def moving_average(bars: pd.DataFrame) -> Flags:
    fast, slow = bars.Close.rolling(50).mean(), bars.Close.rolling(200).mean()
    return up(fast, slow), down(fast, slow)


def pullback(bars: pd.DataFrame) -> Flags:
    mean = bars.Close.rolling(20).mean()
    return up(bars.Close, mean), down(bars.Close, mean)


def volume_surge(bars: pd.DataFrame) -> Flags:
    found = surge(bars)
    number = pd.Series(np.arange(len(bars)), bars.index)
    return found, number - number.where(found).ffill() >= 5


def wick_reversal(bars: pd.DataFrame) -> Flags:
    body = np.maximum((bars.Close - bars.Open).abs(), 1e-4 * bars.Close)
    upper = bars.High - bars[["Open", "Close"]].max(axis=1)
    lower = bars[["Open", "Close"]].min(axis=1) - bars.Low
    return lower > 2.0 * body, upper > 2.0 * body


STATELESS: dict[str, Callable[[pd.DataFrame], Flags]] = {
    "BollingerBandsStrategy": bollinger,
    "MovingAverageStrategy": moving_average,
    "PullbackEntryStrategy": pullback,
    "RSIStrategy": rsi,
    "VolumeSurgeStrategy": volume_surge,
    "WickReversalStrategy": wick_reversal,
}


class Columns(Strategy):
    """A strategy whose numbers are computed beforehand, bar by bar, and come with the data."""

    def init(self) -> None:
        pass


class Flagged(Columns):
    """Enters and leaves by columns, exit first."""

    def next(self) -> None:
        if self.data.Leave[-1]:
            self.position.close()
        elif self.data.Enter[-1] and not self.position:
            self.buy()


class MacdTrailing(Columns):
    """A surge or a MACD cross enters above the golden cross; a cross back or 5 % below the highest close leaves."""

    high = 0.0

    def next(self) -> None:
        if self.position:
            bought = self.trades[-1].entry_bar
            if bought == len(self.data) - 1:
                self.high = float(self.data.Open[-1])
            self.high = max(self.high, float(self.data.Close[-1]))
            if self.data.Leave[-1] or self.data.Close[-1] < self.high * 0.95:
                self.position.close()
        elif self.data.Enter[-1]:
            self.buy()


class MeanReversion(Columns):
    """2 % below the mean of 20 enters, in the trend; above it, a trailing stop or the profit target leaves; 5 bars' rest."""

    high = 0.0
    left = -(10**9)

    def next(self) -> None:
        bar, close = len(self.data) - 1, float(self.data.Close[-1])
        if self.closed_trades and self.closed_trades[-1].exit_bar == bar:
            self.left = bar
        away = float(self.data.Away[-1])
        if self.position:
            entry, bought = float(self.data.Open[self.trades[-1].entry_bar - bar - 1]), self.trades[-1].entry_bar
            if bought == bar:
                self.high = entry
            self.high = max(self.high, close)
            if away > 0.02 or close < self.high * 0.95 or close >= entry * 1.04:
                self.position.close()
        elif away > 0.02:
            pass  # a bar that leaves does not enter
        elif away < -0.02 and self.data.Trend[-1] and bar - self.left >= 5:
            self.buy()


def trades(found: pd.DataFrame, scale: float) -> dict[str, list[Any]]:
    return {
        "entry": [int(x) for x in found.EntryBar],
        "exit": [int(x) for x in found.ExitBar],
        "quantity": [float(f"{x:.10g}") for x in found.Size * scale],
        "entry_price": [float(f"{x:.10g}") for x in found.EntryPrice / scale],
        "exit_price": [float(f"{x:.10g}") for x in found.ExitPrice / scale],
        "net_pnl": [float(f"{x:.10g}") for x in found.PnL],
    }


def by_backtesting(bars: pd.DataFrame, strategy: type[Strategy]) -> dict[str, Any]:
    """Closed trades and the last equity. The engine trades whole units of 1e-8 share."""
    test = FractionalBacktest(bars, strategy, cash=CASH, commission=COMMISSION, fractional_unit=UNIT)
    stats = test.run()
    return trades(stats["_trades"], 1.0) | {"final_equity": float(f"{stats['Equity Final [$]']:.10g}")}


def by_vectorbt(bars: pd.DataFrame, flags: Flags) -> dict[str, Any]:
    """Closed trades and the last equity; signals moved to the bar whose open fills them."""
    enter, leave = (f.fillna(False).astype(bool) for f in flags)
    done = vectorbt.Portfolio.from_signals(
        close=bars.Close, price=bars.Open, init_cash=CASH, fees=COMMISSION, slippage=SLIPPAGE, freq="1D",
        entries=(enter & ~leave).shift(fill_value=False), exits=leave.shift(fill_value=False),
    )  # fmt: skip
    found = done.trades.closed.records
    out = found.rename(
        columns={
            "entry_idx": "EntryBar", "exit_idx": "ExitBar", "size": "Size",
            "entry_price": "EntryPrice", "exit_price": "ExitPrice", "pnl": "PnL",
        }
    )  # fmt: skip
    return trades(out, 1.0) | {"final_equity": float(f"{done.value().iloc[-1]:.10g}")}


def main() -> None:
    warnings.filterwarnings("ignore", category=UserWarning)  # open trades at the end are wanted
    table = pd.read_parquet(ROOT / "algo_royale" / "data" / "bundled.parquet")
    out: dict[str, Any] = {
        "versions": {name: importlib.metadata.version(name) for name in ("backtesting", "vectorbt", "ta-lib", "pandas")},
        "cash": CASH, "commission": COMMISSION, "slippage": SLIPPAGE, "backtesting": {}, "vectorbt": {},
    }  # fmt: skip
    for symbol in SYMBOLS:
        bars = table[table.symbol == symbol].set_index("timestamp")[["open", "high", "low", "close", "volume"]]
        bars = bars.tz_localize(None).astype(float)
        bars.columns = bars.columns.str.capitalize()
        for name, make in STATELESS.items():
            enter, leave = (f.fillna(False).astype(float) for f in make(bars))
            out["backtesting"][f"{symbol} {name}"] = by_backtesting(bars.assign(Enter=enter, Leave=leave), Flagged)
            out["vectorbt"][f"{symbol} {name}"] = by_vectorbt(bars, make(bars))
        line, smoothed = macd(bars.Close)
        enter = (surge(bars) | up(line, smoothed)) & golden(bars)
        moved = bars.assign(Enter=enter.astype(float), Leave=down(line, smoothed).astype(float))
        out["backtesting"][f"{symbol} MACDTrailingStopStrategy"] = by_backtesting(moved, MacdTrailing)
        away = (bars.Close / bars.Close.rolling(20).mean() - 1).fillna(0.0)
        moved = bars.assign(Away=away, Trend=(bars.Close > bars.Close.rolling(200).mean()).astype(float))
        out["backtesting"][f"{symbol} MeanReversionStrategy"] = by_backtesting(moved, MeanReversion)
    TARGET.write_text(
        json.dumps(out, separators=(",", ":")).replace('"AAPL', '\n"AAPL').replace('"IBM', '\n"IBM') + "\n"
    )
    print(f"{TARGET.relative_to(ROOT)}: {sum(len(v['entry']) for v in out['backtesting'].values())} trades")


if __name__ == "__main__":
    main()
