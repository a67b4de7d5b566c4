"""Measures one piece of work in several engines, side by side, and refuses to compare engines that computed different things.

A file of works (see crosses.py) says what there is to do and who does it:

    WORKS = [Work(name="W1", title=..., make=arrays_of_a_size, sizes={"full": {...}, "quick": {...}}, reference="numba loop",
                  engines=[Engine("numba loop", "numba", load_loop), Engine("AlgoRoyale", OURS, load_ours), ...],
                  tolerance={"trades": 0.0, "final_equity": 1e-12})]
    if __name__ == "__main__":
        main(WORKS, __file__)

- `make(**size)` gives the in-memory arrays, once, in the environment that runs the harness (numpy only).
- `Engine.load()` runs in the environment of the engine (a table of peers.toml, or OURS) and is not timed: it imports the
  library, compiles, and returns `run(arrays) -> check values` (numbers or flat lists of them, by name). Import nothing but
  the standard library, numpy and this module at the top of a file of works: it is read in every environment.
- `run` is timed whole: from the arrays to the check values. A first run on the quick size is not timed (compilers, caches).
- Every engine must give the check values of `reference` within `tolerance` (relative; 0 means equal), or the run fails.
  `Engine.unlike` names check values that an engine cannot give, with the reason; the table repeats it.
- Engines live in processes of their own, on one thread each (`threads` for more), and take turns round by round, so that
  a slow minute of the machine hits all of them. `repeats` limits the turns of slow engines. `part` runs a part of the work
  (keyword arguments of `make`, and the factor to the whole): the table says so.
- "x reference, CPU" compares processor time instead of time on the wall: the fairer figure while the machine does other work.
- Peak memory is that of the engine's process during its runs, and what it was before them.

Command: `python benchmarks/FILE.py [WORK ...] [--quick] [--rounds N] [--engines NAME,...] [--keep]`; --keep writes the table
into docs/benchmarks.md. Environments are made on first use (uv where there is one, else venv and pip) under var/benchmarks.
"""

import argparse
import gc
import importlib.util
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
PEERS = Path(__file__).with_name("peers.toml")
PAGE = ROOT / "docs" / "benchmarks.md"
OURS = "ours"

