"""What is said about trades afterwards: late reports, corrections, cancellations; and the market's history as it is known after them.

A trade may be reported late, corrected or canceled, by a seeded share of them or on request. Whoever asks for history meets it as it
stands now: bars are made of the trades that are valid now, and the trades themselves say what became of them, as Alpaca's do.
"""

import hashlib
import heapq
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from algo_royale.exchange.replay import DayBar, MarketReplay, bar_json, day_bar
from algo_royale.exchange.tape import MINUTE_NS, Day, Trades, minute_bars
from algo_royale.exchange.wire import Wire, quote_json, rfc3339, trade_json
from algo_royale.market import Bars, IntArray, Timeframe

Kind = Literal["late", "correct", "cancel", "bars"]
KINDS: tuple[Kind, ...] = ("late", "correct", "cancel")
Key = tuple[str, int]  # symbol and session
HALF_MINUTE_NS = MINUTE_NS // 2
DELAY_MS = (1_000, 90_000)  # how long after a trade a drawn amendment of it is told
CACHED = 1024  # tables made of amended sessions
_TRADE = ("at_ns", "price", "size", "counts")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Amendment:
    """Told at `at_ns`: trade `number` of the symbol's session is late, canceled (`action` C) or an error (E), or corrected to
    `price` and `size` under the number `corrected`. A late trade that the tape does not have brings its own `happened_ns`.

    Kind `bars`: the bar of the minute that begins at `happened_ns` is told again.
    """

    at_ns: int
    symbol: str
    session: int
    kind: Kind
    number: int = 0
    corrected: int = 0
    happened_ns: int = 0
    price: float = 0.0
    size: float = 0.0
    action: str = "C"


@dataclass(frozen=True, slots=True)
class Known:
    """Trades as they are known after some amendments, in order of time, with their numbers.

    `fate` has Alpaca's word for those that are not what they were: canceled, incorrect (corrected by another), corrected (that one).
    """

    trades: Trades
    number: IntArray
    fate: Mapping[int, str]

    @property
    def valid(self) -> Trades:
        """The trades that bars are made of."""
        void = [number for number, word in self.fate.items() if word != "corrected"]
        keep = ~np.isin(self.number, void)
        return Trades(*(getattr(self.trades, name)[keep] for name in _TRADE))

    def find(self, number: int) -> int | None:
        """Where a valid trade stands; None for one that is unknown or void."""
        where = np.flatnonzero(self.number == number)
        return int(where[0]) if len(where) and self.fate.get(number, "corrected") == "corrected" else None


