"""The market-data feed on bad days: silence is noticed and ended, and no bar is lost or told twice."""

import asyncio
import json
import queue
import random
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import requests

from actors.alpaca import AlpacaRest, AlpacaStreams
from actors.kernel import Actor, ChildSpec, Supervisor, ThreadSystem
from actors.market_data import MarketDataActor
from actors.messages import BarClosed, BarCorrected, FeedHealthChanged
from algo_royale.broker.alpaca_wire import BadWire
from algo_royale.broker.connection import PATIENT as RECONNECT
from algo_royale.broker.staleness import Patience
from algo_royale.clock import ScaledClock
from algo_royale.data.catalog import bundled
from algo_royale.errors import BrokerError, BrokerRejected
from algo_royale.exchange.core import Exchange, ExchangeConfig
from algo_royale.exchange.server import TwinServer
from algo_royale.market import Timeframe
from algo_royale.sessions import calendar
from feeds import FIRST, HOUR_NS, LAST, MINUTE_NS, MONDAY, SECOND_NS, SYMBOLS, Feed, minutes_replay
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


def test_while_history_answers_nobody_is_stale_although_the_line_is_mute() -> None:
    """Every minute that does not come is asked for; the line is given up all the same."""
    feed = Feed(patience=PATIENT)
    mute_ns = MONDAY.open_ns + 60 * MINUTE_NS + 20 * SECOND_NS
    feed.faults.frames = Mute(feed, mute_ns)
    feed.run(MONDAY.close_ns)

    assert feed.heard == []
    assert (feed.observed["silences"], feed.observed["connections"]) == (1, 2)
    assert feed.observed["filled"] >= 2 * 2  # of each symbol the minutes that the stream did not tell
    for symbol in SYMBOLS:
        assert feed.starts(symbol) == minutes_of(MONDAY.open_ns, MONDAY.close_ns)


@pytest.mark.parametrize("no", [BrokerRejected(403, None, "forbidden."), BadWire("nonsense")])
def test_history_that_is_refused_or_makes_no_sense_is_asked_for_again(no: BrokerError) -> None:
    """Nobody is restarted for it: what is held must go on being watched."""
    feed = Feed()
    feed.data.no, feed.data.down = no, range(MONDAY.open_ns - HOUR_NS, MONDAY.open_ns + 10 * MINUTE_NS)
    feed.run(MONDAY.close_ns)

    assert [row["path"] for row in feed.system.tree() if row["restarts"]] == []
    for symbol in SYMBOLS:
        assert feed.starts(symbol) == minutes_of(MONDAY.open_ns, MONDAY.close_ns)


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


# --- connections that break off ---


class Bad:
    """Three times in ten a frame of market data meets a lost connection: it is lost with it, or was the last one to come."""

    def __init__(self, feed: Feed, seed: int, share: float = 0.3) -> None:
        self._feed, self._rng, self._share = feed, random.Random(seed), share
        self.count = 0

    def __call__(self, endpoint: str, frames: Sequence[str]) -> Sequence[str]:
        if not any('"S":' in frame for frame in frames) or self._rng.random() >= self._share:
            return frames
        self.count += 1
        self._feed.streams.drop("data")
        return frames if self._rng.random() < 0.5 else []


