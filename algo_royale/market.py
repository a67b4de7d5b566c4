"""Market data types: timeframes, bars, corporate actions. Pure data, validated where it enters."""

import enum
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt

from algo_royale.errors import BadMarketData

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
SignalArray = npt.NDArray[np.int8]
BoolArray = npt.NDArray[np.bool_]

ENTER, EXIT, HOLD = 1, -1, 0


class Timeframe(enum.Enum):
    """Length of a bar; the value is Alpaca's spelling."""

    MIN_1 = "1Min"
    MIN_5 = "5Min"
    MIN_15 = "15Min"
    HOUR_1 = "1Hour"
    DAY_1 = "1Day"

    @property
    def minutes(self) -> int:
        return {"1Min": 1, "5Min": 5, "15Min": 15, "1Hour": 60, "1Day": 390}[self.value]

    @property
    def bars_per_year(self) -> int:
        return 252 * 390 // self.minutes

    @property
    def kappa(self) -> float:
        """Scale of return thresholds: moves shrink with the length of a bar, but not below costs."""
        return {"1Min": 0.10, "5Min": 0.15, "15Min": 0.20, "1Hour": 0.40, "1Day": 1.00}[self.value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """Prices over [start, end), labelled by start (UTC nanoseconds). Prices in US dollars, volume in shares."""

    symbol: str
    timeframe: Timeframe
    start_ns: int
    end_ns: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    vwap: float | None = None
    trade_count: int | None = None

    def __post_init__(self) -> None:
        prices = (self.open, self.high, self.low, self.close)
        if not all(math.isfinite(p) and p > 0 for p in prices):
            raise BadMarketData(f"{self.symbol} at {self.start_ns}: prices {prices} are not all finite and positive")
        if self.high < max(self.open, self.close) or self.low > min(self.open, self.close):
            raise BadMarketData(f"{self.symbol} at {self.start_ns}: high/low do not enclose open/close {prices}")
        if not (math.isfinite(self.volume) and self.volume >= 0):
            raise BadMarketData(f"{self.symbol} at {self.start_ns}: volume {self.volume} is negative or not finite")


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Bars:
    """A series of bars of one symbol as read-only arrays of one length.

    `start_ns`/`end_ns` int64 UTC nanoseconds; prices and volume float64; `vwap` NaN and `trade_count` -1 where unknown.
    `extra` holds columns of true and false by name, as somebody else's signal that a condition may read.
    """

    symbol: str
    timeframe: Timeframe
    start_ns: IntArray
    end_ns: IntArray
    open: FloatArray
    high: FloatArray
    low: FloatArray
    close: FloatArray
    volume: FloatArray
    vwap: FloatArray
    trade_count: IntArray
    extra: Mapping[str, BoolArray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, array in (*((name, getattr(self, name)) for name in _COLUMNS), *self.extra.items()):
            if len(array) != len(self.start_ns):
                raise BadMarketData(f"{self.symbol}: column {name} has {len(array)} of {len(self.start_ns)} rows")
            array.flags.writeable = False

    def __len__(self) -> int:
        return len(self.start_ns)

    def slice(self, low: int, high: int) -> "Bars":
        """Bars [low, high) as views."""
        out, put = (
            object.__new__(Bars),
            object.__setattr__,
        )  # of one length and read-only as they are, nothing is checked
        put(out, "symbol", self.symbol)
        put(out, "timeframe", self.timeframe)
        for name in _COLUMNS:
            put(out, name, getattr(self, name)[low:high])
        put(out, "extra", {name: array[low:high] for name, array in self.extra.items()} if self.extra else {})
        return out

    def between(self, start_ns: int, end_ns: int) -> "Bars":
        """Bars whose start lies in [start_ns, end_ns)."""
        low, high = np.searchsorted(self.start_ns, [start_ns, end_ns], side="left")
        return self.slice(int(low), int(high))

    def bar(self, index: int) -> Bar:
        vwap, count = float(self.vwap[index]), int(self.trade_count[index])
        return Bar(
            symbol=self.symbol, timeframe=self.timeframe,
            start_ns=int(self.start_ns[index]), end_ns=int(self.end_ns[index]),
            open=float(self.open[index]), high=float(self.high[index]), low=float(self.low[index]),
            close=float(self.close[index]), volume=float(self.volume[index]),
            vwap=None if math.isnan(vwap) else vwap, trade_count=None if count < 0 else count,
        )  # fmt: skip

    def __iter__(self) -> Iterator[Bar]:
        return (self.bar(i) for i in range(len(self)))

    @classmethod
    def of(cls, symbol: str, timeframe: Timeframe, bars: "list[Bar]") -> "Bars":
        """Columns from single bars, in the order given."""
        floats: dict[str, Any] = {
            n: np.array([getattr(b, n) for b in bars], np.float64) for n in ("open", "high", "low", "close", "volume")
        }
        return cls(
            symbol=symbol, timeframe=timeframe,
            start_ns=np.array([b.start_ns for b in bars], np.int64),
            end_ns=np.array([b.end_ns for b in bars], np.int64),
            vwap=np.array([math.nan if b.vwap is None else b.vwap for b in bars], np.float64),
            trade_count=np.array([-1 if b.trade_count is None else b.trade_count for b in bars], np.int64),
            **floats,
        )  # fmt: skip

    def check(self) -> "Bars":
        """Return self, or raise BadMarketData naming the first bar that cannot be true. Nothing is ever repaired."""
        if len(self) > 1:
            steps = np.diff(self.start_ns)
            if (steps == 0).any():
                self._refuse(int(np.argmax(steps == 0)) + 1, "duplicate timestamp")
            if (steps < 0).any():
                self._refuse(int(np.argmax(steps < 0)) + 1, "timestamps are not sorted")
        for name in ("open", "high", "low", "close"):
            bad = ~(np.isfinite(getattr(self, name)) & (getattr(self, name) > 0))
            if bad.any():
                self._refuse(int(np.argmax(bad)), f"{name} {getattr(self, name)[bad][0]} is not a positive price")
        wrong = (self.high < np.maximum(self.open, self.close)) | (self.low > np.minimum(self.open, self.close))
        if wrong.any():
            self._refuse(int(np.argmax(wrong)), "high/low do not enclose open/close")
        bad = ~(np.isfinite(self.volume) & (self.volume >= 0))
        if bad.any():
            self._refuse(int(np.argmax(bad)), f"volume {self.volume[bad][0]} is negative or not finite")
        return self

    def _refuse(self, index: int, what: str) -> None:
        at = np.datetime64(int(self.start_ns[index]), "ns").astype("datetime64[s]")
        raise BadMarketData(f"{self.symbol} {self.timeframe.value} row {index} ({at}Z): {what}")


_COLUMNS = ("start_ns", "end_ns", "open", "high", "low", "close", "volume", "vwap", "trade_count")


@dataclass(frozen=True, slots=True, kw_only=True)
class CorporateAction:
    """A split (`ratio` new shares per old one) or a cash dividend (`cash_usd` per share, as paid then).

    `ex_date` is the first session without the right.
    """

    symbol: str
    ex_date: date
    ratio: float = 1.0
    cash_usd: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SymbolChange:
    """A share that was called `old` until the session before `day` and is called `new` from then on."""

    old: str
    new: str
    day: date
