"""Backtest of one symbol: the cheap judge inside the optimiser.

Decide at the close of bar t, fill at the open of t+1, long or flat. A purchase takes all of the cash (fractional shares),
or, with a `lot`, that many shares: then what is left stays cash, and where it does not reach for a lot nothing is bought.
A position open at the end is closed at the last close with the costs of a sale, and counts as a trade.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import types

from algo_royale.compiled import F64, FLOATS_IN, FLOATS_OUT, I64, SIGNALS_IN, compiled
from algo_royale.costs import CostRules
from algo_royale.market import ENTER, EXIT, Bars, FloatArray, IntArray, SignalArray


def cost_array(rules: CostRules) -> FloatArray:
    """`rules` as the kernel takes them: fractions of the notional and US dollars. A price tick has no place here."""
    return np.array(
        [
            float(rules.slippage_bps) / 1e4,
            float(rules.commission_bps) / 1e4,
            float(rules.commission_per_share),
            float(rules.commission_min),
            float(rules.sec_fee_per_million) / 1e6,
            float(rules.taf_per_share),
            float(rules.taf_cap) if rules.taf_cap else np.inf,
        ]
    )


@dataclass(frozen=True, slots=True, eq=False)
class Trades:
    """Round trips in time order, one array each of one length.

    `entry`/`exit` are bar indices within the interval; `gross_pnl` is at the undisturbed opens (and last close), `costs`
    holds slippage, commission and fees, so net = gross - costs; `returns` is the ratio of equity after to before, less 1.
    """

    entry: IntArray
    exit: IntArray
    entry_price: FloatArray
    exit_price: FloatArray
    quantity: FloatArray
    gross_pnl: FloatArray
    costs: FloatArray
    net_pnl: FloatArray
    returns: FloatArray
    open_at_end: bool

    def __len__(self) -> int:
        return len(self.entry)


@dataclass(frozen=True, slots=True, eq=False)
class Backtest:
    """`equity` at each close of the interval (the last after closing out), in dollars; `exposure` the mean over bars of
    position value to equity; `notional` the sum of absolute fill notionals."""

    start_equity: float
    equity: FloatArray
    trades: Trades
    exposure: float
    notional: float


_BARS = types.Array(I64, 1, "C")
_TRADE_ROWS = types.Array(F64, 2, "C")
_tuple_of: Any = types.Tuple  # numba has no annotations


@compiled(_tuple_of((F64, F64)), F64, F64, FLOATS_IN)
def sale(quantity: float, reference: float, costs: FloatArray) -> tuple[float, float]:
    """Price and proceeds of selling `quantity` at `reference`."""
    price = reference * (1.0 - costs[0])
    notional = quantity * price
    commission = max(costs[3], costs[1] * notional + costs[2] * quantity)
    fees = costs[4] * notional + min(costs[5] * quantity, costs[6])
    return price, notional - commission - fees


@compiled(_tuple_of((F64, F64, F64)), F64, F64, F64, FLOATS_IN)
def purchase(cash: float, reference: float, lot: float, costs: FloatArray) -> tuple[float, float, float]:
    """Shares bought at `reference` (0 if the cash does not reach), their price, and the cash after."""
    price = reference * (1.0 + costs[0])
    if lot > 0.0:
        paid = lot * price + max(costs[3], lot * (price * costs[1] + costs[2]))
        return (lot, price, cash - paid) if paid <= cash else (0.0, price, cash)
    bought = cash / (price * (1.0 + costs[1]) + costs[2])
    if bought * (price * costs[1] + costs[2]) < costs[3]:
        bought = (cash - costs[3]) / price
    return (bought, price, 0.0) if bought > 0.0 else (0.0, price, cash)


@compiled(I64, SIGNALS_IN, _BARS)
def _asked(signal: SignalArray, bars: IntArray) -> int:
    """Put the bars whose signal asks for something into `bars`; how many there are."""
    eights, count = signal[: len(signal) // 8 * 8].view(np.int64), 0
    for word in range(len(eights)):
        if eights[word] != 0:
            for t in range(8 * word, 8 * word + 8):
                bars[count] = t
                count += signal[t] != 0
    for t in range(8 * len(eights), len(signal)):
        bars[count] = t
        count += signal[t] != 0
    return count


@compiled(
    _tuple_of((_TRADE_ROWS, types.boolean, F64, F64)), FLOATS_IN, FLOATS_IN, SIGNALS_IN, FLOATS_IN, F64, F64, FLOATS_OUT
)
def _kernel(
    open_: FloatArray, close: FloatArray, signal: SignalArray, costs: FloatArray, start_equity: float, lot: float,
    equity: FloatArray,
) -> tuple[FloatArray, bool, float, float]:  # fmt: skip
    """Fill `equity`; return (rows of trades, open at end, exposure, notional)."""
    n, asked = len(close), np.empty(len(close) + 1, np.int64)
    count = _asked(signal[: n - 1], asked)  # the last bar's signal has no next open
    trades, prices = np.empty((count // 2 + 1, 9)), np.empty(count)
    for i in range(count):  # far apart in memory: fetched side by side here, one after the other below
        prices[i] = open_[asked[i] + 1]
    cash, quantity, done, t = start_equity, 0.0, 0, 0
    exposure, notional = 0.0, 0.0
    for i in range(count):
        fill, reference, row = asked[i] + 1, prices[i], trades[done]
        if fill < t:  # asked for on the bar of the last fill, or before it
            continue
        if quantity == 0.0 and signal[fill - 1] == ENTER:
            bought, price, left = purchase(cash, reference, lot, costs)
            if bought > 0.0:
                while t < fill:
                    equity[t] = cash
                    t += 1
                row[0], row[2], row[4], row[5], row[7] = t, price, bought, cash, reference
                quantity, cash = bought, left
                notional += bought * price
        elif quantity > 0.0 and signal[fill - 1] == EXIT:
            while t < fill:
                value = quantity * close[t]
                equity[t] = cash + value
                exposure += value / equity[t] if equity[t] > 0.0 else 0.0
                t += 1
            price, proceeds = sale(quantity, reference, costs)
            cash += proceeds
            row[1], row[3], row[6], row[8] = t, price, cash, reference
            notional += quantity * price
            quantity = 0.0
            done += 1
    open_at_end = quantity > 0.0
    while t < n:
        value = quantity * close[t] if open_at_end else 0.0
        equity[t] = cash + value
        exposure += value / equity[t] if equity[t] > 0.0 else 0.0
        t += 1
    if open_at_end:
        row, (price, proceeds) = trades[done], sale(quantity, close[n - 1], costs)
        cash += proceeds
        row[1], row[3], row[6], row[8] = n - 1, price, cash, close[n - 1]
        notional += quantity * price
        done += 1
        equity[n - 1] = cash
    return trades[:done], open_at_end, exposure, notional


def run(
    bars: Bars, signal: SignalArray, rules: CostRules, start_equity: float = 100_000.0, *, lot: float | None = None
) -> Backtest:
    """Backtest `signal` (+1 in, -1 out, 0 unchanged; one per bar) on `bars`, flat at the first bar.

    The earliest fill is at the open of the second bar; a signal on the last bar is not filled. `lot`: shares of each
    purchase; None buys for all of the cash.
    """
    return run_arrays(bars.open, bars.close, signal, cost_array(rules), start_equity, lot=lot)


def run_arrays(
    open_: FloatArray, close: FloatArray, signal: SignalArray, costs: FloatArray, start_equity: float, *,
    lot: float | None = None,
) -> Backtest:  # fmt: skip
    """`run` on plain arrays (`costs` from `cost_array`); ValueError for arrays of unlike length or a lot of no shares."""
    n = len(close)
    if lot is not None and not (lot > 0.0 and np.isfinite(lot)):
        raise ValueError(f"a lot is a positive number of shares, not {lot}")
    if len(signal) != n or len(open_) != n:
        raise ValueError(f"{len(signal)} signals and {len(open_)} opens for {n} closes")
    equity = np.empty(n)
    done, open_at_end, exposure, notional = (
        _kernel(open_, close, signal, costs, start_equity, lot or 0.0, equity)
        if n
        else (np.empty((0, 9)), False, 0.0, 0.0)
    )
    net = done[:, 6] - done[:, 5]
    gross = done[:, 4] * (done[:, 8] - done[:, 7])
    trades = Trades(
        entry=done[:, 0].astype(np.int64), exit=done[:, 1].astype(np.int64),
        entry_price=done[:, 2], exit_price=done[:, 3], quantity=done[:, 4],
        gross_pnl=gross, costs=gross - net, net_pnl=net, returns=done[:, 6] / done[:, 5] - 1.0,
        open_at_end=bool(open_at_end),
    )  # fmt: skip
    return Backtest(start_equity, equity, trades, exposure / n if n else 0.0, float(notional))
