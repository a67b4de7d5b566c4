"""A market-data actor over the twin's core, with listeners where the signal actors would be: for tests of what the feed delivers."""

from collections.abc import Callable
from datetime import date
from functools import lru_cache
from typing import Any

from actors.direct import DirectBroker, DirectFaults, DirectStreams
from actors.kernel import Actor, ChildSpec, SteppedSystem, Supervisor
from actors.market_data import FOR_EVER, MarketDataActor
from actors.messages import (
    BarClosed,
    BarRow,
    FeedHealthChanged,
    FeedStarted,
    HistoryLoaded,
    HistoryRequested,
    TimerFired,
)
from algo_royale.app.pacing import DirectMarket, run_paced
from algo_royale.broker.staleness import Patience
from algo_royale.data.catalog import bundled
from algo_royale.errors import BrokerUnavailable
from algo_royale.exchange.core import Exchange, ExchangeConfig
from algo_royale.exchange.replay import MarketReplay
from algo_royale.market import Timeframe
from algo_royale.sessions import calendar
from twins import KEY, SECRET

FIRST, LAST = date(2012, 11, 19), date(2012, 11, 23)  # a Monday to the half day after Thanksgiving
SYMBOLS = ("AAPL", "IBM")
SECOND_NS, MINUTE_NS, HOUR_NS = 1_000_000_000, 60_000_000_000, 3_600_000_000_000
MONDAY = calendar().sessions(FIRST, LAST)[0]


class Some:
    """Two symbols of the bundled data over one week."""

    def symbols(self) -> list[str]:
        return list(SYMBOLS)

    def bars(self, symbol: str, timeframe: Timeframe) -> Any:
        return bundled().bars(symbol, timeframe, FIRST, LAST)

    def actions(self, symbol: str) -> tuple[Any, ...]:
        return ()


@lru_cache
def minutes_replay() -> MarketReplay:
    return MarketReplay.of(Some(), calendar(), seed=7)


class Listener(Actor[Any]):
    """Asks for history as a signal actor does, and keeps what it is told: in `bars` each bar that is newer than the last."""

    def __init__(self, symbol: str, live_start_ns: int, told: list[BarRow], doubles: list[BarRow]) -> None:
        self._symbol, self._live_start_ns, self._told, self._doubles = symbol, live_start_ns, told, doubles

    def started(self) -> None:
        self._ask()

    def receive(self, message: Any) -> None:
        match message:
            case FeedStarted() | TimerFired():
                self._ask()
            case BarClosed():
                self._take(message.bar)
            case HistoryLoaded():
                for row in message.bars:
                    if row.start_ns > self._last_ns:
                        self._take(row)
            case _:
                self.later(5.0, TimerFired(at_ns=self.now_ns, name="history"), key="history")

    @property
    def _last_ns(self) -> int:
        return self._told[-1].start_ns if self._told else 0

    def _ask(self) -> None:
        asked = HistoryRequested(
            at_ns=self.now_ns,
            symbol=self._symbol,
            after_ns=self._last_ns,
            warmup_bars=1,
            live_start_ns=self._live_start_ns,
        )
        self.tell(self.ref("root/market_data"), asked)

    def _take(self, row: BarRow) -> None:
        (self._told if row.start_ns > self._last_ns else self._doubles).append(row)


class Ear(Actor[Any]):
    def __init__(self, heard: list[Any]) -> None:
        self._heard = heard

    def receive(self, message: Any) -> None:
        self._heard.append(message)


class Data(DirectBroker):
    """The twin's REST; nobody answers while its time is in `down`."""

    down = range(0)
    asked = 0

    def __init__(self, exchange: Exchange, **options: Any) -> None:
        super().__init__(exchange, **options)
        self._twin = exchange

    def bars(self, **asked: Any) -> Any:
        self.asked += 1
        if self._twin.now_ns in self.down:
            raise BrokerUnavailable("nobody answers")
        return super().bars(**asked)


class Feed:
    """The actor, the twin behind it and what its listeners were told. `streamed` is what the twin put on its streams."""

    def __init__(
        self, timeframe: Timeframe = Timeframe.MIN_1, *, patience: Patience = FOR_EVER, seed: int | None = None,
        replay: MarketReplay | None = None, start_ns: int = MONDAY.open_ns - HOUR_NS, **options: Any,
    ) -> None:  # fmt: skip
        self.exchange = Exchange(replay or minutes_replay(), ExchangeConfig(start_ns=start_ns, keys={KEY: SECRET}))
        self.faults = DirectFaults()
        self.streams = DirectStreams(self.exchange, faults=self.faults)
        self.data = Data(self.exchange, key=KEY, secret=SECRET, faults=self.faults)
        self.system = SteppedSystem(start_ns, seed=seed)
        self.told: dict[str, list[BarRow]] = {s: [] for s in SYMBOLS}
        self.doubles: list[BarRow] = []
        self.heard: list[FeedHealthChanged] = []
        live_ns = calendar().sessions(FIRST, LAST)[0].label_ns

        def listener(symbol: str) -> Callable[[], Listener]:
            return lambda: Listener(symbol, live_ns, self.told[symbol], self.doubles)

        ref = self.system.ref
        make = lambda: MarketDataActor(  # noqa: E731
            SYMBOLS, timeframe=timeframe, calendar=calendar(), data=self.data, streams=self.streams, keys=(KEY, SECRET),
            signals={s: ref(f"root/{s}") for s in SYMBOLS}, portfolio=ref("root/portfolio"), patience=patience, **options,
        )  # fmt: skip
        specs = [ChildSpec(id="portfolio", factory=lambda: Ear(self.heard))]
        specs += [ChildSpec(id=s, factory=listener(s)) for s in SYMBOLS]
        self.system.start(
            ChildSpec(id="root", factory=lambda: Supervisor([*specs, ChildSpec(id="market_data", factory=make)]))
        )

    def run(self, until_ns: int, should_stop: Callable[[], bool] = lambda: False) -> None:
        run_paced(
            self.system,
            DirectMarket(self.exchange, self.streams),
            self.system.clock,
            until_ns=until_ns,
            should_stop=should_stop,
        )

    @property
    def observed(self) -> dict[str, Any]:
        return dict(self.system.observe("root/market_data"))

    def starts(self, symbol: str, since_ns: int = MONDAY.open_ns) -> list[int]:
        return [row.start_ns for row in self.told[symbol] if row.start_ns >= since_ns]
