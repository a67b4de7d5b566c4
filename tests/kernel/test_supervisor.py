"""Supervision, mostly stepped: who is restarted, in which order, how often, how late, and when it is enough."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.kernel import (
    AutoShutdown,
    Backoff,
    ChildSpec,
    Ending,
    Faults,
    Hang,
    Intensity,
    MailboxSpec,
    Outcome,
    Restart,
    StartChild,
    StartFailed,
    SteppedSystem,
    StopChild,
    Strategy,
    Supervisor,
)
from actors.kernel.control import Control
from kernel_probes import AT_ONCE, START_NS, Leave, Memory, World, fail, note, root, tell_all

SECOND = 10**9


def run(system: SteppedSystem, seconds: float = 0.0) -> None:
    """Let `seconds` pass and everything settle."""
    system.run_until_idle()
    system.advance_to(system.clock.now_ns() + round(seconds * SECOND))
    system.run_until_idle()


def states(system: SteppedSystem) -> dict[str, object]:
    return {str(row["path"]): row["state"] for row in system.tree()}


# --- start and stop ---------------------------------------------------------------------------------------------------


def test_children_start_in_order_one_after_the_other_and_stop_in_reverse() -> None:
    """The next one is made only when `started` of the one before has returned; also across nested supervisors."""
    world, system = World(), SteppedSystem(START_NS, seed=1)
    inner = root(world.spec("b"), world.spec("c"), name="inner")
    system.start(root(world.spec("a"), inner, world.spec("d")))
    assert [(path[-1], what) for path, _, what in world.diary] == [
        (name, what) for name in "abcd" for what in ("starting", "started")
    ]
    assert system.stop() == 0
    assert world.of("stopped") == ["d", "c", "b", "a"]
    assert {reason.ending for reason in world.reasons} == {Ending.SHUTDOWN}


def test_a_failed_first_start_stops_those_before_it_and_fails_the_system() -> None:
    world, system = World(), SteppedSystem(START_NS)
    world.start_faults["root/inner/c"] = [RuntimeError("no such file")]
    inner = root(world.spec("b"), world.spec("c"), name="inner")
    with pytest.raises(StartFailed, match="root/inner: root/inner/c: RuntimeError: no such file"):
        system.start(root(world.spec("a"), inner, world.spec("d")))
    assert world.of("stopped") == ["c", "b", "a"]
    assert "d" not in world.of("starting")
    assert system.stop() == 1


def test_a_factory_that_raises_is_a_failed_start() -> None:
    def factory() -> Any:
        raise LookupError("no strategy")

    with pytest.raises(StartFailed, match="LookupError: no strategy"):
        SteppedSystem(START_NS).start(root(ChildSpec("a", factory)))


def test_two_children_of_one_id_are_refused() -> None:
    world = World()
    with pytest.raises(StartFailed, match="two children of the same id"):
        SteppedSystem(START_NS).start(root(world.spec("a"), world.spec("a")))


@given(st.integers(0, 10_000), st.lists(st.sampled_from("abcdef"), max_size=8))
def test_whatever_fails_children_start_in_order_and_stop_in_reverse(seed: int, victims: list[str]) -> None:
    """rest_for_one under any schedule: none starts unless all before it have, and none after it; the stop is the reverse.

    A child that has just failed may count as up: its supervisor may not have heard of it yet.
    """
    world, system = World(), SteppedSystem(START_NS, seed=seed)
    names = "abcdef"
    specs = [world.spec(name) for name in names]
    system.start(root(*specs, strategy=Strategy.REST_FOR_ONE, intensity=Intensity(100)))
    for name in victims:
        system.ref(f"root/{name}").tell(fail())
    system.run_until_idle()
    up: list[str] = []
    failed: set[str] = set()
    reasons = iter(world.reasons)
    for path, _, what in world.diary:
        name = path[-1]
        if what == "starting":
            before = {other for other in names if other < name}
            assert set(up) <= before <= set(up) | failed
            failed.discard(name)
            up.append(name)
        elif what == "stopped":
            up.remove(name)
            if next(reasons).ending is Ending.FAILED:
                failed.add(name)
    assert up == list(names)
    world.diary.clear()
    assert system.stop() == 0
    assert world.of("stopped") == list(reversed(names))


# --- restart types and strategies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("restart", "after_failure", "after_leaving"),
    [(Restart.PERMANENT, 2, 2), (Restart.TRANSIENT, 2, 1), (Restart.TEMPORARY, 1, 1)],
)
def test_restart_types(restart: Restart, after_failure: int, after_leaving: int) -> None:
    """permanent: always; transient: only after a failure; temporary: never."""
    for message, generations in ((fail(), after_failure), (Leave(at_ns=0), after_leaving)):
        world, system = World(), SteppedSystem(START_NS)
        system.start(root(world.spec("a", restart=restart)))
        system.ref("root/a").tell(message)
        system.run_until_idle()
        assert len(world.of("started")) == generations
        assert states(system)["root/a"] == ("running" if generations == 2 else "ended")
        assert system.ref("root/a").tell(note()) is (generations == 2)


@pytest.mark.parametrize(
    ("strategy", "stopped", "started"),
    [
        (Strategy.ONE_FOR_ONE, "b", "b"),
        (Strategy.REST_FOR_ONE, "bdc", "bcd"),
        (Strategy.ONE_FOR_ALL, "bdca", "abcd"),
    ],
)
def test_strategies(strategy: Strategy, stopped: str, started: str) -> None:
    """b fails: who is taken along is stopped in reverse order, and started again in order."""
    world, system = World(), SteppedSystem(START_NS, seed=3)
    system.start(root(*(world.spec(name) for name in "abcd"), strategy=strategy))
    world.diary.clear()
    system.ref("root/b").tell(fail())
    system.run_until_idle()
    assert "".join(world.of("stopped")) == stopped
    assert "".join(world.of("started")) == started


def test_siblings_taken_along_lose_their_queue_and_the_failed_one_keeps_its() -> None:
    """Theirs is of the old epoch; what the new incarnations tell each other is not touched."""
    world, system = World(), SteppedSystem(START_NS)
    wait = Backoff(base=1.0, jitter=0.0)
    system.start(root(world.spec("a", backoff=wait), world.spec("b"), strategy=Strategy.REST_FOR_ONE))
    world.on_start["root/a"] = lambda actor: actor.tell(actor.ref("root/b"), note("new epoch")) and None
    system.ref("root/a").tell(fail())
    system.run_until_idle()
    tell_all(system.ref("root/a"), "kept")
    tell_all(system.ref("root/b"), "old epoch")
    run(system, 1.0)
    assert world.notes("a") == ["kept"]
    assert world.notes("b") == ["new epoch"]
    assert [(letter.message.text, letter.outcome) for letter in list(system.dead_letters)[1:]] == [
        ("old epoch", Outcome.DISCARDED)
    ]


def test_a_discarding_mailbox_is_emptied_just_before_the_restart() -> None:
    """What waited through the backoff is stale too."""
    world, system = World(), SteppedSystem(START_NS)
    wait, discard = Backoff(base=1.0, jitter=0.0), MailboxSpec(keep=False)
    system.start(root(world.spec("a", backoff=wait, mailbox=discard)))
    system.ref("root/a").tell(fail())
    tell_all(system.ref("root/a"), "queued")
    run(system)
    tell_all(system.ref("root/a"), "during the backoff")
    run(system, 1.0)
    tell_all(system.ref("root/a"), "fresh")
    run(system)
    assert world.notes("a") == ["fresh"]
    assert [letter.outcome for letter in list(system.dead_letters)[1:]] == [Outcome.DISCARDED] * 2


# --- intensity, backoff, escalation (faults 3, 5) -----------------------------------------------------------------------


@given(st.integers(0, 4), st.lists(st.floats(0.0, 30.0), min_size=1, max_size=8))
def test_escalation_exactly_when_the_window_holds_one_failure_too_many(allowed: int, gaps: list[float]) -> None:
    """Against a plain count of the failures within the last 60 seconds."""
    world, system = World(), SteppedSystem(START_NS, keep_trace=False)
    system.start(root(world.spec("a"), intensity=Intensity(allowed, 60.0)))
    times: list[int] = []
    for gap in gaps:
        run(system, gap)
        times.append(system.clock.now_ns())
        system.ref("root/a").tell(fail())
        system.run_until_idle()
        if sum(time >= times[-1] - 60 * SECOND for time in times) > allowed:
            assert system.exit_code == 3
            break
        assert system.exit_code is None
    assert system.stop() == (system.exit_code or 0)


def test_one_childs_own_intensity_counts_beside_the_supervisors() -> None:
    world, system = World(), SteppedSystem(START_NS)
    specs = [world.spec("a", intensity=Intensity(1)), world.spec("b")]
    system.start(root(*specs, intensity=Intensity(10)))
    for name in ("b", "b", "b", "a"):
        system.ref(f"root/{name}").tell(fail())
        run(system, 1)
    assert system.exit_code is None
    system.ref("root/a").tell(fail())
    run(system)
    assert system.exit_code == 3


def test_failing_starts_back_off_ever_longer_then_escalate() -> None:
    """Delays 1, 2, 4, 8 s; the failure and four failed starts are the fifth restart too many."""
    world, log = World(), Memory()
    system = SteppedSystem(START_NS, log=log)
    system.start(root(world.spec("a", backoff=Backoff(1.0, 8.0, 0.0)), intensity=Intensity(4, 60.0)))
    world.start_faults["root/a"] = [RuntimeError("still broken")] * 99
    system.ref("root/a").tell(fail())
    run(system)
    while system.exit_code is None and (due := system.next_timer_ns()) is not None:
        run(system, (due - system.clock.now_ns()) / SECOND)
    fails = [at for at, *_ in log.seen("failed", "root/a")]
    assert [round((b - a) / SECOND, 3) for a, b in pairwise(fails)] == [1.0, 2.0, 4.0, 8.0]
    assert (system.exit_code, system.stop()) == (3, 3)
    assert "still broken" in log.seen("escalated", "root")[0][4]


def test_a_start_that_fails_twice_and_then_works_is_no_end() -> None:
    world, system = World(), SteppedSystem(START_NS)
    system.start(root(world.spec("a", backoff=Backoff(1.0, 8.0, 0.0))))
    world.start_faults["root/a"] = [RuntimeError()] * 2
    system.ref("root/a").tell(fail())
    tell_all(system.ref("root/a"), "kept")
    run(system, 10)
    assert world.notes("a") == ["kept"]
    assert system.exit_code is None


def test_a_long_life_resets_the_backoff() -> None:
    world, system = World(), SteppedSystem(START_NS)
    system.start(root(world.spec("a", backoff=Backoff(1.0, 99.0, 0.0)), intensity=Intensity(5, 60.0)))
    for pause, delay in ((0, 1), (10, 2), (61, 1)):
        run(system, pause)
        system.ref("root/a").tell(fail())
        system.run_until_idle()
        due = system.next_timer_ns()
        assert due is not None
        assert due - system.clock.now_ns() == delay * SECOND
        run(system, delay)


def test_jitter_stays_within_its_bounds_and_comes_from_the_seed() -> None:
    delays = set()
    for seed in range(20):
        world, system = World(), SteppedSystem(START_NS, seed=seed)
        system.start(root(world.spec("a", backoff=Backoff(10.0, 99.0, 0.2))))
        system.ref("root/a").tell(fail())
        system.run_until_idle()
        due = system.next_timer_ns()
        assert due is not None
        delays.add((due - START_NS) / SECOND)
    assert len(delays) == 20
    assert all(8.0 <= delay <= 12.0 for delay in delays)


def test_a_subtree_that_escalates_is_restarted_by_its_parent_in_order() -> None:
    """Too many failures below restart the whole inner supervisor, as one failure of the outer one."""
    world, system = World(), SteppedSystem(START_NS)
    inner = root(world.spec("a"), world.spec("b"), name="inner", intensity=Intensity(1))
    system.start(root(inner, world.spec("c")))
    world.diary.clear()
    for _ in range(2):
        system.ref("root/inner/b").tell(fail())
        run(system)
    assert world.of("started") == ["b", "a", "b"]
    assert world.of("stopped") == ["b", "b", "a"]
    assert system.exit_code is None
    assert states(system)["root/inner"] == "running"
    assert {row["path"]: row["restarts"] for row in system.tree()}["root/inner"] == 1


@pytest.mark.parametrize("restart", [Restart.PERMANENT, Restart.TRANSIENT])
def test_escalation_is_never_taken_for_a_normal_end(restart: Restart) -> None:
    """OTP's gotcha: there a transient supervisor that gives up is silently gone."""
    world, system = World(), SteppedSystem(START_NS)
    inner = root(world.spec("a"), name="inner", intensity=Intensity(0), restart=restart)
    system.start(root(inner, intensity=Intensity(1)))
    for code in (None, 3):
        system.ref("root/inner/a").tell(fail())
        run(system)
        assert system.exit_code == code


