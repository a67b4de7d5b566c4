"""A market-data actor over the twin's core, with listeners where the signal actors would be: for tests of what the feed delivers."""

from collections.abc import Callable, Container
from datetime import date
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from actors.direct import DirectBroker, DirectFaults, DirectStreams
from actors.kernel import Actor, ChildSpec, SteppedSystem, Supervisor
from actors.market_data import FOR_EVER, MarketDataActor
from actors.messages import BarRow, FeedHealthChanged
from actors.signals import SignalActor
from algo_royale.app.pacing import DirectMarket, run_paced
from algo_royale.broker.alpaca_wire import BadWire, parse_time_ns
from algo_royale.broker.staleness import Patience
from algo_royale.data.catalog import bundled
from algo_royale.errors import BrokerError, BrokerUnavailable
from algo_royale.exchange.core import Exchange, ExchangeConfig
from algo_royale.exchange.replay import MarketReplay
from algo_royale.market import Timeframe
from algo_royale.sessions import calendar
from twins import KEY, SECRET

FIRST, LAST = date(2012, 11, 19), date(2012, 11, 23)  # a Monday to the half day after Thanksgiving
SYMBOLS = ("AAPL", "IBM")
SECOND_NS, MINUTE_NS, HOUR_NS = 1_000_000_000, 60_000_000_000, 3_600_000_000_000
MONDAY = calendar().sessions(FIRST, LAST)[0]


@lru_cache
def minutes_replay() -> MarketReplay:
    return MarketReplay.of(bundled(), calendar(), SYMBOLS, seed=7, start=FIRST, end=LAST)


class Listener(SignalActor):
    """A signal actor that keeps every bar that it would compute with, in that order, instead of computing."""

    def __init__(self, told: list[BarRow], *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._told = told

    def _apply(self, rows: list[BarRow]) -> None:
        self._told += rows
        if rows:
            self._last_start_ns, self._last_end_ns = rows[-1].start_ns, rows[-1].end_ns


class Ear(Actor[Any]):
    """Keeps what is said about the feed's health."""

    def __init__(self, heard: list[FeedHealthChanged]) -> None:
        self._heard = heard

    def receive(self, message: Any) -> None:
        if isinstance(message, FeedHealthChanged):
            self._heard.append(message)


class Data(DirectBroker):
    """The twin's REST; nobody answers (or whoever does says `no`, or nonsense about dividends) while its time is in `down`, and
    bars are known `late_ns` after their minute."""

    down: Container[int] = range(0)
    no: BrokerError = BrokerUnavailable("nobody answers")
    asked = late_ns = 0
    of: str | None = None  # only of this symbol

    def __init__(self, exchange: Exchange, **options: Any) -> None:
        super().__init__(exchange, **options)
        self._twin = exchange

    def bars(self, **asked: Any) -> Any:
        self.asked += 1
        if self._twin.now_ns in self.down and self.of in (None, asked["symbol"]) and not isinstance(self.no, BadWire):
            raise self.no
        known_ns = self._twin.now_ns - self.late_ns - MINUTE_NS
        return [bar for bar in super().bars(**asked) if not self.late_ns or parse_time_ns(bar["t"]) <= known_ns]

    def corporate_actions(self, **asked: Any) -> Any:
        if self._twin.now_ns in self.down and isinstance(self.no, BadWire):
            return {"cash_dividends": [{"symbol": asked["symbol"]}]}
        return super().corporate_actions(**asked)


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
        self.heard: list[FeedHealthChanged] = []
        live_ns = calendar().sessions(FIRST, LAST)[0].label_ns

        ref = self.system.ref

        def listener(symbol: str) -> Callable[[], Listener]:
            return lambda: Listener(
                self.told[symbol], symbol, lambda: SimpleNamespace(init=lambda: None), timeframe=timeframe,  # type: ignore[arg-type,return-value]
                calendar=calendar(), warmup_bars=1, live_start_ns=live_ns, closes_kept=1,
                market_data=ref("root/market_data"), portfolio=ref("root/portfolio"),
            )  # fmt: skip

        make = lambda: MarketDataActor(  # noqa: E731
            SYMBOLS, timeframe=timeframe, calendar=calendar(), data=self.data, streams=self.streams, keys=(KEY, SECRET),
            signals={s: ref(f"root/{s}") for s in SYMBOLS}, portfolio=ref("root/portfolio"), orders=ref("root/orders"),
            patience=patience, **options,
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
    def recorded(self) -> list[Any]:
        """Every message that was handled."""
        return [record.message for record in self.system.trace]

    @property
    def observed(self) -> dict[str, Any]:
        return dict(self.system.observe("root/market_data"))

    def starts(self, symbol: str, since_ns: int = MONDAY.open_ns) -> list[int]:
        return [row.start_ns for row in self.told[symbol] if row.start_ns >= since_ns]
