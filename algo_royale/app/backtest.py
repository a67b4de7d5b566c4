"""Assembles and runs a backtest: the plan, the coordinator and the stage workers under one supervisor."""

import contextlib
import os
import platform
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from actors.backtest import CoordinatorActor, PlannedUnit, Progress
from actors.kernel import (
    EXIT_FAILED,
    EXIT_OK,
    ChildSpec,
    Intensity,
    MailboxSpec,
    Ref,
    Sink,
    StartFailed,
    Strategy,
    Supervisor,
    ThreadSystem,
)
from actors.kernel.journal import MessageLog
from actors.messages import Headline, StopAfterRunning
from actors.stage_worker import (
    Child,
    Compute,
    MakeCompute,
    OnAnswer,
    OnExit,
    OnReady,
    ProcessCompute,
    RunUnit,
    StageWorkerActor,
)
from algo_royale.clock import WallClock
from algo_royale.errors import AlgoRoyaleError
from algo_royale.research import WORKER_ENVIRONMENT, artifacts, stages
from algo_royale.research import plan as planning
from algo_royale.research.optimise import STORAGES
from algo_royale.research.plan import Plan, ResearchConfig, Unit


def iso(at_ns: int) -> str:
    """UTC nanoseconds as ISO-8601 with Z, to the second."""
    return datetime.fromtimestamp(at_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


Computing = Callable[[Callable[[], RunUnit], Callable[[str], Any], str, OnReady, OnAnswer, OnExit], Compute]

ROOT = "root"
INTERRUPTED = 130
COORDINATOR, WORKERS = f"{ROOT}/backtest/coordinator", f"{ROOT}/backtest/workers"


def headline(unit: Unit, document: Mapping[str, Any]) -> Headline:
    """What an artifact says in one line; several objectives are represented by their first one."""
    search = document.get("optimization")
    name = (search or document)["meta"]["objective"]
    name = name if isinstance(name, str) else name[0]
    if search:
        before, after = search["metrics"] or {}, document["test"]["metrics"]
    else:
        before, after = ({key: found["mean"] for key, found in document[p].items()} for p in ("in_sample", "summary"))
        after |= document["oos"]
    return Headline(
        stage=unit.stage, symbol=unit.symbol or "", strategy=document["strategy"],
        window_id=unit.window.window_id if unit.window else "", objective=name, in_sample=before.get(name),
        out_of_sample=after.get(name), viable=document.get("is_viable"), score=document.get("viability_score"),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class MakeRunner:
    """What a computing process calls once, to get what computes units of this run.

    Raises AlgoRoyaleError where this program is another version than the one that planned.
    """

    config: ResearchConfig
    code_version: str
    bars: Mapping[str, Path]

    def __call__(self) -> RunUnit:
        here = artifacts.code_version()
        if here != self.code_version:
            raise AlgoRoyaleError(
                f"{platform.node()} has algo-royale {here}, the run was planned by {self.code_version};"
                " install the same version on every node"
            )
        if self.bars:
            planning.use_prepared(self.config, self.bars)
        clock = WallClock()

        def run(unit: Unit) -> Headline:
            began_s = clock.monotonic_s()
            result = stages.run_unit(unit, self.config)
            took_s = round(clock.monotonic_s() - began_s, 3)
            stages.commit(result, unit, self.config, created_at=iso(clock.now_ns()), run_time_sec=took_s)
            return headline(unit, result.document)

        return run


@contextlib.contextmanager
def engine(name: str, cluster: str, workers: int, spare: list[Child] | None = None) -> Iterator[tuple[Computing, int]]:
    """What units are computed by, and how many workers there are to be, 0 meaning one per processor. `spare` are processes
    that were started before they were needed.

    `ray`: on the cluster at the address `cluster`, or on one of its own on this machine. Raises ClusterError.
    """
    processors = workers or os.cpu_count() or 1
    if name == "processes":
        yield partial(ProcessCompute, spare=spare or []), processors
        return
    from actors import ray_compute  # Ray is an extra, and slow to import

    os.environ.update(WORKER_ENVIRONMENT)  # inherited by what Ray starts on this machine
    with contextlib.redirect_stdout(sys.stderr):  # where Ray says what it thinks of a lost node
        offered = ray_compute.connect(cluster, processors)
        try:
            yield ray_compute.RayCompute, workers or offered
        finally:
            ray_compute.disconnect()


def backtest_tree(
    units: Sequence[PlannedUnit],
    *,
    workers: int,
    compute: Callable[[str], MakeCompute],
    reusable: Callable[[str], Headline | bool],
    ref: Callable[[str], Ref[Any]],
    on_progress: Callable[[Progress], None],
    unit_timeout_s: float = 3600.0,
) -> ChildSpec:
    """root / backtest / coordinator and workers. A worker restarts alone; the coordinator takes the workers along.

    `compute(name)` makes what the worker of that name computes with.
    """
    names = [f"worker-{n + 1}" for n in range(workers)]
    refs = {name: ref(f"{WORKERS}/{name}") for name in names}
    mailbox = MailboxSpec(keep=False)  # what was told to an incarnation is not for the next one

    def coordinator() -> CoordinatorActor:
        return CoordinatorActor(units, workers=refs, reusable=reusable, on_progress=on_progress)

    def worker(name: str) -> StageWorkerActor:
        return StageWorkerActor(name, compute(name), coordinator=ref(COORDINATOR), unit_timeout_s=unit_timeout_s)

    pool = [ChildSpec(id=name, factory=partial(worker, name), start_within=60.0, mailbox=mailbox) for name in names]
    stage = [  # the coordinator may look at every artifact in one go
        ChildSpec(id="coordinator", factory=coordinator, hang_after=300.0, mailbox=mailbox),
        ChildSpec(id="workers", factory=lambda: Supervisor(pool, intensity=Intensity(10 * workers, 60.0))),
    ]
    run = ChildSpec(
        id="backtest", factory=lambda: Supervisor(stage, strategy=Strategy.REST_FOR_ONE, intensity=Intensity(3, 60.0))
    )
    return ChildSpec(id=ROOT, factory=lambda: Supervisor([run]))


def _tree(
    plan: Plan, config: ResearchConfig, workers: int, ref: Callable[[str], Ref[Any]],
    on_progress: Callable[[Progress], None], computing: Computing,
) -> ChildSpec:  # fmt: skip
    units = {unit.key: unit for unit in plan.units}

    def left(key: str) -> Headline | bool:
        document = planning.left(units[key], config)
        return False if document is None else headline(units[key], document)

    def payload(key: str) -> Unit:
        return replace(units[key], depends_on=())  # of no use to the stage

    make = MakeRunner(config, plan.code_version, planning.prepared(config))
    return backtest_tree(
        [PlannedUnit(key=u.key, label=u.label, stage=u.stage, depends_on=u.depends_on) for u in plan.units],
        workers=workers,
        compute=lambda name: partial(computing, make, payload, name),
        reusable=left,
        ref=ref,
        on_progress=on_progress,
    )


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: `interrupted` by one Ctrl-C, `aborted` by two; `gave_up` says why supervision did, or is empty."""

    exit_code: int
    progress: Progress
    interrupted: bool
    aborted: bool
    gave_up: str


def run_backtest(
    plan: Plan, config: ResearchConfig, *, workers: int, on_progress: Callable[[Progress], None],
    on_interrupt: Callable[[], None], fresh: bool, log: Sink | None = None, computing: Computing = ProcessCompute,
) -> Outcome:  # fmt: skip
    """Run the plan to its end, each worker computing by a `computing` of its own.

    The first Ctrl-C (or SIGTERM) lets the running units finish; the second one ends their workers at once, code 130.
    """
    _tidy(plan, config, fresh=fresh)
    last = Progress(planned=len(plan.units))

    def progressed(progress: Progress) -> None:
        nonlocal last
        last = progress
        on_progress(progress)

    interrupts = 0

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal interrupts
        interrupts += 1  # and no more: what a handler interrupts may hold any lock

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        system = ThreadSystem(WallClock(), seed=config.seed, log=log)
        if isinstance(log, MessageLog):
            log.watch(system.tree)
        try:
            system.start(_tree(plan, config, workers, system.ref, progressed, computing))
        except StartFailed as error:
            if last.done < last.planned:  # otherwise all was there, and the end came before the last worker stood
                raise AlgoRoyaleError(f"the backtest could not start: {error}") from error
        tick, asked = threading.Event(), None
        while system.exit_code is None and interrupts < 2:
            if interrupts and asked is None:
                on_interrupt()
            if interrupts and asked is not last:  # a restarted coordinator has to be told again
                asked = last
                system.ref(COORDINATOR).tell(StopAfterRunning(at_ns=system.clock.now_ns()))
            tick.wait(0.05)
        aborted = system.exit_code is None
        errors = [f"{row['path']}: {row['last_error']}" for row in system.tree() if row["last_error"]]
        code = system.stop(10.0)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    gave_up = "" if aborted or code in (EXIT_OK, EXIT_FAILED) else "; ".join(errors) or f"exit code {code}"
    return Outcome(
        exit_code=INTERRUPTED if aborted else code, progress=last, interrupted=interrupts > 0, aborted=aborted,
        gave_up=gave_up,
    )  # fmt: skip


def _tidy(plan: Plan, config: ResearchConfig, *, fresh: bool) -> None:
    """Remove what a killed run left half-written, and with `fresh` every artifact that this run is going to make
    and every study that it would go on with.

    With the artifacts gone, what is there later is of this run, whoever of it was restarted meanwhile.
    """
    for root in (config.artifacts_root, config.cache):
        for path in root.rglob(".*.tmp") if root else ():
            path.unlink(missing_ok=True)
    if fresh:
        for unit in plan.units:
            with contextlib.suppress(IsADirectoryError, PermissionError):  # said when the unit is to be written
                unit.path(config).unlink(missing_ok=True)
                for file in filter(None, STORAGES.values()):
                    unit.path(config).with_name(file).unlink(missing_ok=True)
