"""What an actor may count on, in both systems: addresses, causes, one clock reading, timers, randomness, halting."""

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.kernel import (
    Actor,
    Backoff,
    Ending,
    Halt,
    MailboxSpec,
    Outcome,
    Poison,
    Restart,
    StartFailed,
    SteppedSystem,
    ThreadSystem,
)
from algo_royale.clock import ManualClock
from kernel_probes import START_NS, Forward, Leave, Memory, Note, Question, Remind, World, fail, note, root, tell_all

System = SteppedSystem | ThreadSystem
Make = Callable[..., System]


@pytest.fixture(params=["stepped", "seeded", "threads"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes systems of each kind and stops them in the end."""
    made: list[System] = []

    def build(**options: Any) -> System:
        system: System
        if request.param == "threads":
            system = ThreadSystem(ManualClock(START_NS), **options)
        else:
            system = SteppedSystem(START_NS, **({"seed": 7 if request.param == "seeded" else None} | options))
        made.append(system)
        return system

    yield build
    for system in made:
        system.stop(5.0)


def test_a_ref_outlives_restarts_and_may_be_made_before_its_actor(make: Make) -> None:
    """The queue survives the failure; the failing message is not handled again."""
    world, system = World(), make()
    early = system.ref("root/a")
    assert not early.tell(note("nobody there"))
    system.start(root(world.spec("a")))
    tell_all(early, "1")
    early.tell(fail())
    tell_all(early, "2", "3")
    system.run_until_idle()
    assert world.diary == [
        ("root/a", 1, "starting"),
        ("root/a", 1, "started"),
        ("root/a", 1, "note 1"),
        ("root/a", 1, "stopped"),
        ("root/a", 2, "starting"),
        ("root/a", 2, "started"),
        ("root/a", 2, "note 2"),
        ("root/a", 2, "note 3"),
    ]
    assert [letter.outcome for letter in system.dead_letters] == [Outcome.DEAD, Outcome.FAILED]


def test_messages_carry_who_told_them_and_what_caused_them(make: Make) -> None:
    """ingress -> a -> b: the second names the first as cause, and both share the root's id."""
    world, log = World(), Memory()
    system = make(log=log)
    system.start(root(world.spec("a"), world.spec("b")))
    system.ref("root/a").tell(Forward(at_ns=0, to="root/b", text="x"))
    system.run_until_idle()
    first, second = log.records
    assert (first.sender, first.cause, first.corr) == ("ingress", 0, first.id)
    assert (second.sender, second.gen, second.recipient) == ("root/a", 1, "root/b")
    assert (second.cause, second.corr) == (first.id, first.id)
    assert (second.sent_ns, second.handled_ns, second.outcome) == (START_NS, START_NS, Outcome.OK)


def test_a_ref_used_in_a_handler_tells_in_the_name_of_its_actor(make: Make) -> None:
    """So that a fenced actor cannot pass for ingress."""
    world, log = World(), Memory()
    system = make(log=log)
    world.on_note["root/a"] = lambda actor, _: actor.ref("root/b").tell(note("direct")) and None
    system.start(root(world.spec("a"), world.spec("b")))
    system.ref("root/a").tell(note("go"))
    system.run_until_idle()
    assert [(record.sender, record.cause) for record in log.records] == [
        ("ingress", 0),
        ("root/a", log.records[0].id),
    ]


def test_time_stands_still_in_a_handler() -> None:
    """Even if the clock moves meanwhile: one reading per message."""
    world, clock = World(), ManualClock(START_NS)
    system = ThreadSystem(clock)
    readings: list[int] = []

    def handler(actor: Actor[Any], _: Note) -> None:
        readings.append(actor.now_ns)
        clock.move_to(clock.now_ns() + 5)
        readings.append(actor.now_ns)

    world.on_note["root/a"] = handler
    system.start(root(world.spec("a")))
    tell_all(system.ref("root/a"), "1", "2")
    system.run_until_idle()
    assert readings == [START_NS, START_NS, START_NS + 5, START_NS + 5]
    assert system.stop(5.0) == 0


def test_timers_fire_in_due_order_and_a_key_replaces(make: Make) -> None:
    """`advance_to` works off each instant before the next; equal instants in the order of setting."""
    world, log = World(), Memory()
    system = make(log=log)
    system.start(root(world.spec("a")))
    ref = system.ref("root/a")
    for delay_s, text, key in [(3, "late", None), (1, "replaced", "k"), (2, "kept", "k"), (2, "twin", None)]:
        ref.tell(Remind(at_ns=0, delay_s=delay_s, text=text, key=key))
    system.run_until_idle()
    assert system.next_timer_ns() == START_NS + 2 * 10**9
    system.advance_to(START_NS + 10 * 10**9)
    system.run_until_idle()
    assert world.notes("a") == ["kept", "twin", "late"]
    timers = [record for record in log.records if record.sender == "timer"]
    assert [record.handled_ns - START_NS for record in timers] == [2 * 10**9, 2 * 10**9, 3 * 10**9]
    assert {(record.cause, record.gen) for record in timers} == {(0, 1)}
    assert system.next_timer_ns() is None


def test_timers_of_one_instant_are_all_queued_before_anyone_runs(make: Make) -> None:
    """a's timer handler tells b; b must see its own timer, due at the same instant, first."""
    world = World()
    world.on_start["root/a"] = lambda actor: actor.later(1, Forward(at_ns=0, to="root/b", text="from a"))
    world.on_start["root/b"] = lambda actor: actor.later(1, note("own timer"))
    system = make()
    system.start(root(world.spec("a"), world.spec("b")))
    system.advance_to(START_NS + 10**9)
    system.run_until_idle()
    assert world.notes("b") == ["own timer", "from a"]


def test_a_restart_drops_timers_and_cancel_forgets_one(make: Make) -> None:
    world, system = World(), make()
    system.start(root(world.spec("a")))
    ref = system.ref("root/a")
    ref.tell(Remind(at_ns=0, delay_s=1, text="of the first life"))
    ref.tell(fail())
    system.run_until_idle()
    assert system.next_timer_ns() is None
    world.on_note["root/a"] = lambda actor, _: actor.cancel("k")
    ref.tell(Remind(at_ns=0, delay_s=1, text="cancelled", key="k"))
    ref.tell(note("cancel"))
    system.run_until_idle()
    assert system.next_timer_ns() is None


def test_replacing_a_timer_for_ever_does_not_fill_the_heap() -> None:
    world, system = World(), SteppedSystem(START_NS, keep_trace=False)
    system.start(root(world.spec("a")))
    for _ in range(2000):
        system.ref("root/a").tell(Remind(at_ns=0, delay_s=1, key="k"))
    system.run_until_idle()
    assert len(system.timers._heap) < 200


def test_randomness_depends_on_seed_path_and_generation_only(make: Make) -> None:
    """The same as Python's own generator seeded with that text; a restart draws other numbers."""
    world, system = World(), make(seed=5)
    drawn: list[float] = []
    world.on_note["root/a"] = lambda actor, _: drawn.append(actor.rng.random())
    system.start(root(world.spec("a")))
    ref = system.ref("root/a")
    tell_all(ref, "1")
    ref.tell(fail())
    tell_all(ref, "2")
    system.run_until_idle()
    assert drawn == [random.Random("/".join(("5", "root", "a", str(generation)))).random() for generation in (1, 2)]


def test_halt_stops_everything_with_exit_code_5(make: Make) -> None:
    """And what is queued behind is not handled any more."""
    world, log = World(), Memory()
    system = make(log=log)

    def halt(actor: Actor[Any], _: Note) -> None:
        raise Halt("the ledger does not add up")

    world.on_note["root/a"] = halt
    system.start(root(world.spec("a"), world.spec("b")))
    tell_all(system.ref("root/a"), "1", "2")
    system.run_until_idle()
    assert system.exit_code == 5
    assert system.stop(5.0) == 5
    assert world.notes("a") == ["1"]
    assert world.of("stopped") == ["a", "b"] or world.of("stopped") == ["b", "a"]
    assert log.outcomes() == {"FAILED": 1, "DEAD": 1}
    assert "the ledger does not add up" in log.seen("halted")[0][4]


def test_a_poisoned_obligation_halts(make: Make) -> None:
    world, system = World(), make()
    system.start(root(world.spec("a", on_poison=Poison.HALT)))
    system.ref("root/a").tell(fail("cannot apply this fill"))
    system.run_until_idle()
    assert (system.exit_code, system.stop(5.0)) == (5, 5)
    assert "could not handle Fail: RuntimeError: cannot apply this fill" in system.exit_reason


def test_an_actor_can_stop_the_system_in_good_order(make: Make) -> None:
    world, system = World(), make()
    world.on_note["root/b"] = lambda actor, _: actor.stop_system(0, "feed ended")
    system.start(root(world.spec("a"), world.spec("b"), world.spec("c")))
    assert system.exit_code is None
    system.ref("root/b").tell(note())
    system.run_until_idle()
    assert (system.exit_code, system.exit_reason) == (0, "feed ended")
    assert system.stop(5.0) == 0
    assert world.of("stopped") == ["c", "b", "a"]
    assert {reason.ending for reason in world.reasons} == {Ending.SHUTDOWN}


def test_an_actor_may_stop_the_system_while_it_starts(make: Make) -> None:
    """Then the start has failed, in good order: those who stood are stopped."""
    world, system = World(), make()
    world.on_start["root/b"] = lambda actor: actor.stop_system(0, "the feed is over already")
    with pytest.raises(StartFailed):
        system.start(root(world.spec("a"), world.spec("b"), world.spec("c")))
    assert world.of("stopped") == ["b", "a"]
    assert system.stop(5.0) == 0


def test_the_edge_can_ask_and_observe(make: Make) -> None:
    world, system = World(), make()
    system.start(root(world.spec("a")))
    tell_all(system.ref("root/a"), "1", "2")
    answer = system.ask(system.ref("root/a"), Question(at_ns=0), timeout=5)
    assert isinstance(answer, Note)
    assert answer.text == "3"
    assert system.observe("root/a", 5) == {"count": 3}
    assert all("edge" not in str(row["path"]) for row in system.tree())
    assert not [path for path in system._refs if path.startswith("edge")]  # nothing is left of a question


def test_an_edge_question_that_nobody_answers_times_out(make: Make) -> None:
    world, system = World(), make()
    system.start(root(world.spec("a")))
    with pytest.raises(TimeoutError):
        system.ask(system.ref("root/nobody"), Question(at_ns=0), timeout=0.01)
    with pytest.raises(TimeoutError):
        system.observe("root/nobody", 0.01)
    system.run_until_idle()


def test_actors_do_not_ask() -> None:
    world, system = World(), SteppedSystem(START_NS)
    world.on_note["root/a"] = lambda actor, _: system.ask(actor.ref("root/a"), Question(at_ns=0), 1) and None
    system.start(root(world.spec("a", restart=Restart.TEMPORARY)))
    system.ref("root/a").tell(note())
    system.run_until_idle()
    assert "asks nobody" in system.dead_letters[0].detail


def test_what_cannot_be_delivered_is_on_record(make: Make) -> None:
    """Unknown path, full mailbox, ended actor: tell says False, and a dead letter says why."""
    world, log, told = World(), Memory(), list[bool]()
    system = make(log=log)
    world.on_note["root/a"] = lambda actor, _: told.extend(actor.tell(actor.ref("root/b"), note()) for _ in range(3))
    waits = Backoff(base=100.0)
    system.start(
        root(
            world.spec("a"),
            world.spec("b", mailbox=MailboxSpec(capacity=2), backoff=waits),
            world.spec("c", restart=Restart.TEMPORARY),
        )
    )
    system.ref("root/b").tell(fail())  # now its messages wait for the end of its backoff
    system.ref("root/c").tell(Leave(at_ns=0))
    system.run_until_idle()
    told += [system.ref("root/nobody").tell(note()), system.ref("root/c").tell(note())]
    system.ref("root/a").tell(note())
    system.run_until_idle()
    assert told == [False, False, True, True, False]
    letters = [(letter.recipient, letter.outcome, letter.detail) for letter in system.dead_letters]
    assert letters == [
        ("root/b", Outcome.FAILED, "RuntimeError: asked to fail"),
        ("root/nobody", Outcome.DEAD, "no actor at this path"),
        ("root/c", Outcome.DEAD, "terminated"),
        ("root/b", Outcome.OVERFLOW, "mailbox full (2)"),
    ]
    assert [record for record in log.records if record.outcome is not Outcome.OK] == list(system.dead_letters)
    assert system.dead_letter_count == 4


TYPED = """
from actors.kernel import Actor, Message, Ref

class Signal(Message, frozen=True):
    side: str
class Ack(Message, frozen=True):
    order: str
class Bar(Message, frozen=True):
    close: float
PortfolioMessage = Signal | Ack

class Portfolio(Actor[PortfolioMessage]):
    def receive(self, message: PortfolioMessage) -> None: ...

class Wrong(Actor[PortfolioMessage]):
    def receive(self, message: Signal) -> None: ...      # line 16: narrower than its protocol

def use(actor: Portfolio, ref: Ref[PortfolioMessage]) -> None:
    ref.tell(Ack(at_ns=0, order="x"))
    ref.tell(Bar(at_ns=0, close=1.0))                    # line 20
    actor.tell(ref, Signal(at_ns=0, side="buy"))
    actor.later(1.0, Bar(at_ns=0, close=1.0))            # line 22
    narrow: Ref[Ack] = ref
    wide: Ref[Signal | Ack | Bar] = ref                  # line 24
"""


def test_a_wrong_message_is_a_type_error(tmp_path: Path) -> None:
    """mypy strict finds exactly the four planted errors: one union per actor is its protocol."""
    snippet = tmp_path / "snippet.py"
    snippet.write_text(TYPED)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(snippet)]
    checked = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    errors = [int(line.split(":")[1]) for line in checked.stdout.splitlines() if ": error:" in line]
    assert errors == [16, 20, 22, 24], checked.stdout + checked.stderr


def test_backoff_uses_the_injected_clock(make: Make) -> None:
    """After a failure nothing happens until time moves; then the queue is worked off."""
    world, system = World(), make()
    system.start(root(world.spec("a", backoff=Backoff(base=4.0, jitter=0.0))))
    system.ref("root/a").tell(fail())
    tell_all(system.ref("root/a"), "waited")
    system.run_until_idle()
    assert system.next_timer_ns() == START_NS + 4 * 10**9
    assert world.notes("a") == []
    system.advance_to(START_NS + 4 * 10**9)
    system.run_until_idle()
    assert world.notes("a") == ["waited"]
