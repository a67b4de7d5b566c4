"""What the client promises whatever happens: one socket an endpoint, loopback at the twin, no order before it is reconciled, no purchase
on a feed that is quiet."""

import dataclasses
import itertools
import random
import socket
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pytest

import intraday
import live_traders
from actors.direct import DirectFaults
from actors.messages import (
    BrokerStateChanged,
    FeedHealthChanged,
    Reconciled,
    RecordReconciliation,
    SubmitOrder,
)
from algo_royale.app.stepped import SteppedTrader
from algo_royale.exchange.faults import error_frame
from algo_royale.sessions import calendar
from feeds import HOUR_NS, MINUTE_NS, SECOND_NS, Data
from traders import BUSY, trader, truth_errors

ORDERS = "root/trading/orders"
DAY = date(2012, 11, 21)
(SESSION,) = calendar().sessions(DAY, DAY)
END_NS = SESSION.open_ns + 4 * HOUR_NS


def dropping(account: SteppedTrader, seed: int, share: float) -> None:
    """Both lines break off at random frames."""
    rng = random.Random(seed)

    def drop(endpoint: str, frames: Sequence[str]) -> Sequence[str]:
        if rng.random() >= share:
            return frames
        account.streams.drop(endpoint)
        return frames if rng.random() < 0.5 else []

    account.streams.faults.frames = drop


def disturbed(seed: int) -> SteppedTrader:
    account = trader(4, start=BUSY, faults=DirectFaults())
    dropping(account, seed, 0.4)
    return account


@pytest.mark.parametrize("seed", range(3))
def test_no_order_is_sent_before_the_stream_listens_and_ledger_and_broker_agree(seed: int) -> None:
    """At the start, and anew after every lost connection: by the cause of every submit in the trace."""
    account = disturbed(seed)
    assert account.run(seed=seed) == 0
    assert account.system is not None
    connected = reconciled = False
    open_after: dict[int, bool] = {}  # by the message that the dispatcher handled
    sent = 0
    losses = 0
    for record in account.system.trace:
        match record.message:
            case BrokerStateChanged() if record.recipient == ORDERS:
                connected = record.message.connected
                reconciled = reconciled and connected
                losses += not connected
            case Reconciled() if record.recipient == ORDERS:
                reconciled = True
            case SubmitOrder():
                sent += 1
                assert open_after[record.cause]
        if record.recipient == ORDERS:
            open_after[record.id] = connected and reconciled

    assert sent >= 8
    assert losses >= 1
    assert truth_errors(account) == []


def test_ledger_and_broker_are_compared_at_the_start_every_thirty_seconds_and_after_each_connection() -> None:
    """Over one session whose trading line breaks off three times."""
    account = trader(1, start=BUSY)
    parts = account.parts
    account.parts = lambda **changes: dataclasses.replace(parts(**changes), reconcile_every_s=30)  # type: ignore[method-assign]
    cuts = [account.exchange.now_ns + n * HOUR_NS + 7 * SECOND_NS for n in (4, 3, 2)]

    def cut() -> bool:
        if cuts and account.exchange.now_ns >= cuts[-1]:
            cuts.pop()
            account.streams.drop("trading")
        return False

    assert account.run(should_stop=cut) == 0
    assert account.system is not None
    trace = [record.message for record in account.system.trace]
    compared = [m for m in trace if isinstance(m, RecordReconciliation)]
    connected_ns = [m.at_ns for m in trace if isinstance(m, BrokerStateChanged) and m.connected]

    assert len(connected_ns) == 4
    assert {m.cause_of for m in compared} >= {"reconnect", "periodic"}  # the first connection's is the start's
    assert max(b.at_ns - a.at_ns for a, b in itertools.pairwise(compared)) <= 32 * SECOND_NS
    for at_ns in connected_ns:
        assert at_ns in [m.at_ns for m in compared]  # at once


