"""The backtest's coordinator and workers on the stepped system: whoever crashes when, every unit ends exactly once."""

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from actors.backtest import TRIES_MAX, PlannedUnit, Progress
from actors.kernel import NO_FAULTS, Crash, Faults, StartFailed, SteppedSystem
from actors.kernel.record import Outcome
from actors.messages import Headline, RunStage, StopAfterRunning
from actors.stage_worker import OnAnswer, OnExit, OnReady
from algo_royale.app.backtest import COORDINATOR, WORKERS, backtest_tree


def units() -> list[PlannedUnit]:
    """Six searches, a judgement over each half of them, and a choice: keys tell the stage and the place."""
    made = [PlannedUnit(key=f"s{i}", label=f"search {i}", stage="search", depends_on=()) for i in range(6)]
    made += [
        PlannedUnit(
            key=f"j{i}", label=f"judge {i}", stage="judge", depends_on=tuple(f"s{k}" for k in range(3 * i, 3 * i + 3))
        )
        for i in range(2)
    ]
    return [*made, PlannedUnit(key="c", label="choose", stage="choose", depends_on=("j0", "j1"))]


KEYS = {unit.key for unit in units()}


def headline(unit: str) -> Headline:
    return Headline(
        stage="search", symbol=unit, strategy="", window_id="", objective="sharpe_ratio", in_sample=1.0,
        out_of_sample=None, viable=None, score=None,
    )  # fmt: skip


class Disk:
    """What the artifacts folder is to the real thing: the only thing that survives everybody."""

    def __init__(self, done: set[str], failing: set[str], killing: dict[str, int]) -> None:
        self.done, self.failing, self.killing = done, failing, killing
        self.computed: list[str] = []
        self.wrong: list[str] = []
        self.live: dict[int, InlineCompute] = {}
        self.pids = 0
        self.waiting: range | tuple[int, ...] = ()  # children that find no place to run


class InlineCompute:
    """Computes at once. Its answer goes the way of the real one: by an edge, into the worker's mailbox."""

    def __init__(self, disk: Disk, on_ready: OnReady, on_answer: OnAnswer, on_exit: OnExit) -> None:
        self._disk, self._on_answer, self._on_exit = disk, on_answer, on_exit
        disk.pids += 1
        self.pid = disk.pids
        disk.live[self.pid] = self
        if disk.pids not in disk.waiting:
            on_ready(self.pid)

    def submit(self, unit: str) -> None:
        missing = [n for n in next(u for u in units() if u.key == unit).depends_on if n not in self._disk.done]
        if missing or unit in self._disk.done:  # an assertion here would be one more crash to recover from
            self._disk.wrong.append(f"{unit} again, or before {missing}")
        if self.pid not in self._disk.live:
            return  # a pipe that leads nowhere
        self._disk.computed.append(unit)
        if self._disk.killing.get(unit, 0) > 0:
            self._disk.killing[unit] -= 1
            self.kill()
        elif unit in self._disk.failing:
            self._on_answer(unit, "cannot", 0.1, None)
        else:
            self._disk.done.add(unit)
            self._on_answer(unit, None, 0.1, headline(unit))

    def kill(self) -> None:
        if self.pid in self._disk.live:
            del self._disk.live[self.pid]
            self._on_exit(-9)


class CrashesAt(Faults):
    """Crash whoever handles these messages, before or after its handler; the coordinator as often as it may be restarted."""

    def __init__(self, where: dict[int, str]) -> None:
        self._where = where
        self.hit: list[str] = []

    def _crash(self, index: int, path: str, when: str) -> Crash | None:
        if self._where.get(index) != when or (path == COORDINATOR and self.hit.count(path) == 3):
            return None
        self.hit.append(path)
        return Crash(f"{when} {index}")

    def before(self, index: int, path: str, message: Any) -> Crash | None:
        return self._crash(index, path, "before")

    def after(self, index: int, path: str, message: Any) -> Crash | None:
        return self._crash(index, path, "after")


