"""What only real threads can show: hangs, late returns, dying threads, signals, exact quiescence. Events, never sleeps."""

import contextlib
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pykka
import pytest

from actors.kernel import (
    Actor,
    Halt,
    Intensity,
    MailboxSpec,
    NotIdle,
    Outcome,
    Overflow,
    StartFailed,
    ThreadSystem,
    spawn_thread,
    threads,
)
from actors.kernel._pykka import ThreadIncarnation
from algo_royale.clock import ManualClock, ScaledClock, WallClock
from kernel_probes import START_NS, Forward, Memory, Note, Remind, World, fail, note, root, tell_all

PATIENCE_S = 10.0


class Latch:
    """A place where a handler waits until the test lets it go."""

    def __init__(self) -> None:
        self.reached, self.open = threading.Event(), threading.Event()

    def __call__(self, *_: Any) -> None:
        self.reached.set()
        assert self.open.wait(PATIENCE_S)


@pytest.fixture
def latch() -> Iterator[Latch]:
    latch = Latch()
    yield latch
    latch.open.set()


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """No test leaves a thread of ours or an entry in Pykka's registry behind."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), thread.name
    assert pykka.ActorRegistry.get_all() == []


def manual(log: Memory | None = None) -> ThreadSystem:
    return ThreadSystem(ManualClock(START_NS), log=log)


# --- hangs (6, 7) -----------------------------------------------------------------------------------------------------


def test_a_hung_handler_is_fenced_replaced_and_takes_no_message_when_it_returns(latch: Latch) -> None:
    """Its message is a dead letter, the queue goes to the new incarnation, its late tell is refused."""
    world, log = World(), Memory()
    system = manual(log)

    def handler(actor: Actor[Any], message: Note) -> None:
        if message.text == "hang":
            latch()
        actor.tell(actor.ref("root/b"), note(f"{actor.generation} {message.text}"))

    world.on_note["root/a"] = handler
    system.start(root(world.spec("a", hang_after=0.05), world.spec("b")))
    tell_all(system.ref("root/a"), "hang", "queued")
    assert latch.reached.wait(PATIENCE_S)
    log.wait_for("started", "root/a", times=2)
    system.run_until_idle()
    assert world.notes("b") == ["2 queued"]
    old = next(thread for thread in threading.enumerate() if thread.name == "root/a")
    tell_all(system.ref("root/a"), "later")
    latch.open.set()
    old.join(PATIENCE_S)
    system.run_until_idle()
    assert world.notes("b") == ["2 queued", "2 later"]
    outcomes = [(record.recipient[-1], record.message.text, record.outcome.name) for record in log.records]
    assert ("a", "hang", "FENCED") in outcomes
    assert ("b", "1 hang", "FENCED") in outcomes
    assert "latch()" in log.seen("hung", "root/a")[0][4]  # the stack says where it hung
    assert system.stop(5.0) == 0


def test_a_long_queue_is_no_hang() -> None:
    """Progress, not pings: many messages longer in all than `hang_after` are fine, each is short."""
    world, log = World(), Memory()
    system = manual(log)
    system.start(root(world.spec("a", hang_after=0.02)))
    tell_all(system.ref("root/a"), *["x"] * 20_000)
    system.run_until_idle()
    assert log.seen("hung") == []
    assert system.stop(5.0) == 0


def test_a_message_that_lies_where_the_one_before_it_lay_is_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is used again: an actor that the watch finds at work at every look is not at work on one message."""
    world, log, looked = World(), Memory(), threading.Event()
    system = manual(log)
    look = system._watch._progress
    monkeypatch.setattr(threads, "id", lambda thing: 1, raising=False)
    monkeypatch.setattr(system._watch, "_progress", lambda incarnation: (look(incarnation), looked.set())[0])

    def handler(actor: Actor[Any], message: Note) -> None:
        looked.clear()
        assert looked.wait(PATIENCE_S)

    world.on_note["root/a"] = handler
    system.start(root(world.spec("a", hang_after=0.05)))
    tell_all(system.ref("root/a"), *["x"] * 20)
    system.run_until_idle()
    assert log.seen("hung") == []
    assert system.stop(5.0) == 0


