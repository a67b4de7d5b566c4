"""Replay: the recorded inbox makes an actor send what is recorded, whatever happened in between; and it finds who does not."""

import itertools
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.kernel import (
    Actor,
    ChildSpec,
    CrashAt,
    Faults,
    Hang,
    Intensity,
    MailboxSpec,
    Message,
    Ref,
    SteppedSystem,
    Strategy,
    Supervisor,
    ThreadSystem,
)
from actors.kernel.journal import LogReader, MessageLog, RunInfo
from actors.kernel.replay import ReplayReport, ReplayRuntime, replay
from algo_royale.clock import ManualClock

NOON = 1_357_232_400_000_000_000
SECOND = 10**9


class Priced(Message):
    symbol: str
    price: float


class Asked(Message):
    n: int
    size: Decimal
    roll: int


class Answered(Message):
    n: int
    text: str = ""


class Rang(Message):
    name: str


class Trader(Actor[Any]):
    """State, randomness, timers, sends in every hook, a self-tell, a bad message that really breaks it."""

    def __init__(self, broker: Ref[Any]) -> None:
        self.broker, self.count, self.pending = broker, 0, 0

    def started(self) -> None:
        self.tell(self.broker, Answered(at_ns=self.now_ns, n=0, text=f"generation {self.generation}"))
        self.later(5, Rang(at_ns=self.now_ns, name="flush"), key="flush")

    def receive(self, message: Any) -> None:
        match message:
            case Priced(price=price):
                self.count += 1
                self.pending += 1
                if price < 0:
                    self.tell(self.ref(self.path), Rang(at_ns=self.now_ns, name="doomed"))
                    raise ValueError("a price below zero")
                size = Decimal(str(price)) * self.rng.randrange(1, 10)
                self.tell(self.broker, Asked(at_ns=self.now_ns, n=self.count, size=size, roll=self.rng.getrandbits(40)))
            case Rang(name="flush"):
                self.tell(self.ref("root/tiny"), Rang(at_ns=self.now_ns, name="ping"))
                if not self.tell(self.ref("root/nobody"), Rang(at_ns=self.now_ns, name="ping")):
                    self.tell(self.ref(self.path), Rang(at_ns=self.now_ns, name="refused"))
                self.later(5, Rang(at_ns=self.now_ns, name="flush"), key="flush")
            case Answered():
                self.pending -= 1

    def stopped(self, reason: Any) -> None:
        self.tell(self.broker, Answered(at_ns=self.now_ns, n=-1, text=f"{reason.ending} with {self.pending} pending"))

    def observe(self) -> Mapping[str, object]:
        return {"count": self.count, "pending": self.pending}


class Broker(Actor[Any]):
    def __init__(self, traders: Mapping[str, str]) -> None:
        self.traders = traders
        self.asked = 0

    def receive(self, message: Any) -> None:
        if isinstance(message, Asked):
            self.asked += 1
            for path in self.traders.values():
                self.ref(path).tell(Answered(at_ns=self.now_ns, n=message.n, text=str(self.asked)))


class Tiny(Actor[Any]):
    """Takes a while on threads, has little room."""

    def receive(self, message: Any) -> None:
        pass


TRADERS = {name: f"root/group/{name}" for name in ("one", "two")}
BROKER = "root/broker"


def factories(addresses: Any, trader: Callable[[Ref[Any]], Actor[Any]] = Trader) -> dict[str, Callable[[], Actor[Any]]]:
    broker = addresses.ref(BROKER)
    table: dict[str, Callable[[], Actor[Any]]] = {path: lambda: trader(broker) for path in TRADERS.values()}
    return table | {BROKER: lambda: Broker(TRADERS), "root/ti*": Tiny}


def tree(addresses: Any) -> ChildSpec:
    make = factories(addresses)
    calm = Intensity(1000, 1.0)
    group = [
        ChildSpec(id=name, factory=make[path], mailbox=MailboxSpec(keep=name == "one"), hang_after=3.0)
        for name, path in TRADERS.items()
    ]
    below = [
        ChildSpec(id="broker", factory=make[BROKER]),
        ChildSpec(id="tiny", factory=Tiny, mailbox=MailboxSpec(capacity=1)),
        ChildSpec(id="group", factory=lambda: Supervisor(group, strategy=Strategy.REST_FOR_ONE, intensity=calm)),
    ]
    return ChildSpec(id="root", factory=lambda: Supervisor(below, intensity=calm))