class Run:
    """One backtest on the stepped system, over `disk`."""

    def __init__(self, disk: Disk, *, workers: int = 2, seed: int | None = None, faults: Faults = NO_FAULTS) -> None:
        self.disk, self.progress = disk, Progress()
        self.system = SteppedSystem(0, seed=seed, faults=faults)
        self.on_progress: Callable[[Progress], None] = lambda progress: None
        self.spec = backtest_tree(
            units(), workers=workers, compute=lambda name: partial(InlineCompute, disk),
            reusable=lambda key: key in disk.done and headline(key), ref=self.system.ref, on_progress=self._progressed, unit_timeout_s=60.0,
        )  # fmt: skip

    def _progressed(self, progress: Progress) -> None:
        self.progress = progress
        self.on_progress(progress)

    def __call__(self) -> int:
        """The exit code; fails if the run stands still before its end."""
        try:
            self.system.start(self.spec)
        except StartFailed:
            assert self.progress.done == self.progress.planned, "the end may come before the last worker stands"
        assert self.system.run_until(lambda: self.system.exit_code is not None, 3600.0), "stands still"
        return self.system.stop()


def check(run: Run, code: int) -> None:
    """The counts of a finished run add up to its units, each ended once."""
    progress = run.progress
    assert progress.done == progress.planned == len(KEYS)
    assert progress.failed == len(progress.failures)
    assert run.disk.done | set(progress.failures) == KEYS
    assert not run.disk.done & set(progress.failures)
    assert progress.stage_counts == {
        "search": (6, 6), "judge": (2, 2), "choose": (1, 1)
    }  # fmt: skip
    assert code == (1 if progress.failed else 0)
    assert not run.disk.live, "a child outlived the run"
    assert not run.disk.wrong


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_every_unit_is_computed_once_after_its_inputs(workers: int) -> None:
    run = Run(Disk(set(), set(), {}), workers=workers)
    check(run, run())

    assert sorted(run.disk.computed) == sorted(KEYS)
    assert (run.progress.completed, run.progress.reused, run.progress.failed) == (9, 0, 0)


def test_each_finished_unit_is_news_once() -> None:
    """Computed ones as their workers told it, reused ones as the disk has it; failed ones are no news."""
    run = Run(Disk({"s0", "s1"}, {"s5"}, {"s3": 1}))
    told: list[str] = []
    run.on_progress = lambda progress: told.extend(found.symbol for found in progress.news)
    check(run, run())

    assert sorted(told) == ["j0", "s0", "s1", "s2", "s3", "s4"]


def test_what_is_done_is_passed_over() -> None:
    run = Run(Disk({"s0", "s1", "s2", "j0"}, set(), {}))
    check(run, run())

    assert sorted(run.disk.computed) == ["c", "j1", "s3", "s4", "s5"]
    assert (run.progress.completed, run.progress.reused) == (5, 4)


def test_a_failed_unit_fails_those_that_need_it_and_no_other() -> None:
    """Also when an older artifact of what failed is still there: `j0` is not computed from it."""
    run = Run(Disk(set(), {"s1"}, {}))
    check(run, run())

    assert run.progress.failures == {
        "s1": "cannot", "j0": "needs s1, which failed", "c": "needs j0, which failed"
    }  # fmt: skip
    assert sorted(run.disk.computed) == ["j1", "s0", "s1", "s2", "s3", "s4", "s5"]


def test_a_unit_whose_child_dies_is_tried_again_and_given_up_at_last() -> None:
    once, always = Run(Disk(set(), set(), {"s2": TRIES_MAX - 1})), Run(Disk(set(), set(), {"s2": 99}))
    check(once, once())
    check(always, always())

    assert once.disk.computed.count("s2") == TRIES_MAX
    assert (once.progress.failed, once.progress.worker_restarts) == (0, TRIES_MAX - 1)
    assert always.disk.computed.count("s2") == TRIES_MAX
    assert "died 3 times" in always.progress.failures["s2"]


def test_a_lost_unit_goes_to_another_worker_while_its_own_waits_for_a_place() -> None:
    """Two workers; the child that computes s2 is lost with its machine, and its successor never comes up."""
    run = Run(Disk(set(), set(), {"s2": 1}))
    run.disk.waiting = range(3, 100)
    check(run, run())

    assert run.disk.computed.count("s2") == 2
    assert (run.progress.failed, run.progress.worker_restarts) == (0, 1)


