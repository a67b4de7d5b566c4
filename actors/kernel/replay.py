"""Replay: an actor is a function of its inbox, `now_ns` and `rng`, so its recorded inbox makes it send what is recorded.

Each recorded actor is built anew, generation by generation, in a runtime of one actor that has no threads, no clock of
its own and no other actors: it is started at the recorded time, fed its recorded messages in the recorded order with
the recorded `now_ns`, and stopped where it was stopped. What it tells is captured and compared with the record,
message by message that caused it: recipient, type and body.

What is not compared or fed, and why:

* Timers that it sets are not sends; the timer messages that reached it are part of its inbox and are fed like others.
* Control messages (stop, observe, starting children) are not recorded. Supervisors are therefore not replayed.
* A message that failed in the record is fed as well. If the actor raises again, what it sent before that must be equal
  (`reproduced`). If it does not (a fault was injected, or came from outside), what was recorded must be the beginning of
  what it sends now (`not_reproduced`). The same holds for a message whose handler hung. Either way that generation ends.
* In a run that was killed or still goes on, messages that were told but not yet handled are not in the record: there,
  sends without a counterpart count as `unrecorded` and are no difference.
* `tell` returns what it returned then, as far as the record shows it.
* A log with gaps lacks messages; its replay is compared all the same but is not `exact`.

An actor that reads something else than its inbox (a ledger file, artifacts) needs a factory that gives it the same
things to read. It never talks to a broker: the edges get no factory. Actors that are built with refs get them from the
runtime that they are replayed in:

    runtime = ReplayRuntime()
    report = replay(reader, factories(trader, runtime), runtime=runtime)
"""

import fnmatch
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from actors.kernel.actor import Actor, Zones
from actors.kernel.control import Ending, Reason
from actors.kernel.journal import Entry, Event, LogReader, Unknown, decode, encode
from actors.kernel.record import Outcome, Record
from actors.kernel.ref import Ref, running
from algo_royale.clock import ManualClock

if TYPE_CHECKING:
    from actors.kernel.incarnation import Incarnation
    from actors.kernel.mailbox import Mailbox
    from actors.kernel.runtime import Runtime

Factory = Callable[[], Actor[Any]]
DIFFERENCES_KEPT = 10
_ENDS = {
    "failed": Ending.FAILED, "hung": Ending.HUNG, "vanished": Ending.VANISHED, "fenced": Ending.FENCED,
    "abandoned": Ending.FENCED, "stopped": Ending.SHUTDOWN,
}  # fmt: skip
_ENDINGS = {ending.value: ending for ending in Ending}
_IN_STOPPED = "in stopped:"  # how the kernel marks a `failed` event of that hook
_CUT_SHORT = (Ending.HUNG, Ending.VANISHED, Ending.FENCED, Ending.START_FAILED)


@dataclass(frozen=True, slots=True)
class Difference:
    """One place where the replay left the record: in which generation, while handling what, and how."""

    path: str
    generation: int
    during: str  # "started/stopped" or "#12 BarClosed"
    what: str

    def __str__(self) -> str:
        return f"{self.path} generation {self.generation}, {self.during}: {self.what}"


@dataclass(slots=True)
class ActorReplay:
    """How one actor's replay went. `differences` holds the first few of `difference_count`."""

    path: str
    generations: int = 0
    handled: int = 0
    sent: int = 0
    unrecorded: int = 0
    reproduced: int = 0
    not_reproduced: int = 0
    difference_count: int = 0
    differences: list[Difference] = field(default_factory=list)
    state: Mapping[str, object] = field(default_factory=dict)  # `observe()` of the last generation at the end

    def __str__(self) -> str:
        verdict = "as recorded" if not self.difference_count else f"{self.difference_count} differences"
        extra = "".join(
            f", {count} {name}"
            for name, count in (
                ("unrecorded", self.unrecorded),
                ("failures reproduced", self.reproduced),
                ("failures not reproduced", self.not_reproduced),
            )
            if count
        )
        lives = "" if self.generations == 1 else f" in {self.generations} generations"
        return f"{self.path}: {self.handled} messages{lives}, {self.sent} sent{extra}: {verdict}"


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """Every replayed actor, and the paths that handled messages but have no factory (edges) or were not asked for."""

    run: str
    actors: tuple[ActorReplay, ...]
    skipped: tuple[str, ...]
    gaps: int

    @property
    def same(self) -> bool:
        """Whether every actor sent exactly what is recorded."""
        return not any(actor.difference_count for actor in self.actors)

    @property
    def exact(self) -> bool:
        """Whether the log was complete, so that `same` says something about all of the run."""
        return not self.gaps

    def lines(self) -> list[str]:
        """The report for people."""
        lines = []
        for actor in self.actors:
            lines.append(str(actor))
            lines.extend(f"  {difference}" for difference in actor.differences)
        lines.extend(f"{path}: not replayed" for path in self.skipped)
        if self.gaps:
            lines.append(f"the log lacks {self.gaps} records: not exact")
        return lines