class Often:
    """Two minutes in every five, at a place in them that depends on the seed."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __contains__(self, at_ns: object) -> bool:
        assert isinstance(at_ns, int)
        return (at_ns + self._seed * 37 * SECOND_NS) % (5 * MINUTE_NS) < 2 * MINUTE_NS


@pytest.mark.prove
@pytest.mark.parametrize("history", ["at once", "fifteen seconds late", "often down"])
def test_with_three_lost_connections_in_ten_frames_every_minute_is_told_once(proving: bool, history: str) -> None:
    """Bars told = bars streamed, in order, none twice: a session in the suite with two seeds, a week with twenty as a proof."""
    end_ns = calendar().sessions(FIRST, LAST)[-1].close_ns if proving else MONDAY.close_ns
    quiet = Feed()
    quiet.run(end_ns)
    truth = {s: [r for r in quiet.told[s] if r.start_ns >= MONDAY.open_ns] for s in SYMBOLS}
    for seed in range(20 if proving else 2):
        feed = Feed(seed=seed)
        feed.data.late_ns = 15 * SECOND_NS if history == "fifteen seconds late" else 0
        if history == "often down":
            feed.data.down = Often(seed)
        feed.faults.frames = bad = Bad(feed, seed)
        feed.run(end_ns)

        assert bad.count > 60
        for symbol in SYMBOLS:
            assert [r for r in feed.told[symbol] if r.start_ns >= MONDAY.open_ns] == truth[symbol], f"seed {seed}"


def test_the_last_minute_of_a_session_is_fetched_although_history_has_it_late() -> None:
    """No minute after it would show that it is missing, and its orders are for the next open."""
    feed = Feed()
    feed.data.late_ns = 15 * SECOND_NS
    feed.faults.frames = lambda endpoint, frames: [] if feed.exchange.now_ns >= MONDAY.close_ns else frames
    feed.run(MONDAY.close_ns)

    for symbol in SYMBOLS:
        assert feed.starts(symbol) == minutes_of(MONDAY.open_ns, MONDAY.close_ns)


@pytest.mark.parametrize("seed", range(4))
def test_with_three_lost_connections_in_ten_frames_every_day_is_told_once(seed: int) -> None:
    feed = Feed(Timeframe.DAY_1, seed=seed)
    feed.faults.frames = bad = Bad(feed, seed, share=0.6 if seed % 2 else 0.3)
    feed.run(calendar().sessions(FIRST, LAST)[-1].close_ns)

    days = [session.label_ns for session in calendar().sessions(FIRST, LAST)]
    assert len(days) == 4
    for symbol in SYMBOLS:
        assert feed.starts(symbol, 0) == days
        assert [row.close for row in feed.told[symbol]] == [
            bar.close for bar in bundled().bars(symbol, Timeframe.DAY_1, FIRST, LAST)
        ]
    assert bad.count or seed % 2 == 0


def test_a_corrected_minute_replaces_what_is_not_told_yet_and_is_recorded_where_it_is() -> None:
    """The stream tells a minute again, with another volume: before its grace is over, and after."""
    feed = Feed(close_grace_s=20.0)
    ours: list[str] = []

    def again(endpoint: str, frames: Sequence[str]) -> Sequence[str]:
        out = [*ours, *frames]
        ours.clear()
        for frame in frames:
            at_ns = feed.exchange.now_ns - MONDAY.open_ns
            if '"T":"b"' in frame and at_ns // MINUTE_NS in (10, 20):
                bars = [
                    {**b, "T": "u", "v": b["v"] + 7} for b in json.loads(frame) if b["T"] == "b" and b["S"] == "IBM"
                ]
                (out if at_ns // MINUTE_NS == 10 else ours).append(json.dumps(bars))
        return out

    quiet = Feed(close_grace_s=20.0)
    quiet.run(MONDAY.open_ns + 40 * MINUTE_NS)
    feed.faults.frames = again
    feed.run(MONDAY.open_ns + 40 * MINUTE_NS)

    pairs = zip(quiet.told["IBM"], feed.told["IBM"], strict=True)
    changed = {(b.start_ns - MONDAY.open_ns) // MINUTE_NS: b.volume - a.volume for a, b in pairs if a != b}
    assert changed == {9: 7}
    (corrected,) = [m for m in feed.recorded if isinstance(m, BarCorrected)]
    assert (corrected.symbol, (corrected.bar.start_ns - MONDAY.open_ns) // MINUTE_NS) == ("IBM", 19)
    (as_told,) = [row for row in feed.told["IBM"] if row.start_ns == corrected.bar.start_ns]
    assert corrected.bar.volume - as_told.volume == 7
    assert feed.observed["late"] == 1
    assert feed.told["AAPL"] == quiet.told["AAPL"]


def test_messages_that_nobody_needs_or_knows_are_counted_and_stop_nothing() -> None:
    feed = Feed()
    strange = [
        {"T": "c", "S": "IBM"},
        {"T": "x", "S": "IBM"},
        {"T": "zz"},
        *({"T": f"t{n}"} for n in range(100)),
        {"S": "IBM"},
    ]
    left = [json.dumps(strange)]
    feed.faults.frames = lambda endpoint, frames: [*(left.pop() for _ in left[:]), *frames]
    feed.run(MONDAY.open_ns + 10 * MINUTE_NS)

    others = feed.observed["others"]
    assert others["c"] == others["x"] == others["zz"] == 1
    assert sum(others.values()) == 103 and len(others) <= 21  # a broker that invents types does not fill our memory
    assert feed.observed["quarantined"] == 1
    assert feed.starts("IBM")[:10] == minutes_of(MONDAY.open_ns, MONDAY.open_ns + 10 * MINUTE_NS)


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
        orders=system.ref("root/orders"), patience=Patience(feed_s=limit_s, symbol_s=100 * limit_s), reconnect=RECONNECT.at_pace(SPEED), retry_s=5 * SPEED,
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