def test_a_worker_computes_nothing_that_its_predecessor_was_asked_for() -> None:
    run = Run(Disk(set(), set(), {}))

    def ask(progress: Progress) -> None:
        if not progress.completed:
            run.system.ref(f"{WORKERS}/worker-1").tell(RunStage(at_ns=0, unit="s5", generation=0))

    run.on_progress = ask
    check(run, run())
    assert sorted(run.disk.computed) == sorted(KEYS)


def test_a_hung_unit_is_killed_at_its_timeout() -> None:
    class Hanging(Disk):
        """`s0` gives no answer the first time; the timer of the worker must kill its child."""

    disk = Hanging(set(), set(), {})
    run = Run(disk)
    submit = InlineCompute.submit

    def silent(self: InlineCompute, unit: str) -> None:
        if unit == "s0" and not disk.computed.count("s0"):
            disk.computed.append(unit)
        else:
            submit(self, unit)

    InlineCompute.submit = silent  # type: ignore[method-assign]
    try:
        check(run, run())
    finally:
        InlineCompute.submit = submit  # type: ignore[method-assign]
    assert run.progress.worker_restarts == 1
    assert disk.computed.count("s0") == 2


@pytest.mark.parametrize("seed", [None, 1, 2, 3, 4])
def test_asked_to_stop_it_finishes_what_runs_and_the_next_run_goes_on(seed: int | None) -> None:
    disk = Disk(set(), set(), {})
    run = Run(disk, seed=seed)

    def ask(progress: Progress) -> None:
        if progress.completed == 2 and not progress.stopping:
            run.system.ref(COORDINATOR).tell(StopAfterRunning(at_ns=0))

    run.on_progress = ask
    assert run() == 0
    assert run.progress.stopping and not run.progress.running
    assert 2 <= run.progress.done < len(KEYS)
    assert disk.computed and set(disk.computed) == disk.done, "what was begun was finished"

    again = Run(disk, seed=seed)
    check(again, again())
    assert again.progress.reused == run.progress.completed
    assert sorted(disk.computed) == sorted(KEYS), "nothing was computed twice"


def test_whoever_crashes_at_any_message_every_unit_ends_exactly_once() -> None:
    """300 seeds: the order of messages, the disk, failing units, dying children and crashes of actors are drawn.

    No unit is computed that is there already, and what an earlier run left is all that counts as reused.
    """
    crashed: set[str] = set()
    for seed in range(300):
        chance = random.Random(seed)
        names = sorted(KEYS)
        failing = set(chance.sample(names, chance.choice([0, 0, 1, 2])))
        killing = {name: chance.randrange(1, 3) for name in chance.sample(names, chance.choice([0, 0, 1, 2]))}
        done = set(chance.sample([f"s{i}" for i in range(6)], chance.choice([0, 0, 3]))) - failing
        faults = CrashesAt(
            {chance.randrange(60): chance.choice(["before", "after"]) for _ in range(chance.randrange(6))}
        )
        left, kills = len(done), [2]
        run = Run(Disk(done, failing, killing), workers=chance.choice([1, 2, 3]), seed=seed, faults=faults)

        def kill_somebody(
            progress: Progress, run: Run = run, kills: list[int] = kills, chance: random.Random = chance
        ) -> None:
            if kills[0] and run.disk.live and chance.random() < 0.1:
                kills[0] -= 1
                chance.choice(list(run.disk.live.values())).kill()

        run.on_progress = kill_somebody
        check(run, run())

        died = {key for key, error in run.progress.failures.items() if "died" in error}
        needing = {key for key, error in run.progress.failures.items() if "which failed" in error}
        assert set(run.progress.failures) - died - needing <= failing, seed
        assert failing - needing - died <= set(run.progress.failures), seed
        assert run.progress.reused == left or COORDINATOR in faults.hit, seed
        crashed.update(faults.hit)
        assert not [r for r in run.system.trace if r.outcome is Outcome.DEAD and r.recipient == "root"], seed
    assert {COORDINATOR, f"{WORKERS}/worker-1", f"{WORKERS}/worker-2"} <= crashed