def replay(
    reader: LogReader,
    factories: Mapping[str, Factory],
    only: str | None = None,
    *,
    runtime: "ReplayRuntime | None" = None,
    until_ns: int | None = None,
) -> ReplayReport:
    """Replay every recorded actor that has a factory and matches `only` (a pattern as in `LogReader.paths`).

    `factories` maps paths, or globs of paths, to what builds a fresh actor, called once per generation in order; the
    first that matches is taken. Messages handled after `until_ns` are left out.
    """
    wanted = set(reader.paths(only))
    actors, skipped = [], []
    for path in reader.recipients():
        factory = factories.get(path) or next(
            (make for glob, make in factories.items() if fnmatch.fnmatchcase(path, glob)), None
        )
        if factory is None or path not in wanted:
            skipped.append(path)
        else:
            actors.append(replay_actor(reader, path, factory, runtime=runtime, until_ns=until_ns))
    return ReplayReport(reader.run().id, tuple(actors), tuple(skipped), reader.gaps())


def replay_actor(
    reader: LogReader,
    path: str,
    factory: Factory,
    *,
    runtime: "ReplayRuntime | None" = None,
    until_ns: int | None = None,
) -> ActorReplay:
    """Replay one actor through all its recorded generations."""
    run, runtime = reader.run(), runtime or ReplayRuntime()
    result = ActorReplay(path)
    sends: dict[tuple[int, int], list[Entry]] = defaultdict(list)
    for entry in reader.sent_by(path):
        if entry.outcome is not Outcome.FENCED or entry.attempt:  # else told after it had been given up: never sent
            sends[entry.gen, entry.cause].append(entry)
    lives: dict[int, _Life] = defaultdict(_Life)
    for item in reader.inbox(path):
        lives[item.attempt if isinstance(item, Entry) else item.gen].add(item)
    for generation in sorted(lives):
        life = lives[generation]
        began_ns = life.began_ns()
        if generation < 1 or (until_ns is not None and began_ns > until_ns):
            continue
        if life.over_before_it_began() and not sends.get((generation, 0)):
            continue
        result.generations += 1
        runtime.begin(run.seed, began_ns)
        incarnation = _Incarnation(runtime, result, generation, sends, complete=run.ended_ns is not None)
        incarnation.live(factory, life, until_ns)
    return result


