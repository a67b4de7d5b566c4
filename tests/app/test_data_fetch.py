"""`data fetch` over real sockets against the twin: paged, slowed down, cut off, killed half way, and brought up to date."""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from algo_royale.app.cli import data_fetch, root
from algo_royale.broker.alpaca_wire import parse_time_ns
from algo_royale.data.catalog import bundled, open_catalog, read_columns, write_parquet
from algo_royale.data.resample import resample
from algo_royale.exchange import market_rest
from algo_royale.exchange.core import Exchange, ExchangeConfig
from algo_royale.exchange.replay import MarketReplay
from algo_royale.exchange.server import TwinServer
from algo_royale.market import Bars, Timeframe
from algo_royale.sessions import calendar, new_york_ns
from markets import minutes
from twins import KEY, SECRET

DAY = Timeframe.DAY_1
START, LAST = date(2012, 6, 1), date(2013, 3, 1)
Scope = MutableMapping[str, Any]
Send = Callable[[Scope], Awaitable[None]]


@dataclass
class Twin:
    """A twin on loopback behind faults. `faults` are taken one a request for bars, in order: an answer's status and headers, "cut"
    (half of the answer and then nothing), or None for what it says itself."""

    url: str = ""
    faults: list[Any] = field(default_factory=list)
    asked: list[dict[str, str]] = field(default_factory=list)
    free_at: float = 0.0
    """When the last refusal's time is over: who asks before is refused again."""

    async def serve(self, app: Any, scope: Scope, receive: Any, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].endswith("/bars"):
            await app(scope, receive, send)
            return
        query = dict(pair.split("=") for pair in scope["query_string"].decode().split("&"))
        early = time.monotonic() < self.free_at
        fault: Any = (429, {}) if early else self.faults.pop(0) if self.faults else None
        if isinstance(fault, tuple) and not early:
            self.free_at = time.monotonic() + float(fault[1].get("Retry-After", 1)) * 0.9
        self.asked.append({**query, "fault": str(fault)})
        if isinstance(fault, tuple):
            status, headers = fault
            await send({"type": "http.response.start", "status": status, "headers": [(k.encode(), v.encode()) for k, v in headers.items()]})  # fmt: skip
            await send({"type": "http.response.body", "body": b'{"message": "too many requests."}'})
        elif fault == "cut":
            await app(scope, receive, _halving(send))
        else:
            await app(scope, receive, send)


def _halving(send: Send) -> Send:
    async def half(message: Scope) -> None:
        if message["type"] == "http.response.body":
            body = message["body"]
            await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
            raise ConnectionResetError("cut on purpose")
        await send(message)

    return half


@contextmanager
def twin_of(
    bars: dict[str, Bars], now: date = date(2013, 3, 4), speed: float | None = None, **config: Any
) -> Iterator[Twin]:
    """Serves daily bars as they are known on the morning of `now`, with the bundled actions."""
    actions = {s: bundled().actions(s) for s in bars if s in bundled().symbols()}
    with serving(MarketReplay(bars, calendar(), actions), now, speed, **config) as twin:
        yield twin


@contextmanager
def serving(replay: MarketReplay, now: date, speed: float | None = None, **config: Any) -> Iterator[Twin]:
    start_ns = new_york_ns(now) + 9 * 3_600 * 10**9
    twin = Twin()
    exchange = Exchange(replay, ExchangeConfig(start_ns=start_ns, cash=Decimal(1), keys={KEY: SECRET}, **config))
    server, up = TwinServer(exchange, speed=speed), threading.Event()
    app = server.app

    async def faulty(scope: Scope, receive: Any, send: Send) -> None:
        await twin.serve(app, scope, receive, send)

    server.app = faulty  # type: ignore[assignment]

    def ready(url: str) -> None:
        twin.url = url
        up.set()

    thread = threading.Thread(target=lambda: asyncio.run(server.run("127.0.0.1", 0, ready)), daemon=True)
    thread.start()
    assert up.wait(10)
    yield twin
    server.stop()
    thread.join(10)


def series(symbol: str) -> Bars:
    return bundled().bars(symbol, DAY, START, LAST)


@pytest.fixture
def twin() -> Iterator[Twin]:
    with twin_of({"AAPL": series("AAPL"), "IBM": series("IBM")}) as one:
        yield one


def line(twin: Twin, folder: Path, *words: object, key: str = KEY) -> tuple[list[str], dict[str, str]]:
    """The command line of a fetch from the twin since 2012-06-01, and the variables that it needs."""
    config = folder.parent / f"{twin.url.rpartition(':')[2]}.toml"
    stream = twin.url.replace("http:", "ws:")
    config.write_text(
        f'[broker]\ntrading_url = "{twin.url}"\ndata_url = "{twin.url}"\n'
        f'trading_stream_url = "{stream}/stream"\ndata_stream_url = "{stream}/v2/iex"\n'
    )
    typed = ["--config", config, "data", "fetch", *words, "--to", folder, "--start", "2012-06-01"]
    return [str(word) for word in typed], {"APCA_API_KEY_ID": key, "APCA_API_SECRET_KEY": SECRET}


