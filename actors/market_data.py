"""The market-data streamer: one websocket and the historical bars; closed bars out, in order, with their history."""

import datetime as dt
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from actors.endpoint import TIMERS, Endpoint
from actors.kernel import Actor, Halt, Ref
from actors.messages import (
    ActionRecord,
    BarClosed,
    BarCorrected,
    BarRow,
    ConnectionChanged,
    FeedHealthChanged,
    FeedStarted,
    FrameReceived,
    HistoryLoaded,
    HistoryRequested,
    HistoryUnavailable,
    MarketDataMessage,
    OrdersMessage,
    PortfolioMessage,
    PricesRequested,
    PricesSeen,
    SeenPrice,
    SessionJobDone,
    SessionJobDue,
    SessionPhaseChanged,
    SignalMessage,
    TimerFired,
)
from algo_royale.broker import alpaca_wire
from algo_royale.broker.budget import Budget
from algo_royale.broker.connection import PATIENT, UP, Event, Reconnect, State
from algo_royale.broker.port import MarketDataPort, StreamPort
from algo_royale.broker.staleness import Freshness, Patience
from algo_royale.data.forming import FormingBars
from algo_royale.data.resample import resample
from algo_royale.errors import AlgoRoyaleError, BrokerError
from algo_royale.market import Bar, Bars, Timeframe
from algo_royale.phases import Job
from algo_royale.sessions import Calendar, bar_at, bar_before, warmup_session

SECOND_NS = 1_000_000_000
RETRY_S = 5.0
GRACE = 0.25  # of the patience with a quiet feed: so much longer it may stay stale before its connection is given up
FOR_EVER = Patience()
SILENT_LOOKS = 8
HISTORY_LAG_S = 20  # how much later than the stream history may know a bar
UNBROKEN_S = 120  # a line that is live so long has told the minute before this one
HISTORY_REQUESTS = 2  # bars and corporate actions
OTHERS_MAX = 20
USEFUL_NS = 30 * 86_400 * SECOND_NS  # a streamed bar older than this is a mistake; gaps are filled from history
FATAL_CODES = frozenset({402, 405, 409, 410, 411})
REFUSED_CODES = frozenset({406, 429})
ASKED_MAX = 40  # symbols whose history is asked for after an intraday bar: 200 requests a minute must do for all
CHANNELS = {Timeframe.DAY_1: ("dailyBars",), Timeframe.MIN_1: ("bars", "updatedBars")}
KIND = {"d": Timeframe.DAY_1, "b": Timeframe.MIN_1, "u": Timeframe.MIN_1}