def drive(system: Any, prices: list[float]) -> None:
    """Two prices a second, then time for timers and restarts."""
    refs = itertools.cycle([system.ref(path) for path in TRADERS.values()])
    for place, price in enumerate(prices):
        system.advance_to(NOON + place * SECOND // 2)
        next(refs).tell(Priced(at_ns=NOON, symbol="A", price=price))
        if place % 3:
            system.run_until_idle()
    for wait in (1, 6, 12, 40):
        system.advance_to(NOON + (len(prices) + wait) * SECOND)
        system.run_until_idle()


PRICES = [10.0, 11.5, 9.25, 12.0, 10.5, 7.0]


def record_stepped(
    path: Path, prices: list[float], *, seed: int | None = None, faults: Faults | None = None
) -> SteppedSystem:
    log = MessageLog(path, RunInfo("r", "test", NOON, seed=seed or 0))
    system = SteppedSystem(NOON, seed, faults or Faults(), log)
    system.start(tree(system))
    drive(system, prices)
    system.stop(5.0)
    assert log.state.on
    return system


def replayed(path: Path, make: Callable[..., Any] = factories, only: str | None = None, **options: Any) -> ReplayReport:
    runtime = ReplayRuntime()
    with LogReader(path) as reader:
        return replay(reader, make(runtime), only, runtime=runtime, **options)


def test_an_undisturbed_run_replays(tmp_path: Path) -> None:
    """Every actor, every send: also those of `started` and `stopped`, to oneself, and refused ones."""
    path = tmp_path / "messages.db"
    system = record_stepped(path, PRICES, seed=4)
    report = replayed(path)

    assert report.same and report.exact, "\n".join(report.lines())
    assert report.skipped == ()
    assert {actor.path for actor in report.actors} == {*TRADERS.values(), BROKER, "root/tiny"}
    told = [record for record in system.trace if record.sender.startswith("root/")]
    assert sum(actor.sent for actor in report.actors) == len(told) > 20
    one = next(actor for actor in report.actors if actor.path == TRADERS["one"])
    assert one.state["count"] == 3


def test_threads_replay(tmp_path: Path) -> None:
    """Whatever order the threads chose."""
    path = tmp_path / "messages.db"
    log = MessageLog(path, RunInfo("r", "test", NOON, seed=9))
    system = ThreadSystem(ManualClock(NOON), seed=9, log=log)
    system.start(tree(system))
    drive(system, [*PRICES, -1.0, *PRICES])
    assert system.stop(10.0) == 0
    report = replayed(path)

    assert report.same and report.exact, "\n".join(report.lines())
    failed = next(actor for actor in report.actors if actor.path == TRADERS["one"])
    assert (failed.generations, failed.reproduced) == (2, 1)
    assert any(actor.generations == 2 for actor in report.actors if actor.path == TRADERS["two"])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.none() | st.integers(1, 10**6),
    index=st.integers(0, 40),
    when=st.sampled_from(["before", "after"]),
    fault=st.sampled_from([RuntimeError("injected"), Hang(), Hang(6.0)]),
    bad=st.none() | st.integers(0, 5),
)
def test_any_crash_or_hang_replays(
    tmp_path_factory: Any, seed: int | None, index: int, when: str, fault: Any, bad: int | None
) -> None:
    """Injected before or after the handler, hanging for ever or coming back, beside a real failure of its own."""
    path = tmp_path_factory.mktemp("run") / "messages.db"
    prices = [-1.0 if place == bad else price for place, price in enumerate(PRICES)]
    record_stepped(path, prices, seed=seed, faults=CrashAt(index, when, fault))

    report = replayed(path)
    assert report.same and report.exact, "\n".join(report.lines())


class FailingStart(Faults):
    """`started` of the first trader fails in its second generation."""

    def before(self, index: int, path: str, message: Any) -> BaseException | None:
        return RuntimeError("injected") if index == 5 else None

    def start(self, path: str, generation: int) -> BaseException | None:
        return RuntimeError("no start") if path == TRADERS["one"] and generation == 2 else None


def test_a_failed_start_replays(tmp_path: Path) -> None:
    """A generation that never stood, and the one after it."""
    path = tmp_path / "messages.db"
    record_stepped(path, PRICES, faults=FailingStart())
    report = replayed(path)
    assert report.same, report.lines()


def test_a_real_failure_is_reproduced_and_an_injected_one_is_not(tmp_path: Path) -> None:
    """The report tells them apart: a bug of the actor, or something from outside."""
    real, injected = tmp_path / "real.db", tmp_path / "injected.db"
    record_stepped(real, [10.0, 11.0, -1.0, 12.0])
    record_stepped(injected, PRICES, faults=CrashAt(3))

    def counts(path: Path) -> tuple[int, int]:
        actors = replayed(path).actors
        return sum(a.reproduced for a in actors), sum(a.not_reproduced for a in actors)

    assert counts(real) == (1, 0)
    assert counts(injected) == (0, 1)