class CrashSupervisor(Faults):
    """Breaks the supervisor at `path` the first `times` times it hears of an end."""

    def __init__(self, path: str, times: int = 1) -> None:
        self.path, self.times = path, times

    def control(self, path: str, control: Control) -> BaseException | None:
        if path == self.path and type(control).__name__ == "ChildEnded" and self.times:
            self.times -= 1
            return RuntimeError("supervisor bug")
        return None


def test_a_crashed_supervisor_comes_back_and_puts_its_children_in_order() -> None:
    """Orphans are stopped before the new ones start; a dynamic one is forgotten."""
    world = World()
    system = SteppedSystem(START_NS, faults=CrashSupervisor("root/inner"))
    inner = root(world.spec("a"), world.spec("b"), name="inner")
    system.start(root(inner, world.spec("c")))
    system.ref("root/inner").tell_control(StartChild(world.spec("dynamic")))
    run(system)
    world.diary.clear()
    system.ref("root/inner/a").tell(fail())
    run(system)
    assert [(path[-1], what) for path, _, what in world.diary if what in ("stopped", "started")] == [
        ("a", "stopped"),  # failed
        ("c", "stopped"),  # dynamic
        ("b", "stopped"),
        ("a", "started"),
        ("b", "started"),
    ]
    assert states(system)["root/inner/dynamic"] == "ended"
    assert system.exit_code is None
    assert system.stop() == 0


