"""The actor kernel against stock Pykka, in one run on this machine: `python benchmarks/kernel.py [--rounds N]`.

Absolute figures depend on the machine and its neighbours; read the ratios. Rounds alternate between the contestants and
the medians are compared, so that a slow minute hits both. Stock Pykka runs bare: plain messages, no supervision, no
envelopes, no log.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pykka

from actors.kernel import (
    Actor,
    Backoff,
    ChildSpec,
    Intensity,
    MailboxSpec,
    Message,
    Ref,
    Sink,
    SteppedSystem,
    Supervisor,
    ThreadSystem,
)
from actors.kernel.journal import MessageLog, RunInfo
from algo_royale.clock import WallClock

HOPS = 5
ROOM = MailboxSpec(capacity=10**9)


class Bar(Message, frozen=True):
    number: int
    close: float
    told_ns: int = 0


class Crash(Message, frozen=True):
    told_ns: int


# --- stock Pykka ------------------------------------------------------------------------------------------------------


class StockEnd(pykka.ThreadingActor):
    """Counts, and says when all have come."""

    def __init__(self, done: threading.Event, count: int, waits_us: list[float] | None = None) -> None:
        super().__init__()
        self.done, self.left, self.waits_us = done, count, waits_us

    def on_receive(self, message: Any) -> None:
        if self.waits_us is not None:
            self.waits_us.append((time.perf_counter_ns() - message.told_ns) / 1000)
        self.left -= 1
        if not self.left:
            self.done.set()


class StockHop(pykka.ThreadingActor):
    """Builds a new message and tells the next."""

    def __init__(self, following: Any) -> None:
        super().__init__()
        self.following = following

    def on_receive(self, message: Bar) -> None:
        self.following.tell(Bar(at_ns=0, number=message.number, close=message.close, told_ns=message.told_ns))


# --- ours -------------------------------------------------------------------------------------------------------------


class End(Actor[Bar]):
    def __init__(self, done: threading.Event, count: int, waits_us: list[float] | None = None) -> None:
        self.done, self.left, self.waits_us = done, count, waits_us

    def receive(self, message: Bar) -> None:
        if self.waits_us is not None:
            self.waits_us.append((time.perf_counter_ns() - message.told_ns) / 1000)
        self.left -= 1
        if not self.left:
            self.done.set()


class Hop(Actor[Bar]):
    def __init__(self, following: str) -> None:
        self.following = following

    def started(self) -> None:
        self.next: Ref[Bar] = self.ref(self.following)

    def receive(self, message: Bar) -> None:
        self.tell(
            self.next, Bar(at_ns=self.now_ns, number=message.number, close=message.close, told_ns=message.told_ns)
        )


class Fragile(Actor[Crash | Bar]):
    """Fails on a Crash; on a Bar it notes how long ago the crash was told."""

    def __init__(self, waits_us: list[float], handled: threading.Event) -> None:
        self.waits_us, self.handled = waits_us, handled

    def receive(self, message: Crash | Bar) -> None:
        if isinstance(message, Crash):
            raise RuntimeError("on purpose")
        self.waits_us.append((time.perf_counter_ns() - message.told_ns) / 1000)
        self.handled.set()


def tree(*specs: ChildSpec) -> ChildSpec:
    return ChildSpec("root", lambda: Supervisor(specs, intensity=Intensity(10**9)))


def chain(end: Callable[[], End]) -> ChildSpec:
    hops = [
        ChildSpec(f"hop{n}", lambda n=n: Hop(f"root/hop{n + 1}" if n < HOPS - 1 else "root/end"), mailbox=ROOM)  # type: ignore[misc]
        for n in range(1, HOPS)
    ]
    return tree(ChildSpec("end", end, mailbox=ROOM), *reversed(hops))


# --- what is measured -------------------------------------------------------------------------------------------------


def stock_chain(done: threading.Event, count: int, waits_us: list[float] | None = None) -> Any:
    following: Any = StockEnd.start(done, count, waits_us)
    for _ in range(HOPS - 1):
        following = StockHop.start(following)
    return following


def stock_rate(count: int, *, hops: bool) -> float:
    """Messages per second from one producer to one actor, or items per second through five."""
    done = threading.Event()
    first = stock_chain(done, count) if hops else StockEnd.start(done, count)
    message = Bar(at_ns=0, number=1, close=1.0)
    began = time.perf_counter()
    for _ in range(count):
        first.tell(message)
    done.wait()
    took = time.perf_counter() - began
    pykka.ActorRegistry.stop_all()
    return count / took


def our_rate(count: int, *, hops: bool, log: Sink | None = None) -> float:
    """The same, supervised; with `log`, until the last record is on its way to the disk and committed."""
    done = threading.Event()
    system = ThreadSystem(WallClock(), log=log)
    system.start(
        chain(lambda: End(done, count)) if hops else tree(ChildSpec("end", lambda: End(done, count), mailbox=ROOM))
    )
    first = system.ref("root/hop1" if hops else "root/end")
    message = Bar(at_ns=0, number=1, close=1.0)
    began = time.perf_counter()
    for _ in range(count):
        first.tell(message)
    done.wait()
    if isinstance(log, MessageLog):
        log.flush(60.0)
    took = time.perf_counter() - began
    system.stop(10.0)
    return count / took


def logged_rate(count: int) -> tuple[float, int]:
    """Five hops with envelopes and the SQLite message log; and how many records the log had to drop."""
    with tempfile.TemporaryDirectory() as folder:
        log = MessageLog(Path(folder) / "messages.db", RunInfo(id="bench", kind="benchmark", started_ns=0))
        rate = our_rate(count, hops=True, log=log)
        return rate, log.state.dropped


def stepped_rate(count: int) -> float:
    done = threading.Event()
    system = SteppedSystem(keep_trace=False)
    system.start(tree(ChildSpec("end", lambda: End(done, count), mailbox=ROOM)))
    ref = system.ref("root/end")
    message = Bar(at_ns=0, number=1, close=1.0)
    began = time.perf_counter()
    for _ in range(count):
        ref.tell(message)
    system.run_until_idle(600)
    return count / (time.perf_counter() - began)


def idle_waits(count: int, *, stock: bool) -> list[float]:
    """Microseconds through five hops with one message in flight."""
    waits_us: list[float] = []
    done = threading.Event()
    system = None
    if stock:
        first = stock_chain(done, 10**9, waits_us)
    else:
        system = ThreadSystem(WallClock())
        system.start(chain(lambda: End(done, 10**9, waits_us)))
        first = system.ref("root/hop1")
    for number in range(count):
        first.tell(Bar(at_ns=0, number=number, close=1.0, told_ns=time.perf_counter_ns()))
        while len(waits_us) <= number:
            time.sleep(0.0005)
    if system is not None:
        system.stop(10.0)
    else:
        pykka.ActorRegistry.stop_all()
    return waits_us


def recovery_waits(count: int) -> list[float]:
    """Microseconds from telling a message that fails to the end of handling the next one, backoff 0."""
    waits_us: list[float] = []
    handled = threading.Event()
    system = ThreadSystem(WallClock())
    system.start(tree(ChildSpec("a", lambda: Fragile(waits_us, handled), backoff=Backoff(base=0.0))))
    ref = system.ref("root/a")
    for number in range(count):
        told_ns = time.perf_counter_ns()
        ref.tell(Crash(at_ns=0, told_ns=told_ns))
        ref.tell(Bar(at_ns=0, number=number, close=1.0, told_ns=told_ns))
        handled.wait()
        handled.clear()
    system.stop(10.0)
    return waits_us


MEMORY = """
import os, sys
from actors.kernel import *
from algo_royale.clock import WallClock
class Idle(Actor[Message]):
    pass