class Amended:
    """The market of `replay` with what was said about it afterwards; as long as nothing was, it is that market itself.

    `share` of each session's trades is amended of itself, drawn from `seed`: a third late, corrected and canceled each.
    """

    def __init__(self, replay: MarketReplay, *, seed: int, share: float) -> None:
        self._replay, self._seed, self._share = replay, seed, share
        self._queue: list[Amendment] = []
        self._told: dict[Key, list[Amendment]] = {}
        self._hidden: dict[Key, set[int]] = {}
        self._numbers: dict[Key, int] = {}
        self._drawn: set[int] = set()
        self._cache: dict[tuple[str, Key], tuple[tuple[int, int], Any]] = {}

    # --- what comes

    def draw(self, session: int) -> None:
        """Let the session's own amendments wait for their time; once."""
        if not self._share or self._replay.tape is None or session in self._drawn:
            return
        self._drawn.add(session)
        at = self._replay.sessions[session]
        for symbol in self._replay.symbols:
            trades = self._day(symbol, session).trades
            inside = np.flatnonzero((trades.at_ns > at.open_ns) & (trades.at_ns < at.close_ns) & trades.counts)
            text = f"{self._seed}|amended|{symbol}|{at.date}"
            rng = np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))
            for row in np.sort(rng.permutation(inside)[: rng.binomial(len(inside), self._share)]).tolist():
                kind = KINDS[int(rng.integers(3))]
                self.add(
                    Amendment(
                        at_ns=int(trades.at_ns[row]) + int(rng.integers(*DELAY_MS)) * 1_000_000, symbol=symbol,
                        session=session, kind=kind, number=row + 1, size=float(trades.size[row]),
                        corrected=self.next_number(symbol, session) if kind == "correct" else 0,
                        price=max(0.01, round(float(trades.price[row]) + 0.01 * int(rng.integers(-5, 6)), 4)),
                        action="CE"[int(rng.integers(2))],
                    )
                )  # fmt: skip
                if kind == "late":
                    self._hidden.setdefault((symbol, session), set()).add(row)

    def add(self, amendment: Amendment) -> None:
        """Have it told when its time has come."""
        heapq.heappush(self._queue, amendment)

    def next_ns(self) -> int | None:
        """When the next amendment is told."""
        return self._queue[0].at_ns if self._queue else None

    def take(self) -> tuple[Amendment, Wire | None]:
        """The next amendment, which is known from now on, and its message: None where the trade it is of is void already.

        The bar of a minute that was told before is queued to be told again, at the half of a minute.
        """
        amendment = heapq.heappop(self._queue)
        symbol, session = key = amendment.symbol, amendment.session
        if amendment.kind == "bars":
            bars = self.minutes(symbol, session)
            row = int(np.searchsorted(bars.start_ns, amendment.happened_ns))
            known = row < len(bars) and bars.start_ns[row] == amendment.happened_ns
            return amendment, {"T": "u", "S": symbol} | bar_json(bars, row) if known else None
        before = self.known(symbol, session)
        row_before = before.find(amendment.number)
        if amendment.kind != "late" and row_before is None:
            return amendment, None
        self._hidden.get(key, set()).discard(amendment.number - 1)
        self._told.setdefault(key, []).append(amendment)
        now = self.known(symbol, session)
        row_now = now.find(amendment.corrected or amendment.number)
        source, at_row = (before, row_before) if row_before is not None else (now, row_now)
        assert at_row is not None
        happened = int(source.trades.at_ns[at_row])
        self._tell_again(key, happened, amendment.at_ns)
        old = trade_json(source.trades, at_row) | {"i": amendment.number}
        head = {"S": symbol, "x": old["x"]}
        tail = {"t": rfc3339(amendment.at_ns), "z": old["z"]}
        if amendment.kind == "late":
            return amendment, {"T": "t", "S": symbol} | old
        if amendment.kind == "cancel":
            return amendment, {
                "T": "x",
                **head,
                "i": old["i"],
                "p": old["p"],
                "s": old["s"],
                "a": amendment.action,
                **tail,
            }
        first = {"oi": old["i"], "op": old["p"], "os": old["s"], "oc": old["c"]}
        assert row_now is not None
        new = trade_json(now.trades, row_now)
        second = {"ci": amendment.corrected, "cp": new["p"], "cs": new["s"], "cc": new["c"]}
        return amendment, {"T": "c", **head, **first, **second, **tail}

    def _tell_again(self, key: Key, happened_ns: int, now_ns: int) -> None:
        at, minute = self._replay.sessions[key[1]], happened_ns // MINUTE_NS * MINUTE_NS
        if not at.open_ns <= happened_ns < at.close_ns or minute + MINUTE_NS > now_ns:
            return  # a minute that still runs tells it all when it ends
        half = -(-(now_ns - HALF_MINUTE_NS) // MINUTE_NS) * MINUTE_NS + HALF_MINUTE_NS
        again = Amendment(at_ns=half, symbol=key[0], session=key[1], kind="bars", happened_ns=minute)
        if again not in self._queue:
            self.add(again)

    def next_number(self, symbol: str, session: int) -> int:
        """A number that no trade of the symbol's session has."""
        key = symbol, session
        self._numbers[key] = self._numbers.get(key, len(self._day(symbol, session).trades)) + 1
        return self._numbers[key]

    def hidden(self, symbol: str, session: int) -> Set[int]:
        """Rows of the tape's trades that are reported later than they were made, and have not been yet."""
        return self._hidden.get((symbol, session), frozenset())

    # --- what is known

    def is_amended(self, symbol: str, session: int) -> bool:
        """Whether history differs from the replay's."""
        key = symbol, session
        return bool(self._told.get(key) or self._hidden.get(key))

    def known(self, symbol: str, session: int) -> Known:
        """All trades of the session (those to come, too) but for what was not reported yet."""
        return self._cached("known", symbol, session, self._known)  # type: ignore[no-any-return]

    def _known(self, symbol: str, session: int) -> Known:
        day = self._day(symbol, session).trades
        added: dict[int, tuple[int, float, float, bool]] = {}
        fate: dict[int, str] = {}
        for told in self._told.get((symbol, session), ()):
            row = told.number - 1
            if told.kind == "late":
                if row >= len(day):
                    added[told.number] = told.happened_ns, told.price, told.size, True
            elif told.kind == "cancel":
                fate[told.number] = "canceled"
            else:
                tape = row < len(day)
                at, counts = (int(day.at_ns[row]), bool(day.counts[row])) if tape else (added[told.number][0], True)
                fate[told.number], fate[told.corrected] = "incorrect", "corrected"
                added[told.corrected] = at, told.price, told.size, counts
        keep = np.ones(len(day), np.bool_)
        keep[list(self.hidden(symbol, session))] = False
        extra = [np.array(column) for column in zip(*added.values(), strict=True)] or [np.empty(0)] * 4
        columns = [np.concatenate([getattr(day, n)[keep], e.astype(getattr(day, n).dtype)])
                   for n, e in zip(_TRADE, extra, strict=True)]  # fmt: skip
        number = np.concatenate([np.flatnonzero(keep) + 1, np.array(list(added), np.int64)])
        order = np.argsort(columns[0], kind="stable")
        return Known(Trades(*(column[order] for column in columns)), number[order], fate)

    def minutes(self, symbol: str, session: int) -> Bars:
        """Minute bars of a session, made of what is known of its trades."""
        if not self.is_amended(symbol, session):
            return self._replay.minutes(symbol, session)
        return self._cached("minutes", symbol, session, self._minutes)  # type: ignore[no-any-return]

    def _minutes(self, symbol: str, session: int) -> Bars:
        assert self._replay.tape is not None
        made = minute_bars(symbol, self.known(symbol, session).valid, self._replay.sessions[session])
        return self._replay.tape.told(symbol, made)

    def running(self, symbol: str, session: int) -> Bars:
        """The daily bar of a session as it stood after each of its minutes, one row each."""
        return self._cached("running", symbol, session, self._running)  # type: ignore[no-any-return]

    def _running(self, symbol: str, session: int) -> Bars:
        minutes, at = self.minutes(symbol, session), self._replay.sessions[session]
        n, volume = len(minutes), np.cumsum(minutes.volume)
        value = np.cumsum(np.nan_to_num(minutes.vwap) * minutes.volume)
        counted = self._replay.counts_trades(symbol, session)
        with np.errstate(invalid="ignore", divide="ignore"):
            average = np.where(volume > 0, value / volume, np.nan)
        return Bars(
            symbol=symbol, timeframe=Timeframe.DAY_1, start_ns=np.full(n, at.label_ns, np.int64), end_ns=minutes.end_ns,
            open=np.full(n, minutes.open[0]) if n else minutes.open, high=np.maximum.accumulate(minutes.high),
            low=np.minimum.accumulate(minutes.low), close=minutes.close, volume=volume,
            vwap=average if counted else np.full(n, np.nan),
            trade_count=np.cumsum(minutes.trade_count) if counted else np.full(n, -1, np.int64),
        )  # fmt: skip

    def day_frame(self, symbol: str, session: int, now_ns: int) -> Wire | None:
        """The session's daily bar as it stands at `now_ns`; None before its first."""
        bars = self.running(symbol, session)
        row = int(np.searchsorted(bars.end_ns, now_ns, side="right")) - 1
        return {"T": "d", "S": symbol} | bar_json(bars, row) if row >= 0 else None

    def day(self, session: int) -> Mapping[str, DayBar]:
        """The bars of a session, in symbol order, of the symbols that traded in it."""
        found = self._replay.day(session)
        amended = [s for s in found if self.is_amended(s, session) and len(self.minutes(s, session))]
        if not amended:
            return found
        return {**found, **{s: day_bar(self._whole(s, session), 0) for s in amended}}

    def _whole(self, symbol: str, session: int) -> Bars:
        """The session's daily bar in one row, once it is over."""
        bars = self.running(symbol, session)
        return bars.slice(len(bars) - 1, len(bars))

    def history(self, symbol: str, timeframe: Timeframe, start_ns: int, end_ns: int, now_ns: int) -> Bars:
        """As `MarketReplay.history`."""
        found = self._replay.history(symbol, timeframe, start_ns, end_ns, now_ns, self.minutes)
        if timeframe is not Timeframe.DAY_1:
            return found
        for name, session in [*self._told, *self._hidden]:
            row = int(np.searchsorted(found.start_ns, self._replay.sessions[session].label_ns))
            if name != symbol or row >= len(found) or not self.is_amended(name, session):
                continue
            whole = self._whole(symbol, session)
            if len(whole) and found.start_ns[row] == whole.start_ns[0]:
                columns = {n: getattr(found, n).copy() for n in _COLUMNS}
                for column in _COLUMNS:
                    columns[column][row] = getattr(whole, column)[0]
                found = replace(found, **columns)
        return found

    def ticks_within(self, symbol: str, kind: str, start_ns: int, end_ns: int, now_ns: int) -> list[tuple[int, Wire]]:
        """Trades or quotes (`kind`) in [start_ns, end_ns] that are known at `now_ns`, in order of time: (instant, message)."""
        found: list[tuple[int, Wire]] = []
        replay = self._replay
        if replay.tape is None or symbol not in replay.symbols:
            return found
        end_ns = min(end_ns, now_ns)
        for session in replay.sessions_within(start_ns, end_ns):
            found += self._messages(symbol, session, kind, start_ns, end_ns)
        return found

    def _messages(self, symbol: str, session: int, kind: str, start_ns: int, end_ns: int) -> list[tuple[int, Wire]]:
        day = self._day(symbol, session)
        if kind == "quotes":
            low, high = _between(day.quotes.at_ns, start_ns, end_ns)
            return [(int(day.quotes.at_ns[row]), quote_json(day.quotes, row)) for row in range(low, high)]
        if not self.is_amended(symbol, session):
            low, high = _between(day.trades.at_ns, start_ns, end_ns)
            return [(int(day.trades.at_ns[row]), trade_json(day.trades, row)) for row in range(low, high)]
        known = self.known(symbol, session)
        low, high = _between(known.trades.at_ns, start_ns, end_ns)
        out = []
        for row in range(low, high):
            number = int(known.number[row])
            message = trade_json(known.trades, row) | {"i": number}
            out.append(
                (int(known.trades.at_ns[row]), message | ({"u": known.fate[number]} if number in known.fate else {}))
            )
        return out

    def last_tick(self, symbol: str, kind: str, now_ns: int) -> Wire | None:
        """The latest trade that is valid, or quote, at `now_ns`; None before the first."""
        if self._replay.tape is None:
            return None
        for session in reversed(self._replay.sessions_within(0, now_ns)):
            day = self._day(symbol, session)
            if kind == "trades" and self.is_amended(symbol, session):
                told = self._messages(symbol, session, kind, 0, now_ns)
                valid = [message for _, message in told if message.get("u", "corrected") == "corrected"]
                if valid:
                    return valid[-1]
                continue
            part = day.quotes if kind == "quotes" else day.trades
            row = int(np.searchsorted(part.at_ns, now_ns, side="right")) - 1
            if row >= 0:
                return trade_json(day.trades, row) if kind == "trades" else quote_json(day.quotes, row)
        return None

    def _day(self, symbol: str, session: int) -> Day:
        assert self._replay.tape is not None
        return self._replay.tape.day(symbol, self._replay.sessions[session])

    def _cached(self, what: str, symbol: str, session: int, make: Callable[[str, int], Any]) -> Any:
        """What is made of the trades that are known; made again once something was told of them."""
        key = symbol, session
        version = len(self._told.get(key, ())), len(self._hidden.get(key, ()))
        found = self._cache.get((what, key))
        if found is None or found[0] != version:
            if len(self._cache) >= CACHED:
                del self._cache[next(iter(self._cache))]
            found = self._cache[what, key] = version, make(symbol, session)
        return found[1]


_COLUMNS = ("open", "high", "low", "close", "volume", "vwap", "trade_count")


def _between(at_ns: IntArray, start_ns: int, end_ns: int) -> tuple[int, int]:
    return int(np.searchsorted(at_ns, start_ns)), int(np.searchsorted(at_ns, end_ns, side="right"))
