"""One signal actor per symbol: bars in, the symbol's combined signal out, with every reason on record."""

import datetime as dt
import math
from collections.abc import Callable
from decimal import Decimal

import numpy as np

from actors.kernel import Actor, Ref
from actors.messages import (
    ActionRecord,
    BarClosed,
    BarCorrected,
    BarRow,
    ConditionVerdict,
    FeedStarted,
    HistoryLoaded,
    HistoryRequested,
    HistoryUnavailable,
    MarketDataMessage,
    PortfolioMessage,
    SessionJobDone,
    SessionJobDue,
    SignalMessage,
    SignalReported,
    SymbolWarmed,
    TimerFired,
    Vote,
)
from algo_royale.data.adjust import ForwardAdjuster
from algo_royale.market import Bar, Bars, CorporateAction, Timeframe
from algo_royale.sessions import Calendar, bar_before
from algo_royale.strategies.combined import CombinedSignal, CombinedState

RETRY_S = 5.0


class SignalActor(Actor[SignalMessage]):
    """Evaluates one symbol's strategies on every closed bar, in order, each bar once.

    Its state is a function of the bars alone: features are warmed over `warmup_bars` before `live_start_ns`, the
    position state is flat at the first bar of the live period, and the bars since are replayed. A restart therefore
    asks for history and arrives where it was. Bars that come with a gap before them, or while history is on its way, wait
    until the missing ones have been fetched.
    """

    def __init__(
        self,
        symbol: str,
        combined: Callable[[], CombinedSignal],
        *,
        timeframe: Timeframe,
        calendar: Calendar,
        warmup_bars: int,
        live_start_ns: int,
        closes_kept: int,
        market_data: Ref[MarketDataMessage],
        portfolio: Ref[PortfolioMessage],
        retry_s: float = RETRY_S,
    ) -> None:
        self._symbol, self._combined, self._timeframe, self._calendar = symbol, combined(), timeframe, calendar
        self._retry_s = retry_s
        self._warmup_bars, self._live_start_ns, self._closes_kept = warmup_bars, live_start_ns, closes_kept
        self._market_data, self._portfolio = market_data, portfolio
        self._state = self._combined.init()
        self._adjuster: ForwardAdjuster | None = None
        self._known_actions: set[tuple[str, float, float]] = set()
        self._last_start_ns = self._last_end_ns = 0
        self._known_until_ns = 0  # what history has said: all bars that had ended by then are here
        self._jobs: list[SessionJobDue] = []  # of those who want to know when all bars are here
        self._waiting: list[BarClosed] | None = None  # for the history that has been asked for; None: for nothing
        self._corrected = 0
        self._last_in = False
        self._last_close = Decimal(0)
        self._closes: list[tuple[int, float]] = []
        self._evaluated: tuple[Bars, CombinedState, int, float, bool] | None = None

    def started(self) -> None:
        self._request()

    def receive(self, message: SignalMessage) -> None:
        match message:
            case FeedStarted() | TimerFired():
                self._request()
            case HistoryUnavailable():
                self.later(self._retry_s, TimerFired(at_ns=self.now_ns, name="history"), key="history")
            case HistoryLoaded():
                self._on_history(message)
            case BarClosed():
                self._on_bar(message)
            case BarCorrected():
                self._corrected += 1  # on record by being told; what was computed from the bar stands
            case SessionJobDue():
                self._on_job(message)

    def observe(self) -> dict[str, object]:
        return {
            "symbol": self._symbol,
            "last_bar_end_ns": self._last_end_ns,
            "state_in": self._last_in,
            "corrected": self._corrected,
        }

    def _on_job(self, message: SessionJobDue) -> None:
        """Say that every bar that has closed is known, now or once the missing ones have come."""
        self._jobs.append(message)
        _, end_ns = bar_before(self.now_ns, self._timeframe, self._calendar)
        if self._last_start_ns and end_ns <= max(self._last_end_ns, self._known_until_ns):
            self._answer_jobs()
        elif self._waiting is None:
            self._request()

    def _answer_jobs(self) -> None:
        last = dt.datetime.fromtimestamp(self._last_end_ns / 1e9, dt.UTC).isoformat(timespec="minutes")
        for job in self._jobs:
            done = SessionJobDone.of(
                job, self.path, f"last bar ended {last}" if self._last_end_ns else f"{self._symbol} has no bars",
                at_ns=self.now_ns, ok=self._last_end_ns > 0,
            )  # fmt: skip
            self.tell(self.ref(job.reply_to), done)
        self._jobs = []

    # --- history ---

    def _request(self) -> None:
        self._waiting = self._waiting or []
        request = HistoryRequested(
            at_ns=self.now_ns,
            symbol=self._symbol,
            after_ns=self._last_start_ns,
            warmup_bars=self._warmup_bars,
            live_start_ns=self._live_start_ns,
        )
        self.tell(self._market_data, request)

    def _on_history(self, message: HistoryLoaded) -> None:
        if message.after_ns > self._last_start_ns:
            return  # asked for by an earlier incarnation that knew more than this one
        if self._adjuster is None:
            self._adjuster = ForwardAdjuster([])
        self._learn(message.actions)
        waiting, self._waiting = self._waiting or [], None
        self._known_until_ns = message.known_until_ns or message.at_ns
        rows = {row.start_ns: row for row in message.bars}
        for late in waiting:  # a source may know a bar by the stream before it has it in its history
            self._learn(late.actions)
            rows.setdefault(late.bar.start_ns, late.bar)
        first_time = self._last_start_ns == 0
        new = [row for start, row in sorted(rows.items()) if start > self._last_start_ns]
        self._apply(new)
        if first_time:
            ends = tuple(end for end, _ in self._closes)
            closes = tuple(close for _, close in self._closes)
            self.tell(
                self._portfolio,
                SymbolWarmed(
                    at_ns=self.now_ns,
                    symbol=self._symbol,
                    bar_ends_ns=ends,
                    adjusted_closes=closes,
                    close_usd=self._last_close or None,
                    splits=tuple(ActionRecord(ex_date=day, ratio=ratio) for day, ratio in self._splits()),
                ),
            )
        if first_time or new:
            self._report_last()
        self._answer_jobs()

    def _on_bar(self, message: BarClosed) -> None:
        row = message.bar
        if row.start_ns <= self._last_start_ns:
            return
        if self._waiting is None and (self._last_start_ns == 0 or self._gap_before(row)):
            self._request()
        if self._waiting is not None:
            self._waiting.append(message)
            return
        self._learn(message.actions)
        self._apply([row])
        self._report_last()

    def _gap_before(self, row: BarRow) -> bool:
        """Whether a bar may lie between the last that is known and this one. Minutes without a trade have none, which only history
        can say."""
        _, end_ns = bar_before(row.end_ns - 1, self._timeframe, self._calendar)
        return end_ns > max(self._last_end_ns, self._known_until_ns)

    def _learn(self, actions: tuple[ActionRecord, ...]) -> None:
        assert self._adjuster is not None
        for action in actions:
            key = (action.ex_date, action.ratio, action.cash_usd)
            if key not in self._known_actions:
                self._known_actions.add(key)
                self._adjuster.learn(
                    CorporateAction(
                        symbol=self._symbol,
                        ex_date=dt.date.fromisoformat(action.ex_date),
                        ratio=action.ratio,
                        cash_usd=action.cash_usd,
                    )
                )

    # --- bars ---

    def _apply(self, rows: list[BarRow]) -> None:
        """Run the closed bars through the adjuster and the strategies; keep what the report of the last one needs."""
        assert self._adjuster is not None
        first_time = self._last_start_ns == 0
        bars = self._adjuster.update(Bars.of(self._symbol, self._timeframe, [self._bar(row) for row in rows]))
        for end_ns, close in zip(bars.end_ns.tolist(), bars.close.tolist(), strict=True):
            self._closes.append((end_ns, close))
        del self._closes[: -self._closes_kept]
        live = int(np.searchsorted(bars.start_ns, self._live_start_ns))
        if first_time:
            *_, self._state = self._combined.update(bars.slice(0, live), self._state)
            self._state = self._combined.reset_position(self._state)
            bars = bars.slice(live, len(bars))
        if rows:
            self._last_start_ns, self._last_end_ns = rows[-1].start_ns, rows[-1].end_ns
            self._last_close = Decimal(repr(rows[-1].close))
        self._evaluated = None
        if len(bars):
            *_, before = self._combined.update(bars.slice(0, len(bars) - 1), self._state)
            last = bars.slice(len(bars) - 1, len(bars))
            signal, score, state_in, self._state = self._combined.update(last, before)
            self._evaluated = (last, before, int(signal[0]), float(score[0]), bool(state_in[0]))

    def _bar(self, row: BarRow) -> Bar:
        return Bar(
            symbol=self._symbol, timeframe=self._timeframe, **{n: getattr(row, n) for n in row.__struct_fields__}
        )

    def _splits(self) -> list[tuple[str, float]]:
        return sorted((ex_date, ratio) for ex_date, ratio, _ in self._known_actions if ratio != 1.0)

    def _split_ratio(self) -> float:
        """New shares per old one in the session of the last bar."""
        splits = self._splits()
        session = self._calendar.session_at(self._last_end_ns - 1) if splits else None
        today = "" if session is None else session.date.isoformat()
        return math.prod((ratio for ex_date, ratio in splits if ex_date == today), start=1.0)

    def _report_last(self) -> None:
        if self._evaluated is None:
            return  # nothing of the live period has closed yet
        last, before, signal, score, state_in = self._evaluated
        changed = state_in != before.is_in
        self._last_in = state_in
        verdicts = [
            ConditionVerdict(
                strategy=member.vote.strategy,
                slot=reason.slot,
                condition=reason.condition,
                inputs=dict(reason.inputs),
                verdict=reason.verdict,
            )
            for member in (self._combined.explain(last, before) if changed else ())
            for reason in member.reasons
        ]
        report = SignalReported(
            at_ns=self.now_ns,
            symbol=self._symbol,
            bar_end_ns=self._last_end_ns,
            signal=signal,
            state_in=state_in,
            score=score,
            changed=changed,
            close_usd=self._last_close,
            adjusted_close=float(last.close[0]),
            split_ratio=self._split_ratio(),
            votes=tuple(
                Vote(strategy=v.strategy, strategy_id=v.strategy_id, weight=v.weight, held=v.is_in)
                for v in self._combined.votes(self._state)
            ),
            verdicts=tuple(verdicts),
        )
        self.tell(self._portfolio, report)