def fetch(twin: Twin, folder: Path, *words: object, key: str = KEY) -> Result:
    typed, keys = line(twin, folder, *words, key=key)
    return CliRunner(env=keys).invoke(root, typed)


def is_the_source(folder: Path, symbol: str, until: date = LAST) -> bool:
    """The folder has exactly the bars and actions that the twin was given."""
    made, source = open_catalog(folder).bars(symbol, DAY), bundled().bars(symbol, DAY, START, until)
    same = all(getattr(made, n).tolist() == getattr(source, n).tolist() for n in ("start_ns", "open", "high", "low", "close", "volume"))  # fmt: skip
    actions = tuple(a for a in bundled().actions(symbol) if START < a.ex_date <= until)
    return same and open_catalog(folder).actions(symbol) == actions


def test_history_comes_with_its_actions_and_a_second_time_costs_one_bar(tmp_path: Path, twin: Twin) -> None:
    result = fetch(twin, tmp_path, "AAPL", "IBM")

    assert result.exit_code == 0, result.output
    assert is_the_source(tmp_path, "AAPL")
    assert is_the_source(tmp_path, "IBM")
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert rows[1][:6] == ["AAPL", "1Day", "2012-06-01", "2013-03-01", "187", "187"]
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.*")) == ["1Day/AAPL.parquet", "1Day/IBM.parquet"]  # fmt: skip
    before, asked = {p: p.read_bytes() for p in tmp_path.rglob("*.parquet")}, len(twin.asked)

    again = json.loads(fetch(twin, tmp_path, "AAPL", "IBM", "--json").stdout)["symbols"]
    assert [(row["added"], row["same"]) for row in again] == [(0, 1), (0, 1)]
    assert len(twin.asked) == asked + 2
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.parquet")} == before