class Rounded(Trader):
    """Sends another size."""

    def tell(self, ref: Ref[Any], message: Any) -> bool:  # type: ignore[override,misc]
        if isinstance(message, Asked) and message.n == 2:
            message = Asked(at_ns=message.at_ns, n=2, size=message.size + 1, roll=message.roll)
        return super().tell(ref, message)


class Silent(Trader):
    """Forgets the second order."""

    def tell(self, ref: Ref[Any], message: Any) -> bool:  # type: ignore[override,misc]
        return True if isinstance(message, Asked) and message.n == 2 else super().tell(ref, message)


class Chatty(Trader):
    """Says the second order twice."""

    def tell(self, ref: Ref[Any], message: Any) -> bool:  # type: ignore[override,misc]
        return (isinstance(message, Asked) and message.n == 2 and super().tell(ref, message)) | super().tell(
            ref, message
        )


class Lost(Trader):
    """Sends the second order to somebody else."""

    def tell(self, ref: Ref[Any], message: Any) -> bool:  # type: ignore[override,misc]
        return super().tell(self.ref("root/tiny") if isinstance(message, Asked) and message.n == 2 else ref, message)


class Broken(Trader):
    """Fails where the recorded one did not."""

    def receive(self, message: Any) -> None:
        super().receive(message)
        if self.count == 2:
            raise KeyError("new")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (Rounded, "recorded -> replayed size Decimal("),
        (Silent, "did not send Asked to root/broker"),
        (Chatty, "sent one more: Asked("),
        (Lost, "recorded Asked to root/broker, replayed Asked to root/tiny"),
        (Broken, "raised KeyError: 'new', but did not in the record"),
    ],
)
def test_a_planted_difference_is_found_and_readable(tmp_path: Path, changed: type[Trader], words: str) -> None:
    """Where it happened, while handling what, and what is different."""
    path = tmp_path / "messages.db"
    record_stepped(path, PRICES)
    report = replayed(path, lambda runtime: factories(runtime, changed), only="one")

    assert not report.same
    (actor,) = report.actors
    first = str(actor.differences[0])
    assert first.startswith(f"{TRADERS['one']} generation 1, handling #") and "Priced" in first
    assert words in first
    assert TRADERS["two"] in report.skipped
    assert any(words in line for line in report.lines())


def test_other_randomness_is_a_difference(tmp_path: Path) -> None:
    """The seed is part of the record: with another one the rolls differ."""
    path = tmp_path / "messages.db"
    log = MessageLog(path, RunInfo("r", "test", NOON, seed=1))
    system = SteppedSystem(NOON, 2, log=log)
    system.start(tree(system))
    drive(system, PRICES)
    system.stop(5.0)
    assert any("roll" in line for line in replayed(path).lines())


def test_a_run_that_goes_on_replays_up_to_now(tmp_path: Path) -> None:
    """What was told and not yet handled is not recorded yet: unrecorded, no difference."""
    path = tmp_path / "messages.db"
    log = MessageLog(path, RunInfo("r", "test", NOON))
    system = SteppedSystem(NOON, log=log)
    system.start(tree(system))
    system.ref(TRADERS["one"]).tell(Priced(at_ns=NOON, symbol="A", price=1.0))
    while not any(isinstance(record.message, Priced) for record in system.trace):
        system.step()
    log.flush()
    report = replayed(path)
    assert report.same, report.lines()
    assert sum(actor.unrecorded for actor in report.actors) >= 1
    system.stop(5.0)


def test_until_leaves_the_rest_out(tmp_path: Path) -> None:
    """The state then, not at the end."""
    path = tmp_path / "messages.db"
    record_stepped(path, PRICES)
    report = replayed(path, only="one", until_ns=NOON + SECOND * 3 // 4)
    assert report.same, report.lines()
    assert report.actors[0].state["count"] == 1


def test_a_log_with_gaps_is_not_exact(tmp_path: Path) -> None:
    """It is compared, and says what it lacks."""
    path = tmp_path / "messages.db"
    log = MessageLog(path, RunInfo("r", "test", NOON))
    log.event(NOON, "", 0, "gap", "3")
    log.finish(0)
    report = replayed(path)
    assert not report.exact and report.lines() == ["the log lacks 3 records: not exact"]