def test_a_protected_zone_is_allowed_to_be_slow_and_is_watched_by_its_own_limit(latch: Latch) -> None:
    world, log = World(), Memory()
    system = manual(log)
    other = Latch()

    def handler(actor: Actor[Any], message: Note) -> None:
        if message.text == "trusted":
            with actor.protected(60.0):
                latch()
        else:
            with actor.protected(0.02):
                other()

    world.on_note["root/a"] = handler
    world.on_note["root/b"] = handler
    system.start(root(world.spec("a", hang_after=0.02), world.spec("b", hang_after=60.0)))
    tell_all(system.ref("root/a"), "trusted")
    tell_all(system.ref("root/b"), "limited")
    log.wait_for("hung", "root/b")
    assert log.seen("hung", "root/a") == []
    latch.open.set()
    other.open.set()
    system.run_until_idle()
    assert system.stop(5.0) == 0


def test_a_hang_while_starting_is_given_up_at_its_deadline(latch: Latch) -> None:
    world = World()
    world.on_start["root/b"] = latch
    with pytest.raises(StartFailed, match="root/b: not started within"):
        manual().start(root(world.spec("a"), world.spec("b", start_within=0.05)))
    assert world.of("stopped")[:1] == ["a"]


def test_a_hang_while_stopping_is_abandoned_and_the_code_is_4(latch: Latch) -> None:
    """The others stop in order, each within its own deadline; the process must not wait for the stuck thread."""
    world, log = World(), Memory()
    system = manual(log)
    world.on_stop["root/b"] = latch
    system.start(root(world.spec("a"), world.spec("b", shutdown=0.05), world.spec("c")))
    assert system.stop(5.0) == 4
    assert world.of("stopped") == ["c", "b", "a"]
    assert log.seen("abandoned", "root/b")
    assert log.closed == 1


def test_the_systems_deadline_ends_a_stop_that_takes_too_long(latch: Latch) -> None:
    world, log = World(), Memory()
    system = manual(log)
    world.on_stop["root/a"] = latch
    system.start(root(world.spec("a", shutdown=600.0)))
    assert system.stop(0.05) == 4
    assert "exit code 4" in log.seen("exit")[0][4]


def test_an_orderly_stop_works_off_a_kept_queue_and_drops_another(latch: Latch) -> None:
    """Both are told while busy; the stop arrives; then both go on."""
    world, log = World(), Memory()
    system = manual(log)
    world.on_note["root/keeps"] = world.on_note["root/drops"] = lambda actor, message: (
        latch() if message.text == "1" else None
    )
    system.start(root(world.spec("drops", mailbox=MailboxSpec(keep=False)), world.spec("keeps")))
    for name in ("keeps", "drops"):
        tell_all(system.ref(f"root/{name}"), "1", "2", "3")
    assert latch.reached.wait(PATIENCE_S)
    system.request_stop(0, "asked")
    assert system.observe("root") == {"keeps": "stopping", "drops": "running"}
    latch.open.set()
    assert system.stop(5.0) == 0
    assert world.notes("keeps") == ["1", "2", "3"]
    assert set(world.notes("drops")) >= {"1"}
    assert sum(log.outcomes().values()) == 6


# --- failures that only threads have (11, 12) ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [SystemExit(7), KeyboardInterrupt(), MemoryError(), RecursionError(), GeneratorExit()]
)
def test_a_base_exception_fails_one_actor_and_nobody_else(error: BaseException) -> None:
    """Pykka alone would stop every actor of the process from inside this one."""
    world, log = World(), Memory()
    system = manual(log)

    def handler(actor: Actor[Any], message: Note) -> None:
        if message.text == "bad":
            raise error

    world.on_note["root/a"] = handler
    system.start(root(world.spec("a"), world.spec("b")))
    tell_all(system.ref("root/a"), "bad", "good")
    tell_all(system.ref("root/b"), "untouched")
    system.run_until_idle()
    assert world.notes("a") == ["bad", "good"]
    assert world.notes("b") == ["untouched"]
    assert [(path[-1], generation) for path, generation, what in world.diary if what == "started"] == [
        ("a", 1),
        ("b", 1),
        ("a", 2),
    ]
    assert log.outcomes() == {"FAILED": 1, "OK": 2}
    assert system.stop(5.0) == 0


def test_a_real_endless_recursion_is_contained() -> None:
    world, system = World(), manual()

    def handler(actor: Actor[Any], message: Note) -> None:
        handler(actor, message)

    world.on_note["root/a"] = handler
    system.start(root(world.spec("a")))
    tell_all(system.ref("root/a"), "deep")
    system.run_until_idle()
    assert world.of("started") == ["a", "a"]
    assert system.stop(5.0) == 0