def test_a_crashed_root_ends_the_process_with_code_3_and_orphans_are_fenced() -> None:
    world, log = World(), Memory()
    system = SteppedSystem(START_NS, faults=CrashSupervisor("root"), log=log)
    system.start(root(world.spec("a"), world.spec("b")))
    system.ref("root/a").tell(fail())
    run(system)
    assert (system.exit_code, system.stop()) == (3, 3)
    assert [event[1] for event in log.seen("fenced")] == ["root/b"]
    assert log.closed == 1


# --- at the same time (fault 4) -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", Strategy)
def test_two_siblings_failing_at_the_same_instant(strategy: Strategy) -> None:
    """In every order of 200 schedules both come back, and the restarts stay within two."""
    for seed in range(200):
        world, system = World(), SteppedSystem(START_NS, seed=seed, keep_trace=False)
        system.start(root(*(world.spec(name) for name in "abc"), strategy=strategy, intensity=Intensity(2)))
        for name in "ac":
            system.ref(f"root/{name}").tell(fail())
        run(system)
        assert system.exit_code is None
        assert set(states(system).values()) == {"running"}
        assert system.stop() == 0


def test_a_failure_during_anothers_restart_and_during_a_stop() -> None:
    """b fails again while the group restart stops it, and c fails when it is told to stop for good."""
    for seed in range(100):
        world, system = World(), SteppedSystem(START_NS, seed=seed, keep_trace=False)
        world.on_stop["root/b"] = world.on_stop["root/c"] = _raise
        specs = [world.spec(name) for name in "abc"]
        system.start(root(*specs, strategy=Strategy.ONE_FOR_ALL, intensity=Intensity(3)))
        system.ref("root/b").tell(fail())
        system.ref("root/a").tell(fail())
        world.start_faults["root/c"] = [RuntimeError("once")]
        run(system)
        assert set(states(system).values()) == {"running"}
        assert system.stop() == 0


