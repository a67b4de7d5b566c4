"""How much the twin holds: market data to many clients, and orders over HTTP, on loopback.

    python benchmarks/exchange.py [--seconds 5] [--symbols 500]

The twin runs in a process of its own. Data: made-up symbols with a path through each day's bar; all clients hear minute bars, or trades,
quotes and bars, of all symbols, and the clock stops when the last client has read the last frame of a session. Orders: limits far
below the market, posted and canceled, each answer awaited; with several clients at once. Prints a table in Markdown.
"""

import argparse
import asyncio
import json
import multiprocessing
import threading
import time
from datetime import date
from typing import Any

import numpy as np
import requests
import websocket

from algo_royale.exchange.core import Exchange, ExchangeConfig
from algo_royale.exchange.replay import MarketReplay
from algo_royale.exchange.server import TwinServer
from algo_royale.exchange.tape import PathTape
from algo_royale.market import Bars, Timeframe
from algo_royale.sessions import calendar

HEADERS = {"APCA-API-KEY-ID": "TWINKEY", "APCA-API-SECRET-KEY": "twin-secret"}
DAYS = date(2012, 11, 12), date(2012, 11, 13)


def replay(count: int) -> MarketReplay:
    """`count` symbols over two sessions, around a hundred dollars each."""
    sessions = calendar().sessions(*DAYS)
    rng = np.random.default_rng(1)
    bars = {}
    for n in range(count):
        middle = np.round(100 + rng.normal(0, 1, len(sessions)), 2)
        bars[f"S{n:03d}"] = Bars(
            symbol=f"S{n:03d}", timeframe=Timeframe.DAY_1, start_ns=np.array([s.label_ns for s in sessions], np.int64),
            end_ns=np.array([s.close_ns for s in sessions], np.int64), open=middle, high=middle + 1, low=middle - 1,
            close=middle + 0.5, volume=np.full(len(sessions), 1e6), vwap=np.full(len(sessions), np.nan),
            trade_count=np.full(len(sessions), -1, np.int64),
        )  # fmt: skip
    return MarketReplay(bars, calendar(), tape=PathTape(bars, seed=1))


def serve(count: int, clients: int, told: Any) -> None:
    """A twin in this process, until it is ended."""
    market = replay(count)
    config = ExchangeConfig(start_ns=market.sessions[1].label_ns, connections=clients)
    asyncio.run(TwinServer(Exchange(market, config), speed=None).run("127.0.0.1", 0, told.put))


class Twin:
    """The twin's process."""

    def __init__(self, count: int, clients: int) -> None:
        context = multiprocessing.get_context("spawn")
        told = context.Queue()
        self.process = context.Process(target=serve, args=(count, clients, told), daemon=True)
        self.process.start()
        self.url: str = told.get(timeout=120)

    def __enter__(self) -> "Twin":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.join()


class Reader:
    """A data client that counts what it reads."""

    def __init__(self, url: str, channels: tuple[str, ...]) -> None:
        self.socket = websocket.create_connection(url.replace("http", "ws", 1) + "/v2/iex", header=HEADERS, timeout=120)
        self.socket.send(json.dumps({"action": "subscribe", **{name: ["*"] for name in channels}}))
        for _ in range(3):
            self.socket.recv()
        self.messages = self.frames = 0
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        while True:
            try:
                text = self.socket.recv()
            except (OSError, websocket.WebSocketException):
                return
            self.messages += text.count('"T":"')
            self.frames += 1


def data(count: int, clients: int, channels: tuple[str, ...]) -> tuple[int, float]:
    """Messages delivered to all clients together, and the seconds that one session took."""
    with Twin(count, clients) as twin, requests.Session() as session:
        readers = [Reader(twin.url, channels) for _ in range(clients)]
        open_ns, close_ns = calendar().sessions(*DAYS)[1].open_ns, calendar().sessions(*DAYS)[1].close_ns
        session.post(f"{twin.url}/sim/advance", json={"until_ns": open_ns}, timeout=120).raise_for_status()
        begun = time.perf_counter()
        now = open_ns
        while now < close_ns:
            answer = session.post(f"{twin.url}/sim/advance", json={}, timeout=120)
            now = answer.json()["now_ns"]
        sent = answer.json()["sent"]["data"] - 3
        while any(reader.frames < sent for reader in readers):
            time.sleep(0.001)
        took = time.perf_counter() - begun
        for reader in readers:
            reader.socket.shutdown()
        return sum(reader.messages for reader in readers), took


def orders(clients: int, seconds: float) -> tuple[int, float, list[float]]:
    """Orders posted and canceled by several clients, the seconds it took, and how long each POST waited."""
    with Twin(5, 1) as twin:
        requests.post(f"{twin.url}/sim/advance", json={}, timeout=60)
        waits: list[float] = []
        end = time.perf_counter() + seconds

        def trade() -> None:
            with requests.Session() as session:
                session.headers.update(HEADERS)
                order = {
                    "symbol": "S001",
                    "qty": "1",
                    "side": "buy",
                    "type": "limit",
                    "time_in_force": "day",
                    "limit_price": "1",
                }
                while time.perf_counter() < end:
                    begun = time.perf_counter()
                    made = session.post(f"{twin.url}/v2/orders", json=order, timeout=60)
                    waits.append(time.perf_counter() - begun)
                    session.delete(f"{twin.url}/v2/orders/{made.json()['id']}", timeout=60)

        threads = [threading.Thread(target=trade) for _ in range(clients)]
        begun = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return len(waits), time.perf_counter() - begun, sorted(waits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--symbols", type=int, default=500)
    asked = parser.parse_args()
    print("| market data, one session | clients | messages delivered | messages a second |\n|---|---|---|---|")
    every = ("trades", "quotes", "bars")
    for count, clients, channels in (
        (asked.symbols, 1, ("bars",)),
        (asked.symbols, 5, ("bars",)),
        (50, 1, every),
        (50, 5, every),
    ):
        messages, took = data(count, clients, channels)
        print(
            f"| {', '.join(channels)} of {count} symbols | {clients} | {messages:,} | {messages / took:,.0f} |",
            flush=True,
        )
    print("\n| orders posted and canceled | clients | pairs a second | POST p50 | POST p99 |\n|---|---|---|---|---|")
    for clients in (1, 4):
        made, took, waits = orders(clients, asked.seconds)
        p50, p99 = (1000 * waits[int(q * (len(waits) - 1))] for q in (0.5, 0.99))
        print(f"| limit orders | {clients} | {made / took:,.0f} | {p50:.2f} ms | {p99:.2f} ms |", flush=True)


if __name__ == "__main__":
    main()