def test_a_thread_that_cannot_start_is_a_failed_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is retried like any other, and counts."""
    world, log = World(), Memory()
    system = manual(log)
    system.start(root(world.spec("a"), intensity=Intensity(3)))
    refused = [RuntimeError("can't start new thread")] * 2
    start = ThreadIncarnation._start_actor_loop

    def fails_twice(self: ThreadIncarnation) -> None:
        if refused:
            raise refused.pop()
        start(self)

    monkeypatch.setattr(ThreadIncarnation, "_start_actor_loop", fails_twice)
    system.ref("root/a").tell(fail())
    tell_all(system.ref("root/a"), "kept")
    system.run_until_idle()
    assert world.notes("a") == ["kept"]
    assert [row["restarts"] for row in system.tree() if row["path"] == "root/a"] == [3]
    assert system.stop(5.0) == 0


def test_the_first_thread_that_cannot_start_fails_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: ThreadIncarnation) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(ThreadIncarnation, "_start_actor_loop", fails)
    with pytest.raises(StartFailed, match="can't start new thread"):
        manual().start(root(World().spec("a")))


def test_a_thread_that_vanished_is_found_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pykka's zombie: the thread is gone, and nobody was told."""
    world, log = World(), Memory()
    system = manual(log)
    monkeypatch.setattr(
        ThreadIncarnation, "_run", lambda self: self._actor_loop() if self.generation > 1 else self._actor_loop_setup()
    )
    monkeypatch.setattr(
        ThreadIncarnation, "_start_actor_loop", _only_for("root/a", ThreadIncarnation._start_actor_loop)
    )
    system.start(root(world.spec("a", hang_after=0.05)))
    tell_all(system.ref("root/a"), "kept")
    log.wait_for("vanished", "root/a")
    log.wait_for("started", "root/a", times=2)
    system.run_until_idle()
    assert world.notes("a") == ["kept"]
    assert system.stop(5.0) == 0


def _only_for(path: str, start: Any) -> Any:
    """Threads of other actors run Pykka's loop as it is."""

    def start_loop(self: ThreadIncarnation) -> None:
        if self.path != path:
            self._run = lambda: (self._actor_loop(), self.after_loop())  # type: ignore[method-assign, assignment]
        start(self)

    return start_loop


def test_an_exception_out_of_the_loop_itself_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    world, system = World(), manual()
    system.start(root(world.spec("a")))
    cell = system.cells["root/a"]
    assert isinstance(cell.incarnation, ThreadIncarnation)
    loop_broke = threading.Event()

    def raises() -> Any:
        loop_broke.set()
        raise MemoryError

    cell.incarnation.actor_inbox.get = raises
    tell_all(system.ref("root/a"), "1", "2")  # the first was asked for already
    assert loop_broke.wait(PATIENCE_S)
    system.run_until_idle()
    assert world.notes("a") == ["1", "2"]
    assert system.stop(5.0) == 0


# --- bounds (8, 9) ------------------------------------------------------------------------------------------------------


def test_a_slow_consumer_of_conflated_quotes_sees_the_newest(latch: Latch) -> None:
    world, log = World(), Memory()
    system = manual(log)
    by_symbol = MailboxSpec(10, Overflow.CONFLATE, conflate_by=lambda message: message.text[0])
    world.on_note["root/a"] = lambda actor, message: latch() if message.text == "X" else None
    system.start(root(world.spec("a", mailbox=by_symbol)))
    tell_all(system.ref("root/a"), "X")
    assert latch.reached.wait(PATIENCE_S)
    tell_all(system.ref("root/a"), *(f"{symbol}{number}" for number in range(1000) for symbol in "AB"))
    assert len(system.cells["root/a"].mailbox) == 2
    latch.open.set()
    system.run_until_idle()
    assert world.notes("a") == ["X", "A999", "B999"]
    assert log.outcomes() == {"CONFLATED": 1998, "OK": 3}
    assert system.dead_letter_count == 0
    assert system.stop(5.0) == 0


