"""What actors/kernel/_pykka.py takes for granted about Pykka, so that an upgrade fails here and nowhere else."""

import threading
from collections import deque
from pathlib import Path
from typing import Any

import pykka
import pytest
from pykka._envelope import Envelope


class Ended(Exception):
    pass


class Script:
    """An inbox that hands out what it was given and then raises."""

    def __init__(self) -> None:
        self.items: deque[Any] = deque()
        self.asked_empty = 0

    def put(self, envelope: Any) -> None:
        self.items.append(envelope.message)

    def get(self) -> Envelope[Any]:
        if not self.items:
            raise Ended
        return Envelope(self.items.popleft())

    def empty(self) -> bool:
        self.asked_empty += 1
        return True


class Bare(pykka.Actor):
    def __init__(self) -> None:
        self.before: list[str] = []
        super().__init__()
        self.seen: list[Any] = []

    @staticmethod
    def _create_actor_inbox() -> Script:
        return Script()

    @staticmethod
    def _create_future() -> Any:
        raise AssertionError

    def _start_actor_loop(self) -> None:
        self.started_loop = True

    def on_start(self) -> None:
        self.seen.append("start")

    def on_receive(self, message: Any) -> None:
        self.seen.append(message)
        if message == "stop":
            self.actor_stopped.set()
        if message == "fail":
            raise ValueError


@pytest.fixture
def actor() -> Bare:
    return Bare()


def test_an_actor_is_complete_before_any_loop_and_outside_the_registry(actor: Bare) -> None:
    """We construct incarnations without `start()`; `__init__` makes inbox, stop flag and ref, and registers nothing."""
    assert isinstance(actor.actor_inbox, Script)
    assert isinstance(actor.actor_stopped, threading.Event)
    assert actor._actor_ref.actor_urn == actor.actor_urn
    assert not hasattr(actor, "started_loop")
    assert pykka.ActorRegistry.get_all() == []


def test_start_registers_before_it_starts_the_loop() -> None:
    """Why we do not call it: a thread that cannot start would stay registered."""

    class Registered(Bare):
        def _start_actor_loop(self) -> None:
            assert len(pykka.ActorRegistry.get_all()) == 1
            raise RuntimeError("can't start new thread")

    with pytest.raises(RuntimeError):
        Registered.start()
    assert len(pykka.ActorRegistry.get_all()) == 1
    pykka.ActorRegistry.unregister(pykka.ActorRegistry.get_all()[0])


def test_what_get_raises_leaves_the_loop(actor: Bare) -> None:
    """`get()` is called outside the loop's `try`: Pause passes through, and the loop can be entered again."""
    actor._actor_loop_setup()
    for message in ("one", "two"):
        actor.actor_inbox.put(Envelope(message))
        with pytest.raises(Ended):
            actor._actor_loop_running()
    assert actor.seen == ["start", "one", "two"]


def test_the_stop_flag_ends_the_loop_before_the_next_get(actor: Bare) -> None:
    for message in ("stop", "never"):
        actor.actor_inbox.put(Envelope(message))
    actor._actor_loop_running()
    assert actor.seen == ["stop"]
    assert list(actor.actor_inbox.items) == ["never"]


def test_teardown_takes_nothing_from_an_inbox_that_says_it_is_empty(actor: Bare) -> None:
    actor.actor_inbox.put(Envelope("kept"))
    actor._actor_loop_teardown()
    assert actor.actor_inbox.asked_empty == 1
    assert list(actor.actor_inbox.items) == ["kept"]


def test_every_message_goes_through_handle_receive_of_the_instance(actor: Bare) -> None:
    """We set `_handle_receive` on the instance, past Pykka's tests for proxy calls."""
    got: list[Any] = []
    actor._handle_receive = got.append  # type: ignore[method-assign]
    actor.actor_inbox.put(Envelope("direct"))
    with pytest.raises(Ended):
        actor._actor_loop_running()
    assert (got, actor.seen) == (["direct"], ["start"][:0])


def test_a_reused_envelope_is_read_once_per_message() -> None:
    """Our inbox hands out one envelope again and again: it must have a settable message and no future."""
    envelope: Envelope[Any] = Envelope(None)
    envelope.message = "second"
    assert (envelope.message, envelope.reply_to) == ("second", None)


def test_an_exception_in_on_start_stops_the_actor_and_calls_no_hook() -> None:
    """Hence on_start contains everything itself."""

    class Stillborn(Bare):
        def on_start(self) -> None:
            raise ValueError

        def on_failure(self, *args: Any) -> None:
            raise AssertionError

    actor = Stillborn()
    actor._actor_loop_setup()
    assert actor.actor_stopped.is_set()


def test_a_thread_actor_has_no_handle_on_its_thread_but_takes_ours() -> None:
    """ThreadingActor makes its thread in `_start_actor_loop`, which we replace."""
    assert "thread" not in vars(pykka.ThreadingActor)
    assert "_start_actor_loop" in vars(pykka.ThreadingActor)
    assert "_create_actor_inbox" in vars(pykka.ThreadingActor)


def test_one_module_imports_pykka() -> None:
    root = Path(__file__).parents[2]
    importers = [
        path.relative_to(root).as_posix()
        for package in ("actors", "algo_royale", "db")
        for path in (root / package).rglob("*.py")
        if any(line.split()[:2] in (["import", "pykka"], ["from", "pykka"]) for line in path.read_text().splitlines())
    ]
    assert importers == ["actors/kernel/_pykka.py"]
