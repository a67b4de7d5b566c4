"""The backtest coordinator: hands the plan's units to the stage workers in dependency order and keeps count."""

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from actors.kernel import Actor, Ref
from actors.messages import (
    CoordinatorMessage,
    Headline,
    RunStage,
    StageCompleted,
    StageFailed,
    StageWorkerMessage,
    StopAfterRunning,
    WorkerReady,
    WorkerStarting,
)

TRIES_MAX = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedUnit:
    """What the coordinator needs to know of a unit; how it is computed is the worker's business."""

    key: str
    label: str
    stage: str
    depends_on: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class Progress:
    """Counts of a run; `failures` maps a unit's key to what went wrong.

    `news` are the headlines of the units that ended since the call before, computed or reused; a restarted coordinator
    tells those of reused units again, so a watcher keys them by (stage, symbol, strategy, window_id).
    """

    planned: int = 0
    completed: int = 0
    reused: int = 0
    failed: int = 0
    running: tuple[tuple[str, str], ...] = ()  # (stage, label), in plan order
    stage_counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    news: tuple[Headline, ...] = ()
    worker_restarts: int = 0
    stopping: bool = False

    @property
    def done(self) -> int:
        return self.completed + self.reused + self.failed


@dataclass(slots=True)
class _Gate:
    """Units that wait for the same others, and for how many of them still."""

    units: list[str] = field(default_factory=list)
    missing: int = 0


class CoordinatorActor(Actor[CoordinatorMessage]):
    """Runs every unit once its dependencies have ended well; a unit whose input failed fails for that reason.

    A unit whose worker died is tried again, `TRIES_MAX` times in all. Which units were computed by whom leaves no trace
    in the artifacts. `reusable(key)` is false, or true, or the headline of what is there. Ends the system with 0, or with 1
    when a unit failed. A coordinator that was restarted knows from
    `reusable` alone what is done, so its spec must not keep the mailbox: news from before are of workers that are gone.
    """

    def __init__(
        self,
        units: Sequence[PlannedUnit],
        *,
        workers: Mapping[str, Ref[StageWorkerMessage]],
        reusable: Callable[[str], Headline | bool],
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._units = {unit.key: unit for unit in units}
        self._order = [unit.key for unit in units]
        self._workers, self._reusable, self._on_progress = workers, reusable, on_progress
        self._index = {key: index for index, key in enumerate(self._order)}
        behind: dict[
            tuple[str, ...], _Gate
        ] = {}  # many units wait for the same: counted once, so that memory is linear
        for unit in units:
            behind.setdefault(unit.depends_on, _Gate()).units.append(unit.key)
        self._gates: dict[str, list[_Gate]] = {}  # which wait for a unit
        self._ready: list[int] = []
        for needed, gate in behind.items():
            wanted = set(needed) & self._units.keys()
            gate.missing = len(wanted)
            for key in wanted:
                self._gates.setdefault(key, []).append(gate)
            if not wanted:
                self._ready += [self._index[key] for key in gate.units]
        heapq.heapify(self._ready)
        self._ended: set[str] = set()
        self._running: dict[str, str] = {}  # worker -> unit
        self._idle: list[str] = []
        self._generations: dict[str, int] = {}  # worker -> its incarnation that is ready
        self._tries: dict[str, int] = {}
        self._retry: list[str] = []
        self._news: list[Headline] = []
        self.progress = Progress(planned=len(self._units))
        for unit in units:
            done, planned = self.progress.stage_counts.get(unit.stage, (0, 0))
            self.progress.stage_counts[unit.stage] = (done, planned + 1)

    def started(self) -> None:
        self._go_on()

    def observe(self) -> dict[str, object]:
        return {"done": self.progress.done, "planned": self.progress.planned, "running": dict(self._running)}

    def receive(self, message: CoordinatorMessage) -> None:
        match message:
            case WorkerStarting(worker=worker):
                self._lose(worker)
            case WorkerReady(worker=worker, generation=generation):
                self._lose(worker)
                self._generations[worker] = generation
                self._idle.append(worker)
            case StageCompleted(unit=unit, worker=worker, headline=headline) if self._release(worker, unit):
                self.progress.completed += 1
                self._end(unit, headline)
            case StageFailed(unit=unit, worker=worker, error=error) if self._release(worker, unit):
                self._fail(unit, error)
            case StopAfterRunning():
                self.progress.stopping = True
            case _:
                pass  # of a unit that this worker no longer has
        self._go_on()

    def _lose(self, worker: str) -> None:
        """Nothing can be expected of the worker's earlier incarnation; its unit goes to whoever is idle first."""
        lost = self._running.pop(worker, None)
        if lost is not None:
            self.progress.worker_restarts += 1
            self._retry.append(lost)
        if worker in self._idle:
            self._idle.remove(worker)

    def _release(self, worker: str, unit: str) -> bool:
        """Whether the worker had that unit; then it is free."""
        if self._running.get(worker) != unit:
            return False
        del self._running[worker]
        self._idle.append(worker)
        return True

    def _fail(self, unit: str, error: str) -> None:
        self.progress.failed += 1
        self.progress.failures[unit] = error
        self._end(unit)

    def _end(self, unit: str, headline: Headline | None = None) -> None:
        self._ended.add(unit)
        if headline is not None:
            self._news.append(headline)
        for gate in self._gates.pop(unit, ()):
            gate.missing -= 1
            if gate.missing == 0:
                for dependent in gate.units:
                    heapq.heappush(self._ready, self._index[dependent])
        done, planned = self.progress.stage_counts[self._units[unit].stage]
        self.progress.stage_counts[self._units[unit].stage] = (done + 1, planned)

    def _next_unit(self) -> str | None:
        """The first unit in plan order that has to be computed; what is done or cannot be done ends on the way."""
        while self._retry or self._ready:
            key = self._retry.pop(0) if self._retry else self._order[heapq.heappop(self._ready)]
            failed = next((needed for needed in self._units[key].depends_on if needed in self.progress.failures), None)
            if failed is not None:  # an older artifact of the input may still be there: nothing may be built on that
                self._fail(key, f"needs {failed}, which failed")
            elif left := self._reusable(key):
                if key in self._tries:  # its worker wrote it and died before it could say so
                    self.progress.completed += 1
                else:
                    self.progress.reused += 1
                self._end(key, left if isinstance(left, Headline) else None)
            elif self._tries.get(key, 0) >= TRIES_MAX:
                self._fail(key, f"its worker process died {TRIES_MAX} times while computing it")
            else:
                return key
        return None

    def _go_on(self) -> None:
        while self._idle and not self.progress.stopping:
            unit = self._next_unit()
            if unit is None:
                break
            worker = self._idle.pop(0)
            self._tries[unit] = self._tries.get(unit, 0) + 1
            self._running[worker] = unit
            order = RunStage(at_ns=self.now_ns, unit=unit, generation=self._generations[worker])
            self.tell(self._workers[worker], order)
        running = sorted(self._running.values(), key=self._index.__getitem__)
        self.progress.running = tuple((self._units[key].stage, self._units[key].label) for key in running)
        self.progress.news, self._news = tuple(self._news), []
        self._on_progress(self.progress)
        if not self._running and (self.progress.stopping or len(self._ended) == len(self._units)):
            reason = "interrupted" if self.progress.stopping else "all units ended"
            self.stop_system(1 if self.progress.failed else 0, reason)