def _raise(actor: Any) -> None:
    raise RuntimeError("in stopped")


def test_a_stop_in_the_middle_of_a_restart_is_obeyed() -> None:
    world, system = World(), SteppedSystem(START_NS)
    system.start(root(world.spec("a", backoff=Backoff(100.0)), world.spec("b"), strategy=Strategy.REST_FOR_ONE))
    system.ref("root/a").tell(fail())
    run(system, 1)
    assert states(system) == {"root": "running", "root/a": "backoff", "root/b": "stopped"}
    assert system.stop() == 0


# --- deadlines (fault 7) ------------------------------------------------------------------------------------------------


class HangStart(Faults):
    def __init__(self, path: str, generation: int, seconds: float = float("inf")) -> None:
        self.path, self.generation, self.seconds = path, generation, seconds

    def start(self, path: str, generation: int) -> Hang | None:
        return Hang(self.seconds) if (path, generation) == (self.path, self.generation) else None


def test_a_start_that_hangs_is_given_up_at_its_deadline_and_repeated() -> None:
    """Its late `started` changes nothing: two incarnations, of which the first was fenced."""
    world, log = World(), Memory()
    system = SteppedSystem(START_NS, faults=HangStart("root/a", 2, seconds=60.0), log=log)
    system.start(root(world.spec("a", start_within=10.0)))
    system.ref("root/a").tell(fail())
    run(system, 10)
    assert [event[2] for event in log.seen("started", "root/a")] == [1, 3]
    run(system, 60)
    tell_all(system.ref("root/a"), "x")
    run(system)
    assert world.diary[-1] == ("root/a", 3, "note x")
    assert [event[2] for event in log.seen("fenced", "root/a")] == [2]
    assert system.stop() == 0