def test_an_edge_thread_waits_for_room_and_an_actor_does_not(latch: Latch) -> None:
    world, log = World(), Memory()
    system = manual(log)
    world.on_note["root/a"] = lambda actor, message: latch() if message.text == "1" else None
    system.start(root(world.spec("a", mailbox=MailboxSpec(1, Overflow.BLOCK)), world.spec("b")))
    done = threading.Event()

    def edge() -> None:
        tell_all(system.ref("root/a"), "1", "2", "3", "4")
        done.set()

    spawn_thread("edge", edge)
    assert latch.reached.wait(PATIENCE_S)
    assert not done.is_set()
    full = threading.Event()
    world.on_note["root/b"] = lambda actor, _: (
        full.set() if not actor.tell(actor.ref("root/a"), note("from an actor")) else None
    )
    while not full.is_set():  # until "2" fills the only place
        tell_all(system.ref("root/b"), "try")
        full.wait(0.01)
    latch.open.set()
    assert done.wait(PATIENCE_S)
    system.run_until_idle()
    assert [text for text in world.notes("a") if text != "from an actor"] == ["1", "2", "3", "4"]
    assert system.stop(5.0) == 0


# --- pace and quiescence ------------------------------------------------------------------------------------------------


def test_idle_means_that_everything_told_has_ended() -> None:
    """Long chains between actors, many times: never is one message left when run_until_idle returns."""
    world, log = World(), Memory()
    system = manual(log)
    for name, following in zip("abcd", "bcde", strict=True):
        world.on_note[f"root/{name}"] = lambda actor, message, to=f"root/{following}": tell_all(  # type: ignore[misc]
            actor.ref(to), message.text
        )
    system.start(root(*(world.spec(name) for name in "abcde")))
    for count in range(1, 301):
        tell_all(system.ref("root/a"), str(count))
        system.run_until_idle()
        assert len(log.records) == 5 * count
    assert system.stop(5.0) == 0


def test_no_timer_of_an_instant_runs_before_all_of_them_are_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    """a's timer is queued first; a must not have run when the second one, b's of the same instant, gets its turn."""
    world, system, ran = World(), manual(), threading.Event()
    world.on_start["root/a"] = world.on_start["root/b"] = lambda actor: actor.later(1.0, note("timer"))
    world.on_note["root/a"] = lambda actor, _: ran.set()
    system.start(root(world.spec("a"), world.spec("b")))
    early: list[bool] = []

    def deliver(runtime: Any, timer: Any, deliver: Any = threads.deliver) -> None:
        early.append(ran.wait(0.1))  # gives a every chance
        deliver(runtime, timer)

    monkeypatch.setattr(threads, "deliver", deliver)
    system.advance_to(START_NS + 10**9)
    system.run_until_idle()
    assert early == [False, False]
    assert world.notes("a") == world.notes("b") == ["timer"]
    assert system.stop(5.0) == 0


def test_not_idle_names_who_is_busy(latch: Latch) -> None:
    world, system = World(), manual()
    world.on_note["root/a"] = latch
    system.start(root(world.spec("a"), world.spec("b")))
    tell_all(system.ref("root/a"), "x")
    with pytest.raises(NotIdle, match=r"root/a \(Note\)"):
        system.run_until_idle(timeout_s=0.05)
    latch.open.set()
    system.run_until_idle()
    assert system.stop(5.0) == 0


@pytest.mark.parametrize("speed", [1.0, 100_000.0])
def test_timers_fire_by_themselves_on_a_running_clock(speed: float) -> None:
    """A wall clock and one that runs 100,000 times as fast: a virtual half day takes less than a second."""
    world = World()
    fired = threading.Event()
    world.on_note["root/a"] = lambda actor, _: fired.set()
    wall = WallClock().now_ns()
    clock = WallClock() if speed == 1 else ScaledClock(virtual_start_ns=START_NS, wall_start_ns=wall, speed=speed)
    system = ThreadSystem(clock)
    system.start(root(world.spec("a")))
    system.ref("root/a").tell(Remind(at_ns=0, delay_s=0.02 if speed == 1 else 43_200.0, text="now"))
    assert fired.wait(PATIENCE_S)
    assert system.stop(5.0) == 0


def test_a_running_clock_cannot_be_moved() -> None:
    with pytest.raises(TypeError, match="ManualClock"):
        ThreadSystem(WallClock()).advance_to(1)


