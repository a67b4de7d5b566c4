"""Whole runs of run-backtest on made-up markets of size, from the command line: units a second, and the memory of all its processes.

    python benchmarks/scale.py daily            500 symbols x 2,520 daily bars, 4 strategies, 2 windows, 10 trials
    python benchmarks/scale.py minute           5 symbols x 1,000,000 minute bars, 3 strategies, 2 windows, 10 trials
    python benchmarks/scale.py daily --symbols 50 --bars 1260 --workers 2
    python benchmarks/scale.py daily --interrupted   also a run that is killed, then interrupted, then let to its end

Prices are random walks of a fixed seed. Memory is summed over the parent and its workers, twice: `rss` counts a page once for every
process that has it, `pss` (Linux) shares it out, which is what the machine really gives. `private` is the most that one worker had
to itself, mapped files apart. The run is from nothing: it reads and prepares the bars, and its report is made. A second run, which finds everything
done, shows what resuming costs. With `--interrupted` a run of its own is killed whole (kill -9) with a quarter of the artifacts there,
begun again, sent Ctrl-C with half of them there, and begun again: what it leaves must be the artifacts of the run that nobody touched.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from algo_royale.data.catalog import write_parquet
from algo_royale.sessions import calendar

SHAPES = {
    "daily": (500, 2520, "1Day", "BollingerBandsStrategy,MACDTrailingStopStrategy,MovingAverageStrategy,RSIStrategy"),
    "minute": (5, 1_000_000, "1Min", "BollingerBandsStrategy,MovingAverageStrategy,RSIStrategy"),
}
PORTFOLIOS = "EqualWeightPortfolioStrategy,InverseVolatilityPortfolioStrategy"
PERIOD_S = 0.2  # between two looks at the memory


def starts(bars: int, timeframe: str) -> np.ndarray:
    """The starts of the last so many bars up to 2024."""
    days = calendar().sessions(date(2008, 1, 2), date(2024, 12, 31))
    if timeframe == "1Day":
        return np.array([day.label_ns for day in days[-bars:]], np.int64)
    minute = 60_000_000_000
    return np.concatenate([np.arange(day.open_ns, day.close_ns, minute) for day in days])[-bars:]


def make(folder: Path, symbols: int, bars: int, timeframe: str) -> list[str]:
    """Random walks with the volatility of a share, as Parquet; the same files for the same arguments."""
    at, names = starts(bars, timeframe), [f"S{i:03d}" for i in range(symbols)]
    scale = 0.015 if timeframe == "1Day" else 0.0008
    for number, name in enumerate(names):
        chance = np.random.default_rng(number)
        close = 50.0 * np.exp(np.cumsum(chance.normal(0.1 * scale**2, scale, len(at))))
        opens = np.r_[50.0, close[:-1]] * np.exp(chance.normal(0, scale / 4, len(at)))
        spread = np.exp(np.abs(chance.normal(0, scale / 2, len(at))))
        columns = {
            "timestamp": at, "open": opens, "high": np.maximum(opens, close) * spread,
            "low": np.minimum(opens, close) / spread, "close": close, "volume": chance.integers(1e4, 1e6, len(at)) * 1.0,
        }  # fmt: skip
        write_parquet(folder / f"{name}.parquet", columns)
    return names


def memory(parent: psutil.Process) -> tuple[int, int, int]:
    """Bytes of the parent and all below it: rss, pss, and the most private memory of one child."""
    rss = pss = private = 0
    for process in (parent, *parent.children(recursive=True)):
        try:
            found = process.memory_full_info()
        except psutil.Error:
            continue
        rss, pss = rss + found.rss, pss + getattr(found, "pss", found.rss)
        if process != parent:
            private = max(private, found.rss - getattr(found, "shared", 0))
    return rss, pss, private


def run(command: list[str]) -> dict[str, float]:
    """Run to the end; what it took and the peaks of memory, in seconds and MiB."""
    began = time.perf_counter()
    with tempfile.TemporaryFile() as out, subprocess.Popen(command, stdout=out) as process:
        watched, peaks = psutil.Process(process.pid), (0, 0, 0)
        while process.poll() is None:
            try:
                peaks = tuple(map(max, peaks, memory(watched)))
            except psutil.Error:
                break
            time.sleep(PERIOD_S)
        process.wait()
        took = time.perf_counter() - began
        out.seek(0)
        units = json.load(out)["units"]
    if process.returncode or units["failed"]:
        raise SystemExit(f"the run ended with {process.returncode}: {units}")
    rss, pss, private = (round(peak / 2**20) for peak in peaks)
    return {**units, "seconds": round(took, 1), "rss": rss, "pss": pss, "private": private}


def without_clock(value: Any) -> Any:
    """A document without the fields that tell when it was made and how long that took."""
    if isinstance(value, dict):
        return {name: without_clock(part) for name, part in value.items() if name not in ("created_at", "run_time_sec")}
    return [without_clock(part) for part in value] if isinstance(value, list) else value


def artifacts(home: Path) -> dict[str, Any]:
    """Each artifact of a home by its path."""
    return {
        str(path.relative_to(home)): without_clock(json.loads(path.read_text()))
        for path in sorted(home.rglob("artifacts/**/*.json"))
    }


def stop(command: list[str], home: Path, number: int, how: signal.Signals) -> str:
    """Run until `number` artifacts are there, then send `how`: SIGKILL to every process, SIGINT as a terminal does."""
    with (
        tempfile.TemporaryFile() as out,
        subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True) as process,
    ):
        while process.poll() is None and sum(1 for _ in home.rglob("artifacts/**/*.json")) < number:
            time.sleep(PERIOD_S)
        began = time.perf_counter()
        os.killpg(process.pid, how)
        code = process.wait()
    there = sum(1 for _ in home.rglob("artifacts/**/*.json"))
    return f"{how.name}: exit {code} after {time.perf_counter() - began:.1f} s with {there} artifacts there"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--symbols", type=int)
    parser.add_argument("--bars", type=int)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--strategies", help="comma-separated; default some quick ones")
    parser.add_argument(
        "--interrupted", action="store_true", help="also kill and interrupt a run, and compare its artifacts"
    )
    asked = parser.parse_args()
    symbols, bars, timeframe, strategies = SHAPES[asked.shape]
    strategies = asked.strategies or strategies
    symbols, bars = asked.symbols or symbols, asked.bars or bars
    with tempfile.TemporaryDirectory(prefix="scale-") as place:
        data = Path(place, "data")
        began = time.perf_counter()
        make(data, symbols, bars, timeframe)
        print(f"{symbols} symbols x {bars:,} {timeframe} bars made in {time.perf_counter() - began:.0f} s", flush=True)
        years = bars / (252 if timeframe == "1Day" else 252 * 390)
        test = max(1, round(years / 6 * 12))
        command = [
            sys.executable, "-m", "algo_royale", "--home", f"{place}/home", "--json", "-q", "run-backtest", f"--data={data}",
            f"--timeframe={timeframe}", "--unit=months", f"--train={3 * test}", f"--test={test}", f"--holdout={test}",
            "--windows=2", f"--strategies={strategies}", f"--portfolios={PORTFOLIOS}", f"--trials={asked.trials}",
            "--portfolio-trials=3", f"--workers={asked.workers}",
        ]  # fmt: skip
        for what in ("from nothing", "all there"):
            found = run(command)
            rate = found["planned"] / found["seconds"]
            print(
                f"{what}: {found['planned']} units in {found['seconds']} s ({rate:.1f}/s), peak rss {found['rss']} MiB,"
                f" pss {found['pss']} MiB, private of one worker {found['private']} MiB",
                flush=True,
            )
        if asked.interrupted:
            whole = artifacts(Path(place, "home"))
            again = [f"{place}/again" if part == f"{place}/home" else part for part in command]
            for share, how in ((4, signal.SIGKILL), (2, signal.SIGINT)):
                print(stop(again, Path(place, "again"), len(whole) // share, how), flush=True)
            found = run(again)
            print(f"then completed: {found['planned']} units, {found['reused']} of them there already", flush=True)
            if artifacts(Path(place, "again")) != whole:
                raise SystemExit("the artifacts differ from those of the run that nobody touched")
            print(f"all {len(whole)} artifacts are those of the run that nobody touched")


if __name__ == "__main__":
    main()
