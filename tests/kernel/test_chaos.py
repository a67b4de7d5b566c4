"""Crash every handler at every message, under many schedules, and look at the books: nothing lost, nothing twice.

The system under test is a small ledger: three tellers pass deposits, as commands with an id, to one keeper that writes
them into a durable dict (which survives crashes, as a database does) and confirms. A teller repeats what was not
confirmed, when it restarts and by a timer; the keeper knows ids. So the sum must be exact whatever crashes: the kernel
may lose the message that failed, and nothing else.
"""

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.kernel import (
    Actor,
    Backoff,
    ChildSpec,
    Crash,
    CrashAt,
    Faults,
    Hang,
    Intensity,
    Message,
    Outcome,
    Poison,
    Reason,
    Record,
    Restart,
    SteppedSystem,
    Strategy,
    Supervisor,
)
from actors.kernel.control import Control
from kernel_probes import START_NS, Memory, World, fail, root

SECOND = 10**9
TELLERS, EACH = 3, 3


class Deposit(Message, frozen=True):
    number: str
    amount: int


class Confirmed(Message, frozen=True):
    number: str


class Retry(Message, frozen=True):
    pass


class Vault:
    """What a database would hold."""

    def __init__(self) -> None:
        self.booked: dict[str, int] = {}
        self.writes = 0
        self.open = {f"{teller}:{n}": 10 * teller + n for teller in range(TELLERS) for n in range(EACH)}
        self.total = sum(self.open.values())


class Keeper(Actor[Deposit]):
    def __init__(self, vault: Vault) -> None:
        self.vault = vault

    def receive(self, message: Deposit) -> None:
        if message.number not in self.vault.booked:
            self.vault.booked[message.number] = message.amount
            self.vault.writes += 1
        self.tell(self.ref(f"root/bank/tellers/{message.number[0]}"), Confirmed(at_ns=0, number=message.number))


class Teller(Actor[Confirmed | Retry]):
    def __init__(self, vault: Vault) -> None:
        self.vault = vault

    def started(self) -> None:
        self.mine = [number for number in self.vault.open if number[0] == self.path[-1]]
        self.send()

    def send(self) -> None:
        for number in self.mine:
            if number in self.vault.open:
                deposit = Deposit(at_ns=self.now_ns, number=number, amount=self.vault.open[number])
                self.tell(self.ref("root/bank/keeper"), deposit)
        if any(number in self.vault.open for number in self.mine):
            self.later(5.0, Retry(at_ns=self.now_ns), key="retry")

    def receive(self, message: Confirmed | Retry) -> None:
        if isinstance(message, Confirmed):
            self.vault.open.pop(message.number, None)
        else:
            self.send()

    def stopped(self, reason: Reason) -> None:
        self.mine = []


def bank(vault: Vault) -> ChildSpec:
    """root -> bank (rest_for_one) -> keeper, tellers (one_for_one) -> 0, 1, 2."""
    intensity = Intensity(1000)
    backoff = Backoff(0.5, 2.0, 0.2)

    def tellers() -> Supervisor:
        specs = [ChildSpec(str(n), lambda: Teller(vault), backoff=backoff) for n in range(TELLERS)]
        return Supervisor(specs, intensity=intensity)

    def trading() -> Supervisor:
        keeper = ChildSpec("keeper", lambda: Keeper(vault), backoff=backoff)
        return Supervisor(
            [keeper, ChildSpec("tellers", tellers, backoff=backoff)],
            strategy=Strategy.REST_FOR_ONE,
            intensity=intensity,
        )

    return ChildSpec("root", lambda: Supervisor([ChildSpec("bank", trading, backoff=backoff)], intensity=intensity))


def day(seed: int | None, faults: Faults, seconds: float = 600) -> tuple[SteppedSystem, Vault, Memory]:
    vault, log = Vault(), Memory()
    system = SteppedSystem(START_NS, seed=seed, faults=faults, log=log)
    system.start(bank(vault))
    if isinstance(faults, AtRandom):
        faults.armed = True
    system.run_until_idle()
    system.advance_to(START_NS + round(seconds * SECOND))
    system.run_until_idle()
    return system, vault, log


def check_books(system: SteppedSystem, vault: Vault, log: Memory) -> None:
    """The sum is exact, each deposit was written once, every envelope ended once, nobody is left behind."""
    assert vault.open == {}
    assert sum(vault.booked.values()) == vault.total
    assert vault.writes == TELLERS * EACH
    ids = [record.id for record in log.records]
    assert len(ids) == len(set(ids))
    assert Counter(record.outcome for record in log.records) == Counter(record.outcome for record in system.trace)
    assert {str(row["state"]) for row in system.tree()} == {"running"}
    assert all(row["mailbox"] == 0 for row in system.tree())
    assert system.stop() == 0
    ended = Counter(record.id for record in log.records)
    told = {record.cause for record in log.records if record.cause}
    assert told <= set(ended)  # whatever caused something is itself on record


def undisturbed(seed: int | None) -> int:
    system, vault, log = day(seed, Faults())
    count = system.handled_count
    check_books(system, vault, log)
    return count


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_a_crash_at_every_message_loses_nothing(seed: int | None, when: str) -> None:
    """Fault 1: all (actor, message) pairs of the run."""
    for index in range(undisturbed(seed)):
        check_books(*day(seed, CrashAt(index, when)))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("seconds", [1.0, 45.0, 200.0])