def test_a_first_start_that_hangs_fails_the_system_in_time() -> None:
    world = World()
    system = SteppedSystem(START_NS, faults=HangStart("root/b", 1))
    with pytest.raises(StartFailed, match=r"root/b: not started within 10.0 s"):
        system.start(root(world.spec("a"), world.spec("b")))
    assert world.of("stopped") == ["a"]
    assert system.clock.now_ns() == START_NS + 10 * SECOND


class HangOn(Faults):
    """The handler of the first note with that text hangs."""

    def __init__(self, text: str, seconds: float = float("inf"), *, done: bool = False) -> None:
        self.text, self.hang, self.done = text, Hang(seconds), done

    def before(self, index: int, path: str, message: Any) -> Hang | None:
        return self._at(message) if not self.done else None

    def after(self, index: int, path: str, message: Any) -> Hang | None:
        return self._at(message) if self.done else None

    def _at(self, message: Any) -> Hang | None:
        if getattr(message, "text", None) != self.text:
            return None
        self.text = "never again"
        return self.hang


def test_a_child_that_does_not_stop_is_abandoned_at_its_deadline_and_the_code_is_4() -> None:
    """The others still stop in order; the stuck one is named in the exit event."""
    world, log = World(), Memory()
    system = SteppedSystem(START_NS, faults=HangOn("hang"), log=log)
    system.start(root(world.spec("a"), world.spec("b", shutdown=5.0, hang_after=1e6), world.spec("c")))
    tell_all(system.ref("root/b"), "hang")
    run(system)
    assert system.stop() == 4
    assert world.of("stopped") == ["c", "a"]
    assert system.clock.now_ns() == START_NS + 5 * SECOND
    assert log.seen("abandoned", "root/b")
    assert "root/b" in log.seen("exit")[0][4]
    assert log.records[0].outcome is Outcome.FENCED


def test_the_systems_own_deadline_ends_a_stop_that_takes_too_long() -> None:
    world = World()
    system = SteppedSystem(START_NS, faults=HangOn("hang"))
    system.start(root(world.spec("a", shutdown=1e6, hang_after=1e6)))
    tell_all(system.ref("root/a"), "hang")
    run(system)
    assert system.stop(deadline_s=30.0) == 4


# --- hangs (fault 6) ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("done", [False, True])
def test_a_hung_actor_is_fenced_and_replaced_and_its_late_return_changes_nothing(done: bool) -> None:
    """Frozen for 100 s with hang_after 30: a new incarnation works on; the old one's late tells are dead letters."""
    world, log = World(), Memory()
    system = SteppedSystem(START_NS, faults=HangOn("hang", 100.0, done=done), log=log)
    world.on_note["root/a"] = lambda actor, message: actor.tell(actor.ref("root/b"), note(message.text)) and None
    system.start(root(world.spec("a"), world.spec("b")))
    tell_all(system.ref("root/a"), "hang", "next")
    run(system, 29)
    assert world.notes("b") == (["hang"] if done else [])
    run(system, 1)
    assert world.notes("b") == (["hang", "next"] if done else ["next"])
    run(system, 100)
    assert world.notes("b") == (["hang", "next"] if done else ["next"])
    late = [record.message.text for record in log.records if record.recipient == "root/b" and record.outcome != 0]
    assert late == ([] if done else ["hang"])
    hung = [record for record in log.records if record.recipient == "root/a" and record.message.text == "hang"]
    assert [(record.outcome, record.attempt) for record in hung] == [(Outcome.FENCED, 1)]
    assert world.of("stopped") == ["a"]  # the old incarnation lets go of its resources when it comes back
    assert system.stop() == 0


def test_a_slow_handler_that_returns_in_time_is_no_hang() -> None:
    world, log = World(), Memory()
    system = SteppedSystem(START_NS, faults=HangOn("slow", 29.0), log=log)
    system.start(root(world.spec("a")))
    tell_all(system.ref("root/a"), "slow", "next")
    run(system, 100)
    assert world.notes("a") == ["slow", "next"]
    assert log.seen("fenced") == []
    assert log.outcomes() == {"OK": 2}