class MarketDataActor(Actor[MarketDataMessage]):
    """Keeps the stream subscribed and tells each signal actor its closed bars.

    A daily bar is streamed again and again while its session runs; only what is told after the close counts, and it is closed
    once `close_grace_s` has passed (late prints still change it until then). Bars between a minute and a day are made of minutes,
    from the stream and in history alike. The corporate actions of a session are fetched before its bars are told: an unadjusted
    bar on an ex-date would be a false signal, so a bar waits for them. A bar that does not come whole by the stream although
    its time is over is asked for by REST, whatever the reason.
    """

    def __init__(
        self,
        symbols: Sequence[str],
        *,
        timeframe: Timeframe,
        calendar: Calendar,
        data: MarketDataPort,
        streams: StreamPort,
        keys: tuple[str, str],
        signals: Mapping[str, Ref[SignalMessage]],
        portfolio: Ref[PortfolioMessage],
        orders: Ref[OrdersMessage],
        patience: Patience = FOR_EVER,
        close_grace_s: float = 0.0,
        reconnect: Reconnect = PATIENT,
        requests_per_minute: int | None = None,
        retry_s: float = RETRY_S,
        research_changes: Callable[[], str] = str,
    ) -> None:
        """`research_changes` reads what was researched and says how it differs from what is traded; "" for not at all."""
        self._research_changes = research_changes
        self._symbols, self._timeframe, self._calendar = tuple(symbols), timeframe, calendar
        self._data, self._keys, self._signals = data, keys, signals
        self._portfolio, self._orders, self._patience = portfolio, orders, patience
        self._grace_s, self._retry_s = close_grace_s, retry_s
        self._line = Endpoint(self, "data", streams, reconnect, self._on_state)
        self._forming = FormingBars(timeframe, calendar, grace_ns=int(close_grace_s * SECOND_NS))
        self._actions: dict[str, tuple[ActionRecord, ...]] | None = None
        self._actions_of = ""
        self._budget = Budget(requests_per_minute, reserve=0)
        self._delayed = self._filled = 0  # requests that waited; bars of gaps that came from history
        self._stale: frozenset[str] = frozenset()
        self._silences = 0
        self._frames = self._quarantined = self._late = self._doubles = 0
        self._others: Counter[str] = Counter()  # messages of a type that no timeframe needs, or that nobody knows
        self._told: dict[str, BarRow] = {}  # each symbol's last bar
        self._due_start_ns = self._looks = (
            0  # of the last bar that is over; how often its silent symbols were looked up
        )

    def started(self) -> None:
        self._fresh = Freshness(self._symbols, self._calendar, self._patience, self.now_ns)
        self._watch()
        self._expect_bars()  # what the signals asked before is gone, and the stream may take long to be live
        self._line.open()

    def stopped(self, reason: object) -> None:
        self._line.close()

    def observe(self) -> dict[str, object]:
        return {
            **self._line.observe(), "frames": self._frames, "quarantined": self._quarantined, "late": self._late, "doubles": self._doubles,
            "silences": self._silences, "stale": sorted(self._stale), "others": dict(self._others), "filled": self._filled,
            "delayed": self._delayed, "requests_left": self._budget.left(self.now_ns),
        }  # fmt: skip

    def receive(self, message: MarketDataMessage) -> None:
        match message:
            case FrameReceived():
                self._on_frame(message)
            case ConnectionChanged():
                self._line.on_connection(message)
            case HistoryRequested():
                self._on_history(message)
            case PricesRequested():
                self._on_prices(message)
            case SessionPhaseChanged(phase="closed"):
                self._expect_bars()
            case SessionJobDue():
                self._on_job(message)
            case SessionPhaseChanged():
                self._fetch_actions(message.session_date)
            case TimerFired(name=name) if name in TIMERS:
                self._line.on_timer(name)
            case TimerFired(name="stale"):
                self._watch()
            case TimerFired(name="mute"):
                self._end_silence()
            case TimerFired(name="silent"):
                self._look_for_silent()
            case TimerFired(name="bar"):
                self._expect_bars()
            case TimerFired():
                self._tell_closed()

    def _on_job(self, message: SessionJobDue) -> None:
        """Say whether the feed tells of every symbol; or, being at the edge, whether the research on disk is what is traded."""
        if message.job == Job.ARTIFACTS.value:
            try:
                with self.protected(30.0):
                    changes = self._research_changes()
            except (AlgoRoyaleError, OSError) as error:
                changes = f"the research cannot be read: {error}"
            ok, detail = not changes, changes or "as at the start"
        else:
            ok, channels = self._line.state in UP, ", ".join(CHANNELS[self._forming.source])
            detail = f"{self._line.state.value}, {len(self._symbols)} symbols on {channels}"
        done = SessionJobDone.of(message, self.path, detail, at_ns=self.now_ns, ok=ok)
        self.tell(self.ref(message.reply_to), done)

    # --- the stream ---

    def _on_state(self, before: State, after: State) -> None:
        if after is State.LIVE and before not in UP:
            self._watch()
            for ref in self._signals.values():
                self.tell(ref, FeedStarted(at_ns=self.now_ns))

    def _on_frame(self, message: FrameReceived) -> None:
        if not self._line.is_of(message):
            return
        self._frames += 1
        try:
            items = alpaca_wire.parse_data_frame(message.text)
        except alpaca_wire.BadWire:
            self._quarantined += 1  # one bad frame never stops the stream
            return
        for item in items:
            self._on_item(item)
            symbol = item.get("S")
            if isinstance(symbol, str) and symbol in self._signals:
                self._fresh.heard(symbol, self.now_ns)
                self._line.on(Event.HEARD)
        if self._stale:
            self._watch()
        self._tell_closed()

    def _on_item(self, item: Mapping[str, object]) -> None:
        match item:
            case {"T": "success", "msg": "connected"}:
                self._line.send(alpaca_wire.authenticate_text(*self._keys))
            case {"T": "success", "msg": "authenticated"}:
                if self._line.on(Event.AUTHENTICATED):
                    self._line.send(
                        alpaca_wire.subscribe_text(
                            {name: list(self._symbols) for name in CHANNELS[self._forming.source]}
                        )
                    )
            case {"T": "subscription"}:
                self._on_subscribed(item)
            case {"T": "error", "code": int(code)}:
                self._on_error(code, f"{code} {item.get('msg')}")
            case {"T": str(kind), "S": str(symbol)} if (
                KIND.get(kind) is self._forming.source and symbol in self._signals
            ):
                row = self._row(item, self.now_ns - USEFUL_NS)
                if row is None:
                    self._quarantined += 1
                elif row["end_ns"] > self.now_ns:
                    pass  # a session that goes on: its bar as of now would look whole if nothing came after it
                elif not self._forming.take(Bar(symbol=symbol, timeframe=self._forming.source, **row)):
                    self._on_late(symbol, BarRow(**row))
            case {"T": str(kind)}:
                self._others[kind if len(self._others) < OTHERS_MAX else "..."] += 1
            case _:
                self._quarantined += 1

    def _on_late(self, symbol: str, row: BarRow) -> None:
        """Its bar is told, and what was decided on it stands; only that it was otherwise is worth a record."""
        if self._told.get(symbol) == row:
            self._doubles += 1
            return
        self._late += 1
        late = BarCorrected(at_ns=self.now_ns, symbol=symbol, timeframe=self._forming.source.value, bar=row)
        self.tell(self._signals[symbol], late)

    def _on_error(self, code: int, detail: str) -> None:
        if code in FATAL_CODES:  # without market data it would hold its positions unwatched and look alive
            self._line.on(Event.FORBIDDEN, detail)
            raise Halt(f"the market data stream refuses us: {detail}")
        self._line.on(Event.REFUSED if code in REFUSED_CODES else Event.LOST, detail)

    def _on_subscribed(self, item: Mapping[str, object]) -> None:
        """Compare what the broker says we get with what we asked for."""
        listed = item.get(CHANNELS[self._forming.source][0])
        lacking = set(self._symbols) - set(map(str, listed if isinstance(listed, list) else ()))
        if lacking:
            self._line.on(Event.LOST, f"subscribed without {', '.join(sorted(lacking))}")
        else:
            self._line.on(Event.SUBSCRIBED)

    # --- a feed that is quiet ---

    def _watch(self) -> None:
        """Look who has not been heard of for too long, tell it when that has changed, and look again when it may change."""
        line, now_ns = self._line, self.now_ns
        live_ns = line.connection.live_ns
        if line.state is State.LIVE and self._fresh.is_silent(now_ns, live_ns):
            self._silences += 1
            line.on(Event.SILENT, "nothing was told although the exchange is open")
            self.later(GRACE * (self._patience.feed_s or 0.0), TimerFired(at_ns=now_ns, name="mute"), key="mute")
        stale = self._fresh.stale(now_ns)
        if stale != self._stale:
            self._stale = stale
            told = FeedHealthChanged(
                at_ns=now_ns, state=line.state.value, stale=tuple(sorted(stale)), detail=line.connection.detail
            )
            self.tell(self._portfolio, told)
            self.tell(self._orders, told)
        look_ns = self._fresh.next_look_ns(now_ns, live_ns)
        if look_ns is not None:
            self.at(look_ns, TimerFired(at_ns=look_ns, name="stale"), key="stale")

    def _end_silence(self) -> None:
        """Give up a connection that is still mute, unless the session has ended meanwhile."""
        if self._line.state is State.STALE:
            still = self._fresh.is_silent(self.now_ns, self._line.connection.live_ns)
            self._line.on(Event.SILENT if still else Event.HEARD, "mute while the exchange is open")

    # --- closed bars ---

    def _tell_closed(self) -> None:
        """Tell every whole bar whose time is over, session by session with its corporate actions; wake up for the others."""
        grace_ns = int(self._grace_s * SECOND_NS)
        while (wake_ns := self._forming.next_due_ns()) is not None and wake_ns <= self.now_ns:
            session = self._calendar.session_at(wake_ns - grace_ns - 1)
            assert session is not None  # nothing else is taken in
            day = session.date.isoformat()
            if self._actions is None or self._actions_of != day:
                self._fetch_actions(day)
            if self._actions is None:
                wake_ns = self.now_ns + int(self._retry_s * SECOND_NS)
                break
            for bar in self._forming.due(min(self.now_ns, session.close_ns + grace_ns)):
                actions = tuple(a for a in self._actions.get(bar.symbol, ()) if a.ex_date == day)
                row = self._told[bar.symbol] = _row_of(bar)
                told = BarClosed(
                    at_ns=self.now_ns, symbol=bar.symbol, timeframe=self._timeframe.value, bar=row, actions=actions
                )  # fmt: skip
                self.tell(self._signals[bar.symbol], told)
        if wake_ns is not None:
            self.at(wake_ns, TimerFired(at_ns=wake_ns, name="close"), key="close")

    def _expect_bars(self) -> None:
        """Look for who is silent once the bar that is over should have come, and do so again after every bar."""
        self._due_start_ns, _ = bar_before(self.now_ns, self._timeframe, self._calendar)
        self._looks = 0
        if self._silent():
            self._look_later(self._grace_s)
        if self._timeframe is not Timeframe.DAY_1:
            _, end_ns = bar_at(self.now_ns, self._timeframe, self._calendar)
            self.at(end_ns, TimerFired(at_ns=end_ns, name="bar"), key="bar")

    def _look_later(self, delay_s: float) -> None:
        """Half of what a bar waits for symbols that have not reported, so that a bar lost on the way is not missed."""
        delay_s += self._retry_s / 2 * 2**self._looks
        self.later(delay_s, TimerFired(at_ns=self.now_ns, name="silent"), key="silent")

    def _silent(self) -> list[str]:
        return [s for s in self._symbols if self._forming.told_ns(s) < self._due_start_ns]

    def _look_for_silent(self) -> None:
        """Have the symbols whose bar has not come ask for their history. Within a session once, the busiest first: a symbol that
        nobody trades has no bar. After the close again and again: no next bar comes that would show the hole."""
        silent = self._silent()
        daily = self._timeframe is Timeframe.DAY_1
        if not daily:
            silent = sorted(silent, key=self._forming.told_ns, reverse=True)[:ASKED_MAX]
        for symbol in silent:
            self.tell(self._signals[symbol], FeedStarted(at_ns=self.now_ns))
        self._looks += 1
        if silent and self._looks < SILENT_LOOKS and (daily or self._calendar.session_at(self.now_ns) is None):
            self._look_later(0.0)

    def _row(self, item: object, since_ns: int) -> dict[str, Any] | None:
        return alpaca_wire.bar_row(
            item, timeframe=self._forming.source, calendar=self._calendar, within_ns=range(since_ns, self.now_ns + 1)
        )

    def _fetch_actions(self, session_date: str) -> None:
        if self._actions is not None and self._actions_of == session_date:
            return
        try:
            with self.protected(60.0):
                wire = self._data.corporate_actions(
                    symbol=",".join(self._symbols), start=session_date, end=session_date
                )
            found = alpaca_wire.actions(wire)
        except BrokerError as error:  # also a no, or nonsense: it is asked for again, and positions are still watched
            self._budget.heed(error, self.now_ns)
            self._actions = None
            return
        self._actions_of = session_date
        self._actions = {s: tuple(ActionRecord(**a) for a in rows) for s, rows in found.items()}

    def _on_prices(self, message: PricesRequested) -> None:
        """Whoever asks is about to decide and does not wait long: no answer is an empty one."""
        seen: list[SeenPrice] = []
        try:
            with self.protected(30.0):
                wire = self._data.snapshots(symbols=self._symbols)
            for symbol, (trade, spread) in alpaca_wire.seen(wire).items():
                seen.append(SeenPrice(symbol=symbol, trade_usd=trade, spread=spread))
        except BrokerError:
            self._others["prices unavailable"] += 1
        answer = PricesSeen(at_ns=self.now_ns, bar_end_ns=message.bar_end_ns, prices=tuple(seen))
        self.tell(self._portfolio, answer)

    # --- history ---

    def _on_history(self, message: HistoryRequested) -> None:
        signal = self._signals[message.symbol]
        if (wait_ns := self._budget.wait_ns(self.now_ns, HISTORY_REQUESTS)) > 0:
            self._delayed += 1
            self.later(wait_ns / SECOND_NS, message, key=f"history {message.symbol}")
            return
        self._budget.spend(self.now_ns, HISTORY_REQUESTS)
        try:
            with self.protected(120.0):
                start_ns = message.after_ns + 1 if message.after_ns else self._warmup_start(message)
                wire = self._data.bars(
                    symbol=message.symbol, timeframe=self._forming.source.value, start_ns=start_ns, end_ns=self.now_ns
                )
                today = dt.datetime.fromtimestamp(self.now_ns / 1e9, dt.UTC).date()
                first = dt.datetime.fromtimestamp(start_ns / 1e9, dt.UTC).date()
                actions = alpaca_wire.actions(
                    self._data.corporate_actions(symbol=message.symbol, start=first.isoformat(), end=today.isoformat())
                )
        except BrokerError as error:
            self._budget.heed(error, self.now_ns)
            answer = HistoryUnavailable(
                at_ns=self.now_ns, symbol=message.symbol, after_ns=message.after_ns, reason=str(error)
            )
            self.tell(signal, answer)
            return
        bars = self._ended_bars(message.symbol, wire, start_ns)
        known = tuple(ActionRecord(**a) for a in actions.get(message.symbol, ()))
        self._filled += len(bars) if message.after_ns else 0
        if bars:
            self._told[message.symbol] = bars[-1]
            self._forming.told(message.symbol, bars[-1].start_ns)
            self._fresh.fetched(message.symbol, bars[-1].end_ns)
            if self._stale:
                self._watch()
        self.tell(
            signal,
            HistoryLoaded(
                at_ns=self.now_ns,
                symbol=message.symbol,
                after_ns=message.after_ns,
                bars=bars,
                actions=known,
                known_until_ns=self._known_until_ns(),
            ),
        )

    def _known_until_ns(self) -> int:
        """Up to when history may be believed to hold all there is: it lags behind the stream, and what was streamed while the line was
        down may be in neither yet."""
        live_ns = self._line.connection.live_ns
        unbroken = live_ns and self.now_ns - live_ns >= UNBROKEN_S * SECOND_NS
        return self.now_ns if unbroken else self.now_ns - HISTORY_LAG_S * SECOND_NS

    def _ended_bars(self, symbol: str, wire: Sequence[object], start_ns: int) -> tuple[BarRow, ...]:
        """Bars of our length that start at `start_ns` or later and are over. Minutes from outside of the sessions' hours count for
        nothing, and one bar that cannot be true is left out."""
        source, rows = self._forming.source, (self._row(item, start_ns) for item in wire)
        within = (row for row in rows if row is not None and self._calendar.session_at(row["end_ns"] - 1) is not None)
        parts = [Bar(symbol=symbol, timeframe=source, **row) for row in within]
        if self._timeframe is source:
            return tuple(_row_of(bar) for bar in parts if bar.end_ns <= self.now_ns)
        longer = resample(Bars.of(symbol, source, parts), self._timeframe)
        return tuple(_row_of(bar) for bar in longer if bar.start_ns >= start_ns and bar.end_ns <= self.now_ns)

    def _warmup_start(self, message: HistoryRequested) -> int:
        """Start label of the session with the first warm-up bar."""
        live = self._calendar.next_session(message.live_start_ns - 1)
        return warmup_session(live, self._timeframe, message.warmup_bars, self._calendar).label_ns


def _row_of(bar: Bar) -> BarRow:
    return BarRow(**{name: getattr(bar, name) for name in BarRow.__struct_fields__})
