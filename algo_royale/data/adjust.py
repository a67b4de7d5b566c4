"""Forward adjustment: prices as an investor sees them who bought at the first bar and reinvested everything.

The usual back-adjusted series is rewritten at every ex-date, so what research saw is not what the trader sees later. Here the factor
is 1 at the first bar and grows at ex-dates: the past never changes, research and live are equal bit for bit, and since every
condition is scale-invariant, the decisions are those of the back-adjusted series. Signals look at adjusted prices; orders are sized
and priced on raw ones.

Dividend factor 1 / (1 - cash / previous close), the total-return convention of CRSP and of Lean's factor files, going forward.
"""

from bisect import insort
from collections.abc import Iterable

import numpy as np

from algo_royale.errors import BadMarketData
from algo_royale.market import Bars, CorporateAction
from algo_royale.sessions import new_york_ns


class ForwardAdjuster:
    """Turns raw bars into adjusted ones, chunk by chunk; how the series is cut into chunks makes no difference to a bit.

    At the first bar on or after an ex-date prices are multiplied from then on by `ratio / (1 - cash / (previous raw close / ratio))`
    and volume is divided by `ratio`. Actions before the second bar have nothing to act on. The cash of an action that is also a
    split is per new share.
    """

    def __init__(self, actions: Iterable[CorporateAction] = ()) -> None:
        self.price_factor = 1.0
        self.share_factor = 1.0
        self._previous_close: float | None = None
        self._last_start_ns: int | None = None
        self._known: set[CorporateAction] = set()
        self._pending: list[
            tuple[int, float, float]
        ] = []  # midnight New York of the ex-date, ratio, cash; in that order
        for action in actions:
            self.learn(action)

    def learn(self, action: CorporateAction) -> None:
        """Take note of an action; the same one twice counts once.

        Raises BadMarketData if bars on or after its ex-date have already been adjusted without it: the series would be wrong from
        there on, and only starting again from history puts that right.
        """
        if action in self._known:
            return
        if not (action.ratio > 0 and action.cash_usd >= 0):
            raise BadMarketData(
                f"{action.symbol} {action.ex_date}: split ratio {action.ratio}, dividend {action.cash_usd}"
            )
        ex_ns = new_york_ns(action.ex_date)
        if self._last_start_ns is not None and ex_ns <= self._last_start_ns:
            raise BadMarketData(
                f"{action.symbol}: the action of {action.ex_date} was learned after its bars were adjusted"
            )
        self._known.add(action)
        insort(self._pending, (ex_ns, action.ratio, action.cash_usd))

    def update(self, bars: Bars) -> Bars:
        """The next bars of the series, adjusted; `bars` follow those of the call before."""
        count = len(bars)
        if count == 0:
            return bars
        price, shares = np.empty(count), np.empty(count)
        done = 0
        while self._pending and self._pending[0][0] <= int(bars.start_ns[-1]):
            ex_ns = self._pending[0][0]
            at = int(np.searchsorted(bars.start_ns, ex_ns, side="left"))
            price[done:at], shares[done:at] = self.price_factor, self.share_factor
            self._apply(bars.symbol, ex_ns, float(bars.close[at - 1]) if at else self._previous_close)
            done = at
        price[done:], shares[done:] = self.price_factor, self.share_factor
        self._previous_close, self._last_start_ns = float(bars.close[-1]), int(bars.start_ns[-1])
        return Bars(
            symbol=bars.symbol, timeframe=bars.timeframe, start_ns=bars.start_ns, end_ns=bars.end_ns,
            open=bars.open * price, high=bars.high * price, low=bars.low * price, close=bars.close * price,
            volume=bars.volume / shares, vwap=bars.vwap * price, trade_count=bars.trade_count, extra=bars.extra,
        )  # fmt: skip

    def _apply(self, symbol: str, ex_ns: int, previous_close: float | None) -> None:
        """Consume every action of one ex-date."""
        ratio, cash = 1.0, 0.0
        while self._pending and self._pending[0][0] == ex_ns:
            _, more_ratio, more_cash = self._pending.pop(0)
            ratio, cash = ratio * more_ratio, cash + more_cash
        if previous_close is None:
            return
        kept = 1.0 - cash / (previous_close / ratio)
        if kept <= 0:
            day = np.datetime64(ex_ns, "ns").astype("datetime64[D]")
            raise BadMarketData(
                f"{symbol} {day}: a dividend of {cash} is not less than the close before it, {previous_close / ratio}"
            )
        self.price_factor *= ratio / kept
        self.share_factor *= ratio


def forward_adjusted(bars: Bars, actions: Iterable[CorporateAction]) -> Bars:
    """The whole series at once."""
    return ForwardAdjuster(actions).update(bars)