def test_there_is_one_socket_for_each_endpoint() -> None:
    account = disturbed(2)
    others: dict[str, list[int]] = {"data": [], "trading": []}
    real = account.exchange.open_stream

    def counted(endpoint: str, *rest: Any) -> Any:
        others[endpoint].append(account.exchange.connected(endpoint))
        return real(endpoint, *rest)

    account.exchange.open_stream = counted  # type: ignore[method-assign]
    broken, rng = account.streams.faults.frames, random.Random(5)
    assert broken is not None

    def given_up(endpoint: str, frames: Sequence[str]) -> Sequence[str]:
        """Now and then a line is given up that lives on: after an error that may pass."""
        return [error_frame(endpoint, 500)] if rng.random() < 0.2 else broken(endpoint, frames)

    account.streams.faults.frames = given_up
    assert account.run() == 0
    assert max(map(len, others.values())) > 2
    assert not any(others["data"] + others["trading"])  # the former one is closed before the next is opened


# --- a feed that is quiet ---


def muted(account: SteppedTrader, from_ns: int, until_ns: int, symbol: str | None = None) -> Data:
    """Neither stream nor history tell of `symbol` (None: of anything) in that time; the sockets stay open."""
    key, secret = account.keys
    data = Data(account.exchange, key=key, secret=secret, faults=account.streams.faults)
    data.down, data.of = range(from_ns, until_ns), symbol

    def mute(endpoint: str, frames: Sequence[str]) -> Sequence[str]:
        if endpoint != "data" or account.exchange.now_ns not in data.down:
            return frames
        return [] if symbol is None else [f.replace(f'"S":"{symbol}"', '"S":"ZZZ"') for f in frames]

    account.streams.faults.frames = mute
    return data


def bought(account: SteppedTrader, from_ns: int, until_ns: int) -> list[str]:
    return [o.symbol for o in account.exchange.orders if o.side == "buy" and from_ns <= o.submitted_ns < until_ns]


@pytest.mark.parametrize("symbol", [None, "AAA"])
def test_nothing_is_bought_on_what_a_quiet_feed_told_last(symbol: str | None) -> None:
    """An hour without a word, of everything or of one symbol: noticed in time, mended, traded again afterwards."""
    mute_ns, end_ns = SESSION.open_ns + HOUR_NS + SECOND_NS, SESSION.open_ns + 2 * HOUR_NS
    account = intraday.trader(intraday.plan("1Min"), intraday.seeded(), DAY, DAY, faults=DirectFaults())
    data = muted(account, mute_ns, end_ns, symbol)

    assert account.run(changes={"data": data}, until_ns=END_NS) == 0
    assert account.system is not None
    told = [r.message for r in account.system.trace if isinstance(r.message, FeedHealthChanged)]

    limit_s = 150 if symbol is None else 900
    names = ("AAA", "BBB", "CCC") if symbol is None else (symbol,)
    assert told[0].stale == names
    assert 0 <= told[0].at_ns - (mute_ns - SECOND_NS) - limit_s * SECOND_NS <= 2 * SECOND_NS
    assert told[-1].stale == ()
    assert end_ns <= told[-1].at_ns <= end_ns + 4 * MINUTE_NS
    during = bought(account, told[0].at_ns, end_ns)
    assert not set(during) & set(names)
    assert bought(account, SESSION.open_ns, mute_ns)
    assert bought(account, end_ns, END_NS)
    if symbol is not None:
        assert during  # the others are traded all the while
    assert truth_errors(account) == []


# --- at the twin nobody else is asked ---


def test_a_trader_at_the_twin_talks_to_this_machine_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every address that this process connects to over a session, proxies of the environment or not."""
    reached: set[Any] = set()
    real = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            reached.add(address[0])
        real(self, address)

    monkeypatch.setenv("HTTP_PROXY", "http://203.0.113.1:3128")
    monkeypatch.setenv("HTTPS_PROXY", "http://203.0.113.1:3128")
    monkeypatch.setenv("NO_PROXY", "example.com")
    monkeypatch.setenv("no_proxy", "example.com")
    monkeypatch.setattr(socket.socket, "connect", connect)
    home = live_traders.new_home(tmp_path / "home", BUSY)
    summary = live_traders.trade(home, start=BUSY, sessions=1)

    assert summary["exit_code"] == 0
    assert reached == {"127.0.0.1"}