# --- dynamic children, auto shutdown ----------------------------------------------------------------------------------


def test_children_can_be_added_and_removed_while_it_runs() -> None:
    """Start and stop by control message; the address of a stopped child is closed, and opens again with a new one."""
    world, system = World(), SteppedSystem(START_NS)
    system.start(root(name="root"))
    supervisor, ref = system.ref("root"), system.ref("root/x")
    supervisor.tell_control(StartChild(world.spec("x")))
    supervisor.tell_control(StartChild(world.spec("x")))  # refused: it lives
    run(system)
    tell_all(ref, "1")
    run(system)
    supervisor.tell_control(StopChild("x"))
    run(system)
    assert ref.tell(note("2")) is False
    supervisor.tell_control(StartChild(world.spec("x")))
    run(system)
    tell_all(ref, "3")
    run(system)
    assert world.notes("x") == ["1", "3"]
    assert len(world.of("started")) == 2


def test_a_child_stopped_and_wanted_again_at_once_comes_back() -> None:
    for seed in range(30):
        world, system = World(), SteppedSystem(START_NS, seed=seed)
        system.start(root(world.spec("x")))
        system.ref("root").tell_control(StopChild("x"))
        system.ref("root").tell_control(StartChild(world.spec("x")))
        run(system)
        assert states(system)["root/x"] == "running"
        assert len(world.of("started")) == 2


def test_a_dynamic_child_that_cannot_start_is_retried_and_counted() -> None:
    world, system = World(), SteppedSystem(START_NS)
    system.start(root(name="root", intensity=Intensity(2)))
    world.start_faults["root/x"] = [RuntimeError()] * 3
    system.ref("root").tell_control(StartChild(world.spec("x")))
    run(system)
    assert world.of("starting") == ["x"] * 3
    assert system.exit_code == 3


@pytest.mark.parametrize(
    ("auto", "ended_after"),
    [(AutoShutdown.NEVER, None), (AutoShutdown.ANY_SIGNIFICANT, 1), (AutoShutdown.ALL_SIGNIFICANT, 2)],
)
def test_a_run_ends_when_its_significant_children_have(auto: AutoShutdown, ended_after: int | None) -> None:
    """Then the supervisor ends normally, and as the root it ends the process with code 0."""
    world, system = World(), SteppedSystem(START_NS)
    options = {"restart": Restart.TRANSIENT, "significant": True}
    specs = [world.spec("helper"), world.spec("one", **options), world.spec("two", **options)]
    system.start(root(*specs, auto_shutdown=auto))
    for count, name in enumerate(("one", "two"), start=1):
        system.ref(f"root/{name}").tell(Leave(at_ns=0))
        run(system)
        assert system.exit_code == (0 if ended_after is not None and count >= ended_after else None)
    assert system.stop() == 0
    assert world.of("stopped")[-1] == "helper"


def test_a_temporary_run_that_ends_leaves_its_parent_alone() -> None:
    world, system = World(), SteppedSystem(START_NS)
    worker = world.spec("worker", restart=Restart.TRANSIENT, significant=True)
    run_spec = ChildSpec(
        "run", lambda: Supervisor([worker], auto_shutdown=AutoShutdown.ALL_SIGNIFICANT), restart=Restart.TEMPORARY
    )
    system.start(root(world.spec("a")))
    system.ref("root").tell_control(StartChild(run_spec))
    run(system)
    system.ref("root/run/worker").tell(fail())  # transient: restarted
    system.ref("root/run/worker").tell(Leave(at_ns=0))
    run(system)
    assert states(system) == {"root": "running", "root/a": "running", "root/run": "ended", "root/run/worker": "ended"}


def test_data_told_to_a_supervisor_is_refused_and_harms_nobody() -> None:
    world, log = World(), Memory()
    system = SteppedSystem(START_NS, log=log)
    system.start(root(world.spec("a", backoff=AT_ONCE)))
    system.ref("root").tell(note())
    run(system)
    assert log.seen("refused", "root")
    assert system.exit_code is None


def test_impossible_specs_are_refused() -> None:
    world = World()
    with pytest.raises(ValueError, match="one segment"):
        world.spec("a/b")
    with pytest.raises(ValueError, match="never ends by itself"):
        world.spec("a", significant=True)