@pytest.mark.parametrize("page", [7, 20, 186, 187, 188])
def test_pages_are_joined_without_a_hole_at_any_length(
    tmp_path: Path, twin: Twin, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """187 bars: also where a page ends on the last bar, and where the earlier half is fetched after the later one."""
    monkeypatch.setattr(data_fetch, "PAGE", page)
    source = dict(bundled().columns("AAPL")[1])
    late = (source["timestamp"] >= new_york_ns(date(2012, 11, 1))) & (
        source["timestamp"] < new_york_ns(date(2012, 12, 1))
    )
    write_parquet(tmp_path / "1Day" / "AAPL.parquet", {n: column[late] for n, column in source.items() if "_" not in n})
    result = fetch(twin, tmp_path, "AAPL", "IBM")

    assert result.exit_code == 0, result.output
    assert is_the_source(tmp_path, "AAPL")
    assert is_the_source(tmp_path, "IBM")


def test_the_servers_own_pages_are_followed(tmp_path: Path, twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose pages are shorter than what was asked for names the next one by a token."""
    count = market_rest.count
    monkeypatch.setattr(market_rest, "count", lambda q, name, *a, **k: min(count(q, name, *a, **k), 50))
    assert fetch(twin, tmp_path, "AAPL").exit_code == 0
    assert is_the_source(tmp_path, "AAPL")
    assert len([a for a in twin.asked if "page_token" in a]) == 3


def test_a_rate_limit_is_waited_for_as_long_as_it_says(tmp_path: Path, twin: Twin) -> None:
    """Once by Retry-After, once by the reset of the window: asked again after it, not before, and nothing is lost."""
    reset = str(int(time.time()) + 2)
    twin.faults = [(429, {"Retry-After": "1"}), (429, {"X-RateLimit-Reset": reset}), None]
    result = fetch(twin, tmp_path, "AAPL")

    assert result.exit_code == 0, result.output
    assert len(twin.asked) == 3
    assert is_the_source(tmp_path, "AAPL")


def test_the_twins_own_limit_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One request in a minute, which passes in a second here: two pages and the actions come all the same."""
    monkeypatch.setattr(data_fetch, "PAGE", 100)
    with twin_of({"AAPL": series("AAPL")}, speed=60.0, requests_per_minute=1) as twin:
        result = fetch(twin, tmp_path, "AAPL")

    assert result.exit_code == 0, result.output
    assert is_the_source(tmp_path, "AAPL")


def test_minutes_and_hours_come_as_the_twin_knows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sessions and a half day in pages of 150: each minute once, and the hours are those that the minutes make."""
    monkeypatch.setattr(data_fetch, "PAGE", 150)
    days = calendar().sessions(date(2012, 11, 20), date(2012, 11, 23))
    made = minutes("X", 3, days)
    write_parquet(tmp_path / "source" / "1Min" / "X.parquet", {"timestamp": made.start_ns, **{n: getattr(made, n) for n in ("open", "high", "low", "close", "volume")}})  # fmt: skip
    replay = MarketReplay.of(open_catalog(tmp_path / "source"), calendar(), timeframe=Timeframe.MIN_1, seed=1)
    with serving(replay, date(2012, 11, 26)) as twin:
        for length in ("1Min", "1Hour"):
            result = fetch(twin, tmp_path / "bars", "X", "--timeframe", length)
            assert result.exit_code == 0, result.output
    catalog = open_catalog(tmp_path / "bars")
    fetched = catalog.bars("X", Timeframe.MIN_1)
    known = replay.history("X", Timeframe.MIN_1, 0, 2**62, days[-1].close_ns)

    assert fetched.start_ns.tolist() == known.start_ns.tolist() == made.start_ns.tolist()
    for name in ("open", "high", "low", "close"):
        assert getattr(fetched, name).tolist() == getattr(made, name).tolist()
    hours = resample(fetched, Timeframe.HOUR_1)
    assert catalog.bars("X", Timeframe.HOUR_1).close.tolist() == hours.close.tolist()
    assert catalog.bars("X", Timeframe.HOUR_1).volume.tolist() == hours.volume.tolist()


def test_a_limit_that_never_ends_is_an_error_that_keeps_what_came(
    tmp_path: Path, twin: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_fetch, "PAGE", 100)
    monkeypatch.setattr(data_fetch, "RETRIES", 1)
    twin.faults = [None, *[(429, {"Retry-After": "0"})] * 50]
    result = fetch(twin, tmp_path, "AAPL")

    assert result.exit_code == 1
    assert (
        "error: 429: too many requests.; what has come is kept, and the same command goes on from there"
        in result.stderr
    )
    assert len(open_catalog(tmp_path).bars("AAPL", DAY)) == 100
    twin.faults.clear()
    assert fetch(twin, tmp_path, "AAPL").exit_code == 0
    assert is_the_source(tmp_path, "AAPL")


def test_a_connection_cut_in_the_middle_of_an_answer_is_asked_again(
    tmp_path: Path, twin: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_fetch, "PAGE", 100)
    twin.faults = [None, "cut", "cut", None]
    result = fetch(twin, tmp_path, "AAPL")

    assert result.exit_code == 0, result.output
    assert [a["fault"] for a in twin.asked] == ["None", "cut", "cut", "None"]
    assert is_the_source(tmp_path, "AAPL")


@pytest.mark.parametrize("pages", [1, 2, 3])
def test_what_was_interrupted_goes_on_where_it_ended(
    tmp_path: Path, twin: Twin, pages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C after so many pages, of the later part or of the earlier one: the next command asks for the rest only."""
    monkeypatch.setattr(data_fetch, "PAGE", 40)
    source = dict(bundled().columns("AAPL")[1])
    some = (source["timestamp"] >= new_york_ns(date(2013, 1, 2))) & (
        source["timestamp"] < new_york_ns(date(2013, 1, 8))
    )
    write_parquet(tmp_path / "1Day" / "AAPL.parquet", {n: column[some] for n, column in source.items() if "_" not in n})
    write, left = data_fetch.write_plans, [pages]

    def interrupted(*args: Any) -> None:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        write(*args)

    monkeypatch.setattr(data_fetch, "write_plans", interrupted)
    assert fetch(twin, tmp_path, "AAPL").exit_code == 130
    there = read_columns(tmp_path / "1Day" / "AAPL.parquet")["timestamp"]
    labels = [s.label_ns for s in calendar().sessions(START, LAST)]
    first = labels.index(int(there[0]))
    assert there.tolist() == labels[first : first + len(there)], "a hole"
    monkeypatch.setattr(data_fetch, "write_plans", write)
    twin.asked.clear()

    assert fetch(twin, tmp_path, "AAPL").exit_code == 0
    assert is_the_source(tmp_path, "AAPL")
    assert len(twin.asked) <= 6 - pages


KILLER = """
import os, signal, sys
from algo_royale.app.cli import data_fetch, root
data_fetch.PAGE, left, real = 40, [2], os.replace
def deadly(*args):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    real(*args)
os.replace = deadly
root.main(sys.argv[1:])
"""


def test_a_fetch_that_was_killed_goes_on_where_it_ended(tmp_path: Path, twin: Twin) -> None:
    """kill -9 before the third page is in place: two are there, the folder is not locked, and the rest comes with the next command."""
    words, keys = line(twin, tmp_path / "bars", "AAPL")
    killed = subprocess.run(
        [sys.executable, "-c", KILLER, *words], env=os.environ | keys, capture_output=True, check=False
    )
    assert killed.returncode == -9
    assert len(open_catalog(tmp_path / "bars").bars("AAPL", DAY)) == 80
    twin.asked.clear()

    assert fetch(twin, tmp_path / "bars", "AAPL").exit_code == 0
    assert is_the_source(tmp_path / "bars", "AAPL")
    assert [parse_time_ns(a["start"].replace("%3A", ":").replace("%2B", "+")) for a in twin.asked] == [
        bundled().bars("AAPL", DAY, START).start_ns[79]
    ]


def test_a_bar_that_is_not_over_is_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of this machine stands in the session of 2013-03-01: its bar is still being made, whatever the server says."""
    at_noon = new_york_ns(LAST) + 12 * 3_600 * 10**9
    monkeypatch.setattr("algo_royale.clock.WallClock.now_ns", lambda _: at_noon)
    with twin_of({"AAPL": series("AAPL")}) as twin:
        assert fetch(twin, tmp_path, "AAPL").exit_code == 0

    assert is_the_source(tmp_path, "AAPL", until=date(2013, 2, 28))


@pytest.mark.parametrize(("feed", "until"), [("iex", LAST), ("sip", date(2013, 2, 28))])
def test_the_last_quarter_of_an_hour_of_all_exchanges_waits(
    tmp_path: Path, twin: Twin, feed: str, until: date, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten minutes after the close: one exchange's day is over for us, that of all of them would be refused without a subscription."""
    at = new_york_ns(LAST) + (16 * 60 + 10) * 60 * 10**9
    monkeypatch.setattr("algo_royale.clock.WallClock.now_ns", lambda _: at)

    assert fetch(twin, tmp_path, "AAPL", "--feed", feed).exit_code == 0
    assert {asked["feed"] for asked in twin.asked} == {feed}
    assert is_the_source(tmp_path, "AAPL", until=until)


def test_a_bar_that_contradicts_is_refused_until_it_may_replace(tmp_path: Path, twin: Twin) -> None:
    fetch(twin, tmp_path, "AAPL")
    path = tmp_path / "1Day" / "AAPL.parquet"
    columns = dict(read_columns(path))
    columns["close"][-1] += 0.5
    write_parquet(path, columns)
    before = path.read_bytes()
    refused = fetch(twin, tmp_path, "AAPL", "IBM")

    assert refused.exit_code == 1
    assert "error: AAPL 2013-03-01: close 430.47 contradicts 430.97, which is there already" in refused.stderr
    assert path.read_bytes() == before
    assert is_the_source(tmp_path, "IBM")
    assert fetch(twin, tmp_path, "AAPL", "--replace").exit_code == 0
    assert is_the_source(tmp_path, "AAPL")


def test_what_cannot_be_had_is_one_line_each(tmp_path: Path, twin: Twin) -> None:
    result = fetch(twin, tmp_path, "ZZZ", "IBM")
    assert result.exit_code == 1
    assert "error: ZZZ: Alpaca has no 1Day bars of it from 2012-06-01 on\n" in result.stderr
    assert is_the_source(tmp_path, "IBM")

    refused = fetch(twin, tmp_path / "none", "AAPL", key="wrong")
    assert (refused.exit_code, refused.stderr) == (1, "error: broker rejected (403/None): forbidden.\n")
    nothing = fetch(twin, tmp_path / "none", "ZZZ")
    assert "written to" not in nothing.stderr
    assert not (tmp_path / "none").exists()


def test_a_bar_that_cannot_be_true_is_left_out_and_said(tmp_path: Path) -> None:
    good = series("IBM")
    high = good.high.copy()
    high[50] = good.low[50] - 1
    names = ("start_ns", "end_ns", "open", "low", "close", "volume", "vwap", "trade_count")
    bad = Bars(symbol="IBM", timeframe=DAY, high=high, **{name: getattr(good, name) for name in names})
    with twin_of({"IBM": bad}) as twin:
        result = fetch(twin, tmp_path, "IBM")

    assert result.exit_code == 1
    assert "error: IBM: a bar that cannot be true is left out: {'o': " in result.stderr
    made = open_catalog(tmp_path).bars("IBM", DAY)
    assert made.start_ns.tolist() == np.delete(good.start_ns, 50).tolist()


def test_without_a_server_or_keys_it_says_so(tmp_path: Path) -> None:
    for words, says in (
        (["data"], "dev_integration has no market data server; say --env prod_paper"),
        (["--env", "prod_paper", "data"], "no broker keys: set APCA_API_KEY_ID"),
    ):
        result = CliRunner().invoke(root, [*words, "fetch", "AAPL", "--to", str(tmp_path / "bars")])
        assert result.exit_code == 1
        assert result.stderr.startswith(f"error: {says}")
        assert not (tmp_path / "bars").exists()