Arrays = dict[str, np.ndarray]
Run = Callable[[Arrays], dict[str, Any]]
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the work: arguments of `make` that differ, and how many times it the whole is."""

    size: Mapping[str, Any]
    factor: float
    why: str


@dataclass(frozen=True)
class Engine:
    """One contestant. `env` is a table of peers.toml or OURS; `limit_s` ends a run that takes longer."""

    name: str
    env: str
    load: Callable[[], Run]
    repeats: int = 1000
    limit_s: float = 900.0
    threads: int = 1
    part: Part | None = None
    unlike: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Work:
    """One work: its data at each size, its engines, and how equal their check values must be."""

    name: str
    title: str
    make: Callable[..., Arrays]
    sizes: Mapping[str, Mapping[str, Any]]
    engines: Sequence[Engine]
    reference: str
    tolerance: Mapping[str, float]
    note: str = ""


@dataclass
class Measured:
    """What an engine took in each of its turns, and what it gave."""

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    check: dict[str, Any] = field(default_factory=dict)
    peak_mb: float = 0.0
    before_mb: float = 0.0
    failed: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def median_cpu(self) -> float:
        return statistics.median(self.cpu)


# The engine's side: a process that answers one line per turn.


def _memory_mb(what: str) -> float:
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found.group(1)) / 1024 if found else 0.0


def _module(path: str) -> Any:
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _load_arrays(folder: str) -> Arrays:
    return {path.stem: np.load(path) for path in sorted(Path(folder).glob("*.npy"))}


def _child(file: str, work_name: str, engine_name: str, quick_folder: str, folder: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    work = next(w for w in _module(file).WORKS if w.name == work_name)
    engine = next(e for e in work.engines if e.name == engine_name)
    run = engine.load()
    run(_load_arrays(quick_folder))
    arrays = _load_arrays(folder)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _memory_mb("VmRSS")
    for _ in sys.stdin:
        gc.collect()
        began, cpu_began = time.perf_counter(), time.process_time()
        check = run(arrays)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu_began
        check = {name: np.asarray(value, float).tolist() for name, value in check.items()}
        turn = {"seconds": seconds, "cpu": cpu, "check": check, "peak_mb": _memory_mb("VmHWM"), "before_mb": before}
        print(json.dumps(turn), file=answers, flush=True)


# The harness's side.


def python_of(env: str, folder: Path = ROOT / "var" / "benchmarks") -> Path:
    """The interpreter of an environment of peers.toml, made if it is not there or has other versions."""
    if env == OURS:
        return Path(sys.executable)
    packages = tomllib.loads(PEERS.read_text())[env]["packages"]
    home, stamp = folder / env, folder / env / "packages.json"
    if not stamp.exists() or json.loads(stamp.read_text()) != packages:
        shutil.rmtree(home, ignore_errors=True)
        home.parent.mkdir(parents=True, exist_ok=True)
        uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
        print(f"making the environment {env}: {' '.join(packages)}", file=sys.stderr)
        if uv:
            subprocess.run([uv, "venv", "-q", "--python", sys.executable, home], check=True)
            subprocess.run([uv, "pip", "install", "-q", "--python", home / "bin" / "python", *packages], check=True)
        else:
            subprocess.run([sys.executable, "-m", "venv", home], check=True)
            subprocess.run([home / "bin" / "python", "-m", "pip", "install", "-q", *packages], check=True)
        stamp.write_text(json.dumps(packages))
    return home / "bin" / "python"


class _Contestant:
    """The process of one engine."""

    def __init__(self, file: str, work: Work, engine: Engine, quick: Path, data: Path) -> None:
        self.engine, self.measured = engine, Measured()
        environment = dict(os.environ) | dict.fromkeys(_ONE_THREAD, str(engine.threads))
        environment["PYTHONPATH"] = str(ROOT) if engine.env == OURS else ""
        self._process = subprocess.Popen(
            [python_of(engine.env), __file__, "--child", file, work.name, engine.name, quick, data],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip

    def turn(self) -> None:
        process, measured = self._process, self.measured
        assert process.stdin and process.stdout
        began = time.monotonic()
        try:
            process.stdin.write("run\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            measured.failed = f"its process ended with {process.wait()}"
            return
        told = json.loads(line)
        measured.seconds.append(told["seconds"])
        measured.cpu.append(told["cpu"])
        measured.check, measured.peak_mb, measured.before_mb = told["check"], told["peak_mb"], told["before_mb"]
        if time.monotonic() - began > self.engine.limit_s:
            measured.failed = f"a run took more than {self.engine.limit_s:.0f} s"

    def end(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.kill()
        self._process.wait()


def measure(work: Work, file: str, size: str, rounds: int, names: Sequence[str] = ()) -> dict[str, Measured]:
    """Let the engines (all, or the named ones and the reference) take `rounds` turns; compare what they give."""
    engines = [e for e in work.engines if not names or e.name in names or e.name == work.reference]
    with tempfile.TemporaryDirectory() as folder:
        quick = _saved(Path(folder) / "quick", work.make(**work.sizes["quick"]))
        whole = _saved(Path(folder) / "whole", work.make(**work.sizes[size]))
        contestants = []
        try:
            for number, engine in enumerate(engines):
                part = engine.part if size == "full" else None
                data = whole
                if part:
                    data = _saved(Path(folder) / str(number), work.make(**{**work.sizes[size], **part.size}))
                contestants.append(_Contestant(file, work, engine, quick, data))
            for turn in range(rounds):
                for contestant in contestants:
                    if turn < contestant.engine.repeats and not contestant.measured.failed:
                        contestant.turn()
        finally:
            for contestant in contestants:
                contestant.end()
    found = {c.engine.name: c.measured for c in contestants}
    for engine in engines:
        _compare(work, engine, found, size)
    return found


def _saved(folder: Path, arrays: Arrays) -> Path:
    folder.mkdir()
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)
    return folder


def _compare(work: Work, engine: Engine, found: Mapping[str, Measured], size: str) -> None:
    expected, mine = found[work.reference], found[engine.name]
    if mine.failed or expected.failed:
        return
    for name, tolerance in work.tolerance.items():
        if name in engine.unlike:
            continue
        a, b = np.asarray(expected.check[name]), np.asarray(mine.check[name])
        if engine.part and size == "full":
            a = a[: len(b)] if a.ndim else a
        if a.shape != b.shape or not np.allclose(a, b, rtol=tolerance, atol=0.0):
            raise SystemExit(f"{work.name}: {engine.name} gives {name} {b}, {work.reference} {a}")


def table(work: Work, found: Mapping[str, Measured], size: str) -> list[str]:
    """The result as Markdown, in the order the work lists its engines."""
    base, base_cpu = found[work.reference].median, found[work.reference].median_cpu
    lines = [
        "| engine | median | best | turns | x reference | x reference, CPU | peak memory | of it before |",
        "|---|---|---|---|---|---|---|---|",
    ]
    notes = []
    for engine in work.engines:
        m = found.get(engine.name)
        if m is None:
            continue
        if not m.seconds:
            lines.append(f"| {engine.name} | {m.failed} | | | | | | |")
            continue
        part = engine.part if size == "full" else None
        factor = part.factor if part else 1.0
        mark = "*" * (len(notes) + 1) if part or engine.unlike else ""
        if part:
            notes.append(f"{mark} {part.why}; the times are {part.factor:g} x those measured.")
        elif engine.unlike:
            notes.append(f"{mark} " + "; ".join(f"{name}: {why}" for name, why in engine.unlike.items()) + ".")
        lines.append(
            f"| {engine.name}{mark} | {_time(m.median * factor)} | {_time(min(m.seconds) * factor)} | {len(m.seconds)} "
            f"| {m.median * factor / base:.3g} | {m.median_cpu * factor / base_cpu:.3g} | {m.peak_mb:.0f} MB | {m.before_mb:.0f} MB |"
        )
    return [*lines, *(["", *notes] if notes else [])]


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def machine() -> str:
    """What it ran on, without naming the machine."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*: (.*)", info)
    return (
        f"{model.group(1) if model else platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    )


def keep(work: Work, lines: Sequence[str], engines: Sequence[str]) -> None:
    """Replace the work's section between its markers in docs/benchmarks.md."""
    peers = tomllib.loads(PEERS.read_text())
    versions = sorted(
        {p for e in work.engines if e.name in engines and e.env in peers for p in peers[e.env]["packages"]}
    )
    text = [
        *lines, "", f"Measured {datetime.now(UTC):%Y-%m-%d} on {machine()}; {', '.join(versions).replace('==', ' ')}."
    ]  # fmt: skip
    begin, end = f"<!-- {work.name} -->", f"<!-- end of {work.name} -->"
    page = PAGE.read_text()
    before, found, rest = page.partition(begin)
    if not found:
        raise SystemExit(f"{PAGE} has no line {begin}")
    PAGE.write_text(before + begin + "\n" + "\n".join(text) + "\n" + end + rest.partition(end)[2])


def main(works: Sequence[Work], file: str) -> None:
    """The command line of a file of works."""
    parser = argparse.ArgumentParser()
    parser.add_argument("works", nargs="*", help=", ".join(work.name for work in works))
    parser.add_argument("--quick", action="store_true", help="small data, two rounds")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--engines", default="", help="only these and the reference, by comma")
    parser.add_argument("--keep", action="store_true", help="write the tables into docs/benchmarks.md")
    asked = parser.parse_args()
    names = [name for name in asked.engines.split(",") if name]
    for work in works:
        if asked.works and work.name not in asked.works:
            continue
        size, rounds = ("quick", 2) if asked.quick else ("full", asked.rounds)
        found = measure(work, file, size, rounds, names)
        lines = table(work, found, size)
        print(f"{work.name}: {work.title} ({size})\n" + "\n".join(lines) + "\nAll check values agree.\n", flush=True)
        if asked.keep:
            keep(work, lines, list(found))


if __name__ == "__main__" and sys.argv[1:2] == ["--child"]:
    sys.path.insert(0, str(Path(__file__).parent))
    _child(*sys.argv[2:])
