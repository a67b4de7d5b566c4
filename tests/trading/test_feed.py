"""The market-data feed on bad days: silence is noticed and ended, and no bar is lost or told twice."""

import asyncio
import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import requests

from actors.alpaca import AlpacaRest, AlpacaStreams
from actors.kernel import Actor, ChildSpec, Supervisor, ThreadSystem
from actors.market_data import MarketDataActor
from actors.messages import BarClosed, FeedHealthChanged
from algo_royale.broker.connection import PATIENT as RECONNECT
from algo_royale.broker.staleness import Patience
from algo_royale.clock import ScaledClock
from algo_royale.exchange.core import Exchange, ExchangeConfig
from algo_royale.exchange.server import TwinServer
from algo_royale.market import Timeframe
from algo_royale.sessions import calendar
from feeds import MINUTE_NS, MONDAY, SECOND_NS, SYMBOLS, Feed, minutes_replay
from twins import KEY, SECRET

PATIENT = Patience(feed_s=150.0, symbol_s=900.0)


def minutes_of(first_ns: int, last_ns: int) -> list[int]:
    return list(range(first_ns, last_ns, MINUTE_NS))


class Mute:
    """The line stays open and says nothing from `from_ns` on, as long as the connection of that time lives."""

    def __init__(self, feed: Feed, from_ns: int, endpoint: str = "data") -> None:
        self._feed, self._from_ns, self._endpoint = feed, from_ns, endpoint
        self._number: int | None = None

    def __call__(self, endpoint: str, frames: Sequence[str]) -> Sequence[str]:
        number = next(h.connection for h in self._feed.streams._open if h.endpoint == endpoint)
        if endpoint != self._endpoint or self._feed.exchange.now_ns < self._from_ns:
            return frames
        self._number = self._number or number
        return [] if number == self._number else frames


def test_an_undisturbed_session_is_never_stale_and_every_bar_is_told_once() -> None:
    feed = Feed(patience=PATIENT)
    feed.run(MONDAY.close_ns)

    for symbol in SYMBOLS:
        assert feed.starts(symbol) == minutes_of(MONDAY.open_ns, MONDAY.close_ns)
    assert feed.heard == []
    assert (feed.observed["silences"], feed.observed["connections"]) == (0, 1)


def test_a_mute_line_is_noticed_at_its_limit_reconnected_and_the_gap_filled() -> None:
    """The socket stays open and answers pings: nothing but the silence tells. Nor does history answer meanwhile."""
    feed = Feed(patience=PATIENT)
    mute_ns = MONDAY.open_ns + 60 * MINUTE_NS + 20 * SECOND_NS
    feed.data.down = range(mute_ns, mute_ns + 160 * SECOND_NS)
    feed.faults.frames = Mute(feed, mute_ns)
    feed.run(MONDAY.close_ns)

    last_heard_ns = MONDAY.open_ns + 60 * MINUTE_NS
    stale, *_, fresh = feed.heard
    assert stale == FeedHealthChanged(
        at_ns=stale.at_ns, state="stale", stale=SYMBOLS, detail="nothing was told although the exchange is open"
    )
    assert last_heard_ns + 150 * SECOND_NS <= stale.at_ns <= last_heard_ns + 152 * SECOND_NS
    assert fresh.stale == ()
    assert fresh.at_ns - stale.at_ns < (150 * 0.25 + 3) * SECOND_NS  # the grace, and one attempt to connect
    assert feed.observed["connections"] == 2
    for symbol in SYMBOLS:
        assert feed.starts(symbol) == minutes_of(MONDAY.open_ns, MONDAY.close_ns)
    assert feed.doubles == []


def test_while_history_answers_nobody_is_stale_although_the_line_is_mute() -> None:
    """Every minute that does not come is asked for; the line is given up all the same."""
    feed = Feed(patience=PATIENT)
    mute_ns = MONDAY.open_ns + 60 * MINUTE_NS + 20 * SECOND_NS
    feed.faults.frames = Mute(feed, mute_ns)
    feed.run(MONDAY.close_ns)

    assert feed.heard == []
    assert (feed.observed["silences"], feed.observed["connections"]) == (1, 2)
    for symbol in SYMBOLS:
        assert feed.starts(symbol) == minutes_of(MONDAY.open_ns, MONDAY.close_ns)
    assert feed.doubles == []


def test_a_line_that_speaks_again_within_its_grace_is_kept() -> None:
    feed = Feed(patience=PATIENT)
    mute_ns = MONDAY.open_ns + 60 * MINUTE_NS + 20 * SECOND_NS
    kept: list[str] = []

    def late(endpoint: str, frames: Sequence[str]) -> Sequence[str]:
        if mute_ns <= feed.exchange.now_ns < mute_ns + 155 * SECOND_NS:
            kept.extend(frames)
            return []
        out = [*kept, *frames]
        kept.clear()
        return out

    feed.faults.frames = late
    feed.data.down = range(mute_ns, mute_ns + 160 * SECOND_NS)
    feed.run(MONDAY.close_ns)

    assert [(m.state, m.stale) for m in feed.heard] == [("stale", SYMBOLS), ("live", ())]
    assert (feed.observed["silences"], feed.observed["connections"]) == (1, 1)
    for symbol in SYMBOLS:
        assert feed.starts(symbol) == minutes_of(MONDAY.open_ns, MONDAY.close_ns)


