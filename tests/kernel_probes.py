"""Actors and sinks for tests of the kernel. A probe does what its messages say and remembers what it saw."""

import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

from actors.kernel import Actor, Backoff, ChildSpec, Message, Reason, Record, Ref, Supervisor
from actors.kernel.spec import AutoShutdown, Intensity, Strategy

AT_ONCE = Backoff(base=0.0)
START_NS = 1_600_000_000 * 10**9


class Note(Message, frozen=True):
    """Remember it."""

    text: str = ""


class Fail(Message, frozen=True):
    """Raise."""

    text: str = "asked to fail"


class Leave(Message, frozen=True):
    """End normally."""


class Forward(Message, frozen=True):
    """Tell a note to `to`."""

    to: str
    text: str = ""


class Remind(Message, frozen=True):
    """Set a timer for a note."""

    delay_s: float
    text: str = ""
    key: str | None = None


class Question(Message, frozen=True):
    """Answer with a note."""

    reply_to: str = ""


ProbeMessage = Note | Fail | Leave | Forward | Remind | Question


class World:
    """What probes share with a test: a diary of (path, generation, what) in the order of happening."""

    def __init__(self) -> None:
        self.diary: list[tuple[str, int, str]] = []
        self.start_faults: dict[str, list[BaseException]] = defaultdict(list)
        self.on_note: dict[str, Callable[[Actor[Any], Note], None]] = {}
        self.on_start: dict[str, Callable[[Actor[Any]], None]] = {}
        self.on_stop: dict[str, Callable[[Actor[Any]], None]] = {}
        self.reasons: list[Reason] = []

    def of(self, what: str) -> list[str]:
        """Last path segments that did `what`, in order."""
        return [path.rsplit("/", 1)[-1] for path, _, done in self.diary if done == what]

    def notes(self, name: str) -> list[str]:
        """Texts that the probe of that name noted, over all its lives."""
        return [done[5:] for path, _, done in self.diary if path.endswith(name) and done.startswith("note ")]

    def probe(self) -> "Probe":
        return Probe(self)

    def spec(self, name: str, **options: Any) -> ChildSpec:
        return ChildSpec(name, self.probe, **({"backoff": AT_ONCE} | options))


class Probe(Actor[ProbeMessage]):
    def __init__(self, world: World) -> None:
        self.world = world
        self.count = 0

    def say(self, what: str) -> None:
        self.world.diary.append((self.path, self.generation, what))

    def started(self) -> None:
        self.say("starting")
        faults = self.world.start_faults[self.path]
        if faults:
            raise faults.pop(0)
        self.world.on_start.get(self.path, lambda actor: None)(self)
        self.say("started")

    def receive(self, message: ProbeMessage) -> None:
        self.count += 1
        match message:
            case Note(text=text):
                self.say(f"note {text}")
                self.world.on_note.get(self.path, lambda actor, note: None)(self, message)
            case Fail(text=text):
                raise RuntimeError(text)
            case Leave():
                self.stop()
            case Forward(to=to, text=text):
                self.tell(self.ref(to), Note(at_ns=self.now_ns, text=text))
            case Remind(delay_s=delay_s, text=text, key=key):
                self.later(delay_s, Note(at_ns=self.now_ns, text=text), key)
            case Question(reply_to=reply_to):
                self.tell(self.ref(reply_to), Note(at_ns=self.now_ns, text=f"{self.count}"))

    def stopped(self, reason: Reason) -> None:
        self.say("stopped")
        self.world.reasons.append(reason)
        self.world.on_stop.get(self.path, lambda actor: None)(self)

    def observe(self) -> dict[str, object]:
        return {"count": self.count}


class Memory:
    """A sink that keeps everything, and lets a test wait for an event instead of sleeping."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.events: list[tuple[int, str, int, str, str]] = []
        self.closed = 0
        self._news = threading.Condition()

    def write(self, record: Record) -> None:
        with self._news:
            self.records.append(record)
            self._news.notify_all()

    def event(self, at_ns: int, path: str, gen: int, what: str, detail: str) -> None:
        with self._news:
            self.events.append((at_ns, path, gen, what, detail))
            self._news.notify_all()

    def close(self) -> None:
        self.closed += 1

    def wait_for(self, what: str, path: str = "", times: int = 1, timeout_s: float = 10.0) -> None:
        """Until `times` events `what` of `path` have come."""
        with self._news:
            came = self._news.wait_for(lambda: len(self.seen(what, path)) >= times, timeout_s)
        assert came, f"no {what} of {path or 'anyone'} in {self.events}"

    def seen(self, what: str, path: str = "") -> list[tuple[int, str, int, str, str]]:
        return [event for event in self.events if event[3] == what and path in ("", event[1])]

    def outcomes(self) -> Counter[str]:
        return Counter(record.outcome.name for record in self.records)


def root(
    *specs: ChildSpec,
    strategy: Strategy = Strategy.ONE_FOR_ONE,
    intensity: Intensity = Intensity(),  # noqa: B008 - frozen
    auto_shutdown: AutoShutdown = AutoShutdown.NEVER,
    name: str = "root",
    **options: Any,
) -> ChildSpec:
    """A supervisor of `specs`."""
    return ChildSpec(
        name,
        lambda: Supervisor(specs, strategy=strategy, intensity=intensity, auto_shutdown=auto_shutdown),
        **({"backoff": AT_ONCE} | options),
    )


def note(text: str = "") -> Note:
    return Note(at_ns=0, text=text)


def fail(text: str = "asked to fail") -> Fail:
    return Fail(at_ns=0, text=text)


def tell_all(ref: Ref[Any], *texts: str) -> None:
    for text in texts:
        ref.tell(note(text))