def rss():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024
system = ThreadSystem(WallClock())
system.start(ChildSpec("root", lambda: Supervisor([ChildSpec("first", Idle)])))
before = rss()
for n in range(int(sys.argv[1])):
    system.ref("root").tell_control(StartChild(ChildSpec(f"idle{n}", Idle)))
system.run_until_idle(60)
print((rss() - before) / int(sys.argv[1]))
system.stop(30)
"""


def idle_kib(count: int) -> float:
    """KiB of resident memory per idle actor, in a fresh process."""
    run = subprocess.run([sys.executable, "-c", MEMORY, str(count)], capture_output=True, text=True, check=True)
    return float(run.stdout)


# --- the table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    what: str
    stock: str
    ours: str
    figure: str
    target: str
    met: bool


def percentile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def measure(rounds: int, count: int) -> list[Row]:
    """Every row of the table; about ten seconds a round."""
    tells: tuple[list[float], list[float]] = ([], [])
    chains: tuple[list[float], list[float], list[float]] = ([], [], [])
    idle: tuple[list[float], list[float]] = ([], [])
    stepped, recovery, dropped = list[float](), list[float](), 0
    for _ in range(rounds):
        tells[0].append(stock_rate(count, hops=False))
        tells[1].append(our_rate(count, hops=False))
        stepped.append(stepped_rate(count))
        chains[0].append(stock_rate(count // 10, hops=True))
        rate, lost = logged_rate(count // 10)
        chains[1].append(rate)
        dropped += lost
        chains[2].append(our_rate(count // 10, hops=True))
        idle[0].extend(idle_waits(200, stock=True))
        idle[1].extend(idle_waits(200, stock=False))
        recovery.extend(recovery_waits(100))
    kib = idle_kib(500)
    bare, supervised = map(statistics.median, tells)
    bare_chain, logged, unlogged = map(statistics.median, chains)
    p99_ms, stock_p99_ms = percentile(idle[1], 0.99) / 1000, percentile(idle[0], 0.99) / 1000
    back_ms = statistics.median(recovery) / 1000
    return [
        _ratio("tell, one producer -> one actor, /s", bare, supervised, 1.5),
        _ratio(f"five hops, envelopes + SQLite log ({dropped} dropped), items/s", bare_chain, logged, 0.35),
        Row("five hops, envelopes, no log, items/s", f"{bare_chain:,.0f}", f"{unlogged:,.0f}",
            f"{unlogged / bare_chain:.2f}x", "-", True),
        Row("five hops idle, p99", f"{stock_p99_ms:.2f} ms", f"{p99_ms:.2f} ms",
            f"p50 {statistics.median(idle[1]) / 1000:.2f} ms", "< 5 ms", p99_ms < 5),
        Row("failure -> next message handled, p50", "never", f"{back_ms:.2f} ms",
            f"p99 {percentile(recovery, 0.99) / 1000:.2f} ms", "< 5 ms", back_ms < 5),
        Row("memory per idle actor (500)", "-", f"{kib:.1f} KiB", "", "< 40 KiB", kib < 40),
        Row("stepped system, messages/s", "-", f"{statistics.median(stepped):,.0f}", "", ">= 40,000",
            statistics.median(stepped) >= 40_000),
    ]  # fmt: skip


def _ratio(what: str, stock: float, ours: float, target: float) -> Row:
    return Row(what, f"{stock:,.0f}", f"{ours:,.0f}", f"{ours / stock:.2f}x", f">= {target}x", ours / stock >= target)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often each figure is taken (default 5)")
    parser.add_argument("--count", type=int, default=100_000, help="messages per throughput figure (default 100000)")
    options = parser.parse_args()
    rows = measure(options.rounds, options.count)
    print(f"Python {sys.version.split()[0]}, pykka {version('pykka')}, {options.rounds} rounds, medians\n")
    print("| what | stock pykka, bare | actors.kernel | | target | |")
    print("| --- | ---: | ---: | --- | --- | --- |")
    for row in rows:
        print(f"| {row.what} | {row.stock} | {row.ours} | {row.figure} | {row.target} | {'yes' if row.met else 'NO'} |")
    return 0 if all(row.met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