def test_a_hang_at_every_message_loses_nothing(when: str, seconds: float) -> None:
    """Fault 6: shorter than hang_after (30 s), just over it, and long after the day went on without it."""
    for index in range(undisturbed(None)):
        check_books(*day(None, CrashAt(index, when, Hang(seconds))))


class AtRandom(Faults):
    """Crashes handlers, starts and supervisors with the given odds, for the first `until` faults."""

    def __init__(self, seed: int, odds: float, until: int = 20) -> None:
        self.draw, self.odds, self.left = random.Random(seed).random, odds, until
        self.armed = False  # a crash in the first start would just be a failed start

    def _maybe(self) -> BaseException | None:
        if self.armed and self.left and self.draw() < self.odds:
            self.left -= 1
            return Crash("random")
        return None

    def before(self, index: int, path: str, message: Any) -> BaseException | None:
        return self._maybe()

    def after(self, index: int, path: str, message: Any) -> BaseException | None:
        return self._maybe()

    def start(self, path: str, generation: int) -> BaseException | None:
        return self._maybe() if generation > 1 else None

    def control(self, path: str, control: Control) -> BaseException | None:
        return self._maybe() if path != "root" else None


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.sampled_from([0.02, 0.1, 0.3]))
def test_random_crashes_of_actors_starts_and_supervisors_lose_nothing(seed: int, odds: float) -> None:
    """Faults 1, 4, 5 at once, also during each other's restarts."""
    check_books(*day(seed, AtRandom(seed, odds)))


@settings(max_examples=15)
@given(st.integers(0, 2**32))
def test_equal_seeds_and_faults_give_equal_days(seed: int) -> None:
    """I6: the whole record, byte for byte."""
    days = [[(*_row(record),) for record in day(seed, AtRandom(seed, 0.2))[2].records] for _ in range(2)]
    assert days[0] == days[1]


def _row(record: Record) -> tuple[Any, ...]:
    return tuple(getattr(record, name) for name in record.__struct_fields__)


def test_restarts_stay_within_intensity_or_escalate() -> None:
    """I7: an actor that always fails is restarted exactly as often as allowed, level by level, then code 3."""
    world, log = World(), Memory()
    world.on_start["root/inner/a"] = lambda actor: (
        actor.tell(actor.ref(actor.path), fail()) and None if actor.generation > 1 else None
    )
    system = SteppedSystem(START_NS, log=log)
    inner = root(world.spec("a"), name="inner", intensity=Intensity(2, 600.0))
    system.start(root(inner, intensity=Intensity(2, 600.0)))
    system.ref("root/inner/a").tell(fail())
    system.run_until_idle()
    assert system.exit_code == 3
    assert len(log.seen("escalated", "root/inner")) == 3  # each time after two restarts of the actor
    assert len(log.seen("started", "root/inner/a")) == 3 * 3
    assert len(log.seen("escalated", "root")) == 1
    assert system.stop() == 3


# --- poison (fault 10) --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_poison", Poison)
def test_a_message_that_always_crashes_is_a_dead_letter_once(on_poison: Poison) -> None:
    """Wrong type, NaN, overflow, whatever: data goes on with the next message, an obligation halts (5)."""
    poisons: list[Any] = [
        "not a message",
        Deposit(at_ns=0, number="9:0", amount=float("nan")),  # type: ignore[arg-type]
        Confirmed(at_ns=0, number="9:9"),
    ]

    class Strict(Actor[Deposit]):
        def receive(self, message: Deposit) -> None:
            if message.amount != message.amount:
                raise ArithmeticError("not a number")

    for poison in poisons:
        system = SteppedSystem(START_NS)
        spec = ChildSpec("strict", Strict, on_poison=on_poison, backoff=Backoff(0.0))
        system.start(ChildSpec("root", lambda spec=spec: Supervisor([spec])))  # type: ignore[misc]
        system.ref("root/strict").tell(poison)
        system.ref("root/strict").tell(Deposit(at_ns=0, number="0:0", amount=1))
        system.run_until_idle()
        halted = on_poison is Poison.HALT
        assert [record.outcome for record in system.trace] == [
            Outcome.FAILED,
            Outcome.DEAD if halted else Outcome.OK,
        ]
        assert system.stop() == (5 if halted else 0)


def test_a_temporary_actor_is_not_brought_back_by_its_siblings_failure() -> None:
    """As in OTP: taken down with the group, never restarted."""
    vault = Vault()
    system = SteppedSystem(START_NS)
    keeper = ChildSpec("keeper", lambda: Keeper(vault), backoff=Backoff(0.0))
    helper = ChildSpec("helper", lambda: Keeper(vault), restart=Restart.TEMPORARY)
    system.start(ChildSpec("root", lambda: Supervisor([keeper, helper], strategy=Strategy.ONE_FOR_ALL)))
    system.ref("root/keeper").tell("poison")
    system.run_until_idle()
    assert {str(row["path"]): row["state"] for row in system.tree()} == {
        "root": "running",
        "root/keeper": "running",
        "root/helper": "ended",
    }