def test_one_mute_symbol_is_stale_alone_and_costs_no_connection() -> None:
    feed = Feed(patience=PATIENT)
    mute_ns = MONDAY.open_ns + 60 * MINUTE_NS

    def without_ibm(endpoint: str, frames: Sequence[str]) -> Sequence[str]:
        if feed.exchange.now_ns <= mute_ns:
            return frames
        return [f.replace('"S":"IBM"', '"S":"IBX"') for f in frames]

    feed.faults.frames = without_ibm
    feed.data.down = range(mute_ns, MONDAY.close_ns)  # nor does history help
    feed.run(mute_ns + 40 * MINUTE_NS)

    assert [m.stale for m in feed.heard] == [("IBM",)]
    assert feed.heard[0].at_ns == mute_ns + 900 * SECOND_NS
    assert feed.observed["connections"] == 1


def test_the_alarm_ends_with_the_session() -> None:
    """After the close nobody expects anything, and the decisions of the last bars must not be refused for a silence of before."""
    feed = Feed(patience=PATIENT)
    feed.data.down = range(MONDAY.close_ns - 200 * SECOND_NS, MONDAY.close_ns)
    feed.faults.frames = lambda endpoint, frames: (
        [] if feed.exchange.now_ns > MONDAY.close_ns - 200 * SECOND_NS else frames
    )
    feed.run(MONDAY.close_ns)

    assert [m.stale for m in feed.heard] == [SYMBOLS, ()]
    assert feed.heard[1].at_ns == MONDAY.close_ns


# --- over the network ---

SPEED = 120.0  # a minute of the exchange is half a second


class Told(Actor[Any]):
    def __init__(self, heard: "queue.Queue[Any]") -> None:
        self._heard = heard

    def receive(self, message: Any) -> None:
        self._heard.put(message)


@pytest.fixture
def twin_url() -> Iterator[str]:
    """A twin in the middle of Monday's session, whose time runs by itself."""
    exchange = Exchange(
        minutes_replay(), ExchangeConfig(start_ns=MONDAY.open_ns + 90 * MINUTE_NS, keys={KEY: SECRET})
    )  # fmt: skip
    server = TwinServer(exchange, speed=SPEED)
    ready: queue.Queue[str] = queue.Queue()
    thread = threading.Thread(target=lambda: asyncio.run(server.run("127.0.0.1", 0, ready.put)), daemon=True)
    thread.start()
    yield ready.get(timeout=10)
    server.stop()
    thread.join(10)


def test_a_mute_socket_of_the_twin_is_noticed_and_mended(twin_url: str) -> None:
    """The socket stays open and pings are answered; within the limit and two seconds it is stale, then there are bars again."""
    clock = requests.get(f"{twin_url}/sim/clock", timeout=10).json()
    system = ThreadSystem(ScaledClock(virtual_start_ns=clock["now_ns"], wall_start_ns=clock["wall_ns"], speed=SPEED))
    heard: queue.Queue[Any] = queue.Queue()
    bars: queue.Queue[Any] = queue.Queue()
    rest = AlpacaRest(key=KEY, secret=SECRET, trading_url=twin_url, data_url=twin_url)
    streams = AlpacaStreams({"data": f"{twin_url.replace('http', 'ws')}/v2/iex"})
    limit_s = 3.0 * SPEED  # three seconds by the machine's clock
    make = lambda: MarketDataActor(  # noqa: E731
        SYMBOLS, timeframe=Timeframe.MIN_1, calendar=calendar(), data=rest, streams=streams, keys=(KEY, SECRET),
        signals={s: system.ref(f"root/{s}") for s in SYMBOLS}, portfolio=system.ref("root/portfolio"),
        patience=Patience(feed_s=limit_s, symbol_s=100 * limit_s), reconnect=RECONNECT.at_pace(SPEED), retry_s=5 * SPEED,
    )  # fmt: skip
    specs = [ChildSpec(id="portfolio", factory=lambda: Told(heard))]
    specs += [ChildSpec(id=s, factory=lambda: Told(bars)) for s in SYMBOLS]
    system.start(ChildSpec(id="root", factory=lambda: Supervisor([*specs, ChildSpec(id="market_data", factory=make)])))
    try:
        while not isinstance(bars.get(timeout=10), BarClosed):
            pass
        asked = {"cut": [{"endpoint": "data", "how": "mute", "seconds": 60}]}
        cut_ns = system.clock.now_ns()
        assert requests.post(f"{twin_url}/sim/faults", json=asked, timeout=10).status_code == 200
        stale = heard.get(timeout=10)
        assert stale.stale == SYMBOLS
        assert stale.at_ns - cut_ns <= (limit_s + 2 * SPEED) * SECOND_NS
        before = None
        while before is None or before.at_ns < stale.at_ns:
            before = bars.get(timeout=10)
        fresh = heard.get(timeout=10)
    finally:
        system.stop(10)
        rest.close()

    assert fresh.stale == ()