class _Life:
    """What the log has of one incarnation."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.events: list[Event] = []

    def add(self, item: Entry | Event) -> None:
        self.entries.append(item) if isinstance(item, Entry) else self.events.append(item)

    @property
    def started(self) -> bool:
        return any(event.what == "started" for event in self.events)

    def over_before_it_began(self) -> bool:
        """Whether the log has no hook of it: only events of the address (refused, terminated), or a thread that could
        not start."""
        return not self.started and not self.entries and not any(event.what == "failed" for event in self.events)

    def began_ns(self) -> int:
        for event in self.events:
            if event.what == "started":
                return event.at_ns
        first = [event.at_ns for event in self.events] or [entry.handled_ns for entry in self.entries]
        return first[0] if first else 0

    def end(self) -> tuple[int, Reason] | None:
        """When and why it ended; None if the log does not say so (killed, or still alive)."""
        for event in self.events:
            if event.what not in _ENDS or event.detail.startswith(_IN_STOPPED):
                continue
            ending, detail = _ENDS[event.what], event.detail.rsplit("\n", 1)[-1]
            if event.what == "failed" and not self.started:
                ending = Ending.START_FAILED
            if event.what == "stopped" and detail in _ENDINGS:
                ending, detail = _ENDINGS[detail], ""
            return event.at_ns, Reason(ending, detail)
        return None

    def failed_in_stopped(self) -> bool:
        return any(event.detail.startswith(_IN_STOPPED) for event in self.events)


class ReplayRuntime:
    """A system of one: refs lead into a capturing mailbox, time is what the record says, nothing else happens.

    Has the parts of `Runtime`, `Mailbox` and `Facade` that an actor and its refs use.
    """

    closed = False

    def __init__(self) -> None:
        self.no_mailbox = self
        self.answers: Callable[[Record, int], bool] = lambda record, place: True
        self._ids = 0
        self.begin(0, 0)

    def begin(self, seed: int, now_ns: int) -> None:
        """Another incarnation is about to live, from `now_ns` on."""
        self.seed, self.clock = seed, ManualClock(now_ns)
        self.captured: list[Record] = []

    def next_id(self) -> int:
        self._ids += 1
        return self._ids

    def now_ns(self) -> int:
        return self.clock.now_ns()

    def ref(self, path: str) -> Ref[Any]:
        return Ref(cast("Runtime", self), path)

    def tree(self) -> list[dict[str, object]]:
        return []

    def mailbox_at(self, path: str) -> "Mailbox":
        return cast("Mailbox", self)

    def put(self, record: Record) -> bool:
        self.captured.append(record)
        return self.answers(record, len(self.captured) - 1)

    def send_control(self, path: str, control: object) -> None:
        """Control messages are not recorded."""

    def event(self, path: str, generation: int, what: str, detail: str = "") -> None:
        """Events are the kernel's, not the actor's."""

    def request_stop(self, exit_code: int, reason: str) -> None:
        """The recorded inbox already shows how the system stopped."""


class _Incarnation:
    """One recorded life of an actor, lived again. Has the parts of `Incarnation` that an actor uses."""

    fenced = False

    def __init__(
        self,
        runtime: ReplayRuntime,
        result: ActorReplay,
        generation: int,
        sends: Mapping[tuple[int, int], Sequence[Entry]],
        *,
        complete: bool,
    ) -> None:
        self.runtime, self.zones = runtime, Zones()
        self._result, self._generation, self._sends, self._complete = result, generation, sends, complete
        self._torn = False  # a fault from outside cut it short: its last state is not known
        self.actor: Actor[Any]

    # -- what the actor calls

    def next_id(self) -> int:
        return self.runtime.next_id()

    def set_timer(self, when_ns: int, message: object, key: str | None) -> None:
        """Timer messages come from the record."""

    def cancel_timer(self, key: str) -> None:
        """Timer messages come from the record."""

    def stop_self(self, reason: Reason) -> None:
        """The end comes from the record."""

    def finish(self, reason: Reason) -> None:
        """The end comes from the record."""

    # -- the life

    def live(self, factory: Factory, life: _Life, until_ns: int | None) -> None:
        entries = [entry for entry in life.entries if until_ns is None or entry.handled_ns <= until_ns]
        raised = self._attempt(lambda: self._build(factory))
        if raised is not None:
            if life.started:
                self._differ("the factory", f"raised {_shown(raised)}")
            self._result.reproduced += not life.started
            return
        told = self._start(life)
        if told is not None:
            for entry in entries if life.started else ():
                if not self._feed(entry):
                    break
            self._result.state = self.actor.observe()
        self._stop(life, told, whole=len(entries) == len(life.entries))

    def _build(self, factory: Factory) -> None:
        actor = self.actor = factory()
        actor.path, actor.generation = self._result.path, self._generation
        actor.now_ns, actor.system = self.runtime.now_ns(), self.runtime
        actor._incarnation = cast("Incarnation", self)

    def _start(self, life: _Life) -> list[Record] | None:
        """Run `started`; what it told, or None if it failed where the record did not."""
        raised, told = self._run(0, 0, life.began_ns(), self.actor.started)
        if raised is not None and life.started:
            self._differ("started", f"raised {_shown(raised)}")
            return None
        if not life.started:
            self._result.reproduced += raised is not None
            self._result.not_reproduced += raised is None
            self._torn = raised is None
        return told

    def _feed(self, entry: Entry) -> bool:
        """Handle one recorded message and compare; False if this generation cannot go on."""
        message = entry.message
        during = f"handling #{entry.id} {entry.kind}"
        if isinstance(message, Unknown):
            self._differ(during, "its body does not decode: the class is unknown or has changed")
            return False
        recorded = self._sends.get((self._generation, entry.id), ())
        # What it sent has the handler's `now_ns`; the message's own time is later if the handler hung.
        now_ns = recorded[0].sent_ns if recorded else entry.handled_ns
        raised, sent = self._run(entry.id, entry.corr, now_ns, lambda: self.actor.receive(message))
        self._result.handled += 1
        if entry.outcome is Outcome.OK:
            if raised is not None:
                self._differ(during, f"raised {_shown(raised)}, but did not in the record")
                return False
            self._compare(during, recorded, sent, prefix=False)
            return True
        reproduced = entry.outcome is Outcome.FAILED and raised is not None
        self._result.reproduced += reproduced
        self._result.not_reproduced += not reproduced
        self._torn = not reproduced
        self._compare(during, recorded, sent, prefix=not reproduced)
        return False

    def _stop(self, life: _Life, told_at_start: list[Record] | None, *, whole: bool) -> None:
        """Run `stopped` (also where the log has no end: resources are let go), then compare both edges of the life."""
        end = life.end()
        at_ns, reason = end or (self.runtime.now_ns(), Reason(Ending.SHUTDOWN, "the log ends here"))
        recorded = self._sends.get((self._generation, 0), ())
        if reason.ending is Ending.FAILED:
            at_ns = self.runtime.now_ns()  # the kernel reads no clock between a failure and `stopped`
        elif recorded:
            at_ns = max(entry.sent_ns for entry in recorded)  # what `stopped` saw; the event's time is a little later
        raised, told_at_end = self._run(0, 0, at_ns, lambda: self.actor.stopped(reason))
        if told_at_start is None or not whole:
            return
        if self._torn:
            told_at_end = []  # nobody knows what state `stopped` saw
        told = told_at_start + (told_at_end if end is not None else [])
        if self._torn:
            recorded = recorded[: len(told)]
        self._compare("started/stopped", recorded, told, prefix=reason.ending in _CUT_SHORT)
        if raised is not None and not life.failed_in_stopped():
            self._differ("stopped", f"raised {_shown(raised)}")

    def _run(
        self, cause: int, corr: int, now_ns: int, hook: Callable[[], None]
    ) -> tuple[BaseException | None, list[Record]]:
        """Call one hook at one instant; what it raised and what it told."""
        actor, runtime = self.actor, self.runtime
        runtime.clock.move_to(now_ns)
        actor.now_ns, actor._cause, actor._corr = now_ns, cause, corr
        runtime.captured = []
        recorded = self._sends.get((self._generation, cause), ())
        runtime.answers = lambda record, place: _answer(recorded, record, place)
        before, running.incarnation = running.incarnation, self
        try:
            raised = self._attempt(hook)
        finally:
            running.incarnation = before
        return raised, runtime.captured

    @staticmethod
    def _attempt(step: Callable[[], None]) -> BaseException | None:
        try:
            step()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever an actor raises is part of what is compared
            return error
        return None

    # -- the comparison

    def _compare(self, during: str, recorded: Sequence[Entry], sent: Sequence[Record], *, prefix: bool) -> None:
        """Equal one by one. `prefix`: the record may end early (the handler was cut short)."""
        self._result.sent += len(sent)
        place = 0
        for record in sent:
            if place < len(recorded) and (found := _unlike(recorded[place], record)) is None:
                place += 1
                continue
            if not self._complete:
                self._result.unrecorded += 1
                continue
            if place == len(recorded):
                if not prefix:
                    self._differ(during, f"sent one more: {_told(record)}")
                return
            self._differ(during, f"send {place + 1}: {found}")
            return
        if place < len(recorded):
            missing = recorded[place]
            self._differ(during, f"did not send {missing.kind} to {missing.recipient} (recorded as #{missing.id})")

    def _differ(self, during: str, what: str) -> None:
        result = self._result
        result.difference_count += 1
        if len(result.differences) < DIFFERENCES_KEPT:
            result.differences.append(Difference(result.path, self._generation, during, what))


def _answer(recorded: Sequence[Entry], record: Record, place: int) -> bool:
    """What `tell` returned when this was recorded."""
    if place >= len(recorded) or recorded[place].recipient != record.recipient:
        return True
    entry = recorded[place]
    if entry.attempt or entry.outcome in (Outcome.OK, Outcome.FAILED, Outcome.DISCARDED, Outcome.CONFLATED):
        return True
    if entry.outcome is Outcome.OVERFLOW:
        return not entry.detail.startswith("mailbox full")  # else it was queued, and dropped for a newer one later
    return False


def _unlike(entry: Entry, record: Record) -> str | None:
    """How what was told differs from what is recorded, in words; None if it does not."""
    kind, body = type(record.message).__name__, encode(record.message)
    if (entry.recipient, entry.kind) != (record.recipient, kind):
        return f"recorded {entry.kind} to {entry.recipient}, replayed {kind} to {record.recipient}"
    if entry.body == body:
        return None
    then, now = entry.message, decode(body, kind)
    if encode(then) == encode(now):
        return None  # an int where a float is declared: the same message, written in two ways
    fields = [
        f"{name} {_field(then, name)} -> {_field(now, name)}"
        for name in _names(then) or _names(now)
        if encode(_value(then, name)) != encode(_value(now, name))
    ]
    return f"{kind} to {entry.recipient}: recorded -> replayed {', '.join(fields) or 'bodies differ'}"


def _names(message: object) -> Iterable[str]:
    if isinstance(message, Unknown):
        return message.fields if isinstance(message.fields, dict) else ()
    return getattr(message, "__struct_fields__", ())


def _value(message: object, name: str) -> object:
    if isinstance(message, Unknown):
        return message.fields.get(name) if isinstance(message.fields, dict) else None
    return getattr(message, name, None)


def _field(message: object, name: str) -> str:
    text = repr(_value(message, name))
    return text if len(text) <= 80 else text[:77] + "..."


def _told(record: Record) -> str:
    text = repr(record.message)
    return f"{text if len(text) <= 160 else text[:157] + '...'} to {record.recipient}"


def _shown(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}"
