"""The deterministic system: equal seeds give equal traces, virtual time, faults by index, and no trace of itself left."""

from typing import Any

import pykka
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.kernel import (
    NO_FAULTS,
    Actor,
    Backoff,
    Crash,
    CrashAt,
    Faults,
    Intensity,
    MailboxSpec,
    NotIdle,
    Outcome,
    Overflow,
    Record,
    SteppedSystem,
)
from kernel_probes import START_NS, Note, Remind, World, note, root, tell_all

SECOND = 10**9


def fan_in(seed: int | None, faults: Faults = NO_FAULTS) -> tuple[SteppedSystem, World]:
    """Three senders, each told three numbers, pass them to one receiver."""
    world = World()
    for name in "abc":
        world.on_note[f"root/{name}"] = lambda actor, message: (
            actor.tell(actor.ref("root/end"), note(actor.path[-1] + message.text)) and None
        )
    system = SteppedSystem(START_NS, seed=seed, faults=faults)
    specs = [world.spec(name, backoff=Backoff(1.0, 1.0, 0.2)) for name in ("end", "a", "b", "c")]
    system.start(root(*specs, intensity=Intensity(1000)))
    for number in "123":
        for name in "abc":
            tell_all(system.ref(f"root/{name}"), number)
    system.run_until_idle()
    return system, world


def traced(system: SteppedSystem) -> list[tuple[Any, ...]]:
    return [
        (record.id, record.cause, record.sender, record.recipient, record.handled_ns, record.outcome, record.took_us)
        for record in system.trace
    ]


def test_the_canonical_order_is_the_order_of_telling() -> None:
    """First told, first handled, over all actors."""
    system, world = fan_in(None)
    ids = [record.id for record in system.trace]
    assert ids == sorted(ids)
    assert world.notes("end") == ["a1", "b1", "c1", "a2", "b2", "c2", "a3", "b3", "c3"]


@given(st.integers(0, 2**32))
def test_equal_seeds_give_equal_traces(seed: int) -> None:
    assert traced(fan_in(seed)[0]) == traced(fan_in(seed)[0])


def test_seeds_explore_but_never_break_the_order_of_one_sender() -> None:
    """100 seeds: many interleavings; in each of them every sender's own messages are in order."""
    seen = set()
    for seed in range(100):
        _, world = fan_in(seed)
        order = world.notes("end")
        seen.add(tuple(order))
        for name in "abc":
            assert [text for text in order if text[0] == name] == [f"{name}{n}" for n in "123"]
    assert len(seen) > 90


def test_faults_number_the_messages_as_they_are_handled() -> None:
    """`before` and `after` see 0, 1, 2, .. in handling order, with path and message."""
    calls: list[tuple[str, int, str]] = []

    class Watcher(Faults):
        def before(self, index: int, path: str, message: Any) -> None:
            calls.append(("before", index, path))

        def after(self, index: int, path: str, message: Any) -> None:
            calls.append(("after", index, path))

    system, _ = fan_in(None, Watcher())
    expected = [
        (when, index, record.recipient) for index, record in enumerate(system.trace) for when in ("before", "after")
    ]
    assert calls == expected
    assert system.handled_count == len(system.trace) == 18


@pytest.mark.parametrize(("when", "sent"), [("before", 8), ("after", 9)])
def test_a_crash_before_tells_nothing_and_a_crash_after_has_told_everything(when: str, sent: int) -> None:
    system, world = fan_in(None, CrashAt(0, when))
    assert system.trace[0].outcome is Outcome.FAILED
    assert system.trace[0].detail == "Crash: injected"
    assert world.of("stopped") == ["a"]
    system.advance_to(START_NS + 10 * SECOND)
    system.run_until_idle()
    assert len(world.notes("end")) == sent


def test_crash_carries_any_exception() -> None:
    system, _ = fan_in(None, CrashAt(3, fault=Crash("other")))
    assert [record.detail for record in system.trace if record.outcome is Outcome.FAILED] == ["Crash: other"]


def test_time_moves_only_when_told_to() -> None:
    world, system = World(), SteppedSystem(START_NS)
    system.start(root(world.spec("a")))
    system.ref("root/a").tell(Remind(at_ns=0, delay_s=5, text="x"))
    system.run_until_idle()
    assert system.clock.now_ns() == START_NS
    assert world.notes("a") == []
    assert system.run_until(lambda: world.notes("a") == ["x"])
    assert system.clock.now_ns() == START_NS + 5 * SECOND
    assert not system.run_until(lambda: False)


def test_a_virtual_day_of_seconds_passes_quickly_and_in_order() -> None:
    """An actor that wakes itself every second: 23,400 times in one trading day, each at its own instant."""
    world, instants = World(), list[int]()

    def tick(actor: Actor[Any], _: Note) -> None:
        instants.append(actor.now_ns)
        actor.later(1.0, note())

    world.on_start["root/a"] = lambda actor: actor.later(1.0, note())
    world.on_note["root/a"] = tick
    system = SteppedSystem(START_NS, keep_trace=False)
    system.start(root(world.spec("a")))
    system.advance_to(START_NS + 23_400 * SECOND)
    system.run_until_idle()
    assert instants == [START_NS + n * SECOND for n in range(1, 23_401)]


def test_ingress_into_a_full_block_mailbox_runs_the_actors_to_make_room() -> None:
    world, system = World(), SteppedSystem(START_NS)
    system.start(root(world.spec("a", mailbox=MailboxSpec(2, Overflow.BLOCK))))
    assert all(system.ref("root/a").tell(note(str(n))) for n in range(10))
    system.run_until_idle()
    assert world.notes("a") == [str(n) for n in range(10)]


def test_an_endless_conversation_is_noticed() -> None:
    world, system = World(), SteppedSystem(START_NS, keep_trace=False)
    world.on_note["root/a"] = lambda actor, _: actor.tell(actor.ref("root/a"), note()) and None
    system.start(root(world.spec("a")))
    tell_all(system.ref("root/a"), "go")
    with pytest.raises(NotIdle):
        system.run_until_idle(timeout_s=0.05)


def test_nothing_is_left_in_pykkas_registry() -> None:
    """Many systems, all with restarts."""
    for seed in range(50):
        fan_in(seed, CrashAt(seed % 9))
    assert pykka.ActorRegistry.get_all() == []


def test_the_trace_is_what_the_sink_gets() -> None:
    class Sink:
        records: list[Record] = []  # noqa: RUF012

        def write(self, record: Record) -> None:
            self.records.append(record)

        def event(self, *_: object) -> None: ...

        def close(self) -> None: ...

    world, system = World(), SteppedSystem(START_NS, log=Sink())
    system.start(root(world.spec("a")))
    tell_all(system.ref("root/a"), "1", "2")
    system.run_until_idle()
    assert list(system.trace) == Sink.records