def test_four_edge_threads_lose_nothing_while_the_actor_keeps_failing() -> None:
    """Every envelope ends once: handled, or a dead letter; failures restart it at once, and the queue survives."""
    world, log = World(), Memory()
    system = manual(log)

    def handler(actor: Actor[Any], message: Note) -> None:
        if message.text.endswith("7"):
            raise RuntimeError

    world.on_note["root/a"] = handler
    system.start(root(world.spec("a", mailbox=MailboxSpec(10**6)), intensity=Intensity(10**6)))
    ref, count = system.ref("root/a"), 250

    threads = [
        spawn_thread(f"edge {n}", lambda n=n: tell_all(ref, *(f"{n}:{i}" for i in range(count))))  # type: ignore[misc]
        for n in range(4)
    ]
    for thread in threads:
        thread.join(PATIENCE_S)
    system.run_until_idle()
    assert Counter(record.message.text for record in log.records) == Counter(
        f"{n}:{i}" for n in range(4) for i in range(count)
    )
    assert log.outcomes() == {"FAILED": 100, "OK": 900}
    for n in range(4):  # per sender in order, over all incarnations
        mine = [text for text in world.notes("a") if text.startswith(f"{n}:")]
        assert mine == [f"{n}:{i}" for i in range(count)]
    assert system.stop(5.0) == 0


def test_a_told_actor_that_ends_at_the_same_time_leaves_no_message_without_an_end() -> None:
    """Telling races with the stop of the whole system, twenty times."""
    for _ in range(20):
        world, log = World(), Memory()
        system = manual(log)
        system.start(root(world.spec("a"), world.spec("b")))
        go, told = threading.Barrier(2), list[bool]()

        def edge(system: ThreadSystem = system, go: threading.Barrier = go, told: list[bool] = told) -> None:
            go.wait(PATIENCE_S)
            told.extend(system.ref("root/a").tell(Forward(at_ns=0, to="root/b")) for _ in range(200))

        thread = spawn_thread("edge", edge)
        go.wait(PATIENCE_S)
        system.request_stop(0, "race")
        thread.join(PATIENCE_S)
        assert system.stop(5.0) == 0
        ingress = [record for record in [*log.records, *system.dead_letters] if record.sender == "ingress"]
        assert len({record.id for record in ingress}) == 200
        assert len(told) == 200


# --- running as a process -----------------------------------------------------------------------------------------------


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when `run` has taken over the signals: one that came before would end the tests."""
    event, take_over = threading.Event(), threads._handlers

    @contextlib.contextmanager
    def handlers(handler: Any) -> Iterator[None]:
        with take_over(handler):
            event.set()
            yield

    monkeypatch.setattr(threads, "_handlers", handlers)
    return event


def test_sigterm_stops_in_good_order(listening: threading.Event) -> None:
    world, system = World(), ThreadSystem(WallClock())

    def terminate(*_: Any) -> None:
        assert listening.wait(PATIENCE_S)
        os.kill(os.getpid(), signal.SIGTERM)

    world.on_note["root/a"] = terminate
    system.start(root(world.spec("a"), world.spec("b")))
    tell_all(system.ref("root/a"), "kill")
    assert system.run() == 0
    assert system.exit_reason == "SIGTERM"
    assert world.of("stopped") == ["b", "a"]


def test_a_second_sigint_does_not_wait(latch: Latch, listening: threading.Event) -> None:
    world, system = World(), ThreadSystem(WallClock())

    def interrupt(*_: Any) -> None:
        assert listening.wait(PATIENCE_S)
        os.kill(os.getpid(), signal.SIGINT)
        latch()

    world.on_note["root/a"] = interrupt
    world.on_stop["root/b"] = lambda actor: os.kill(os.getpid(), signal.SIGINT)
    system.start(root(world.spec("a", shutdown=600.0), world.spec("b")))
    tell_all(system.ref("root/a"), "go")
    assert system.run() == 130
    latch.open.set()


def test_run_returns_the_code_of_what_happened() -> None:
    for error, code in ((Halt("unsafe"), 5), (RuntimeError("again and again"), 3)):
        world, system = World(), ThreadSystem(WallClock())

        def handler(actor: Actor[Any], _: Note, error: Exception = error) -> None:
            raise error

        world.on_note["root/a"] = handler
        system.start(root(world.spec("a"), intensity=Intensity(1)))
        tell_all(system.ref("root/a"), "1", "2", "3")
        assert system.run() == code


def test_too_many_threads_left_behind_end_the_process() -> None:
    """Each hang is replaced; the ninth stuck thread is one too many."""
    world, log = World(), Memory()
    system = ThreadSystem(WallClock(), log=log)
    latch = Latch()
    world.on_note["root/a"] = latch
    system.start(root(world.spec("a", hang_after=0.01, shutdown=0.05), intensity=Intensity(100)))
    tell_all(system.ref("root/a"), *["hang"] * 12)
    assert system.run() == 4
    assert "more than 8 threads hang" in system.exit_reason
    assert log.outcomes()[Outcome.FENCED.name] in (9, 10)  # one more may have begun before the stop
    latch.open.set()
