"""Prepared bars and plans of size: every process maps the same file, no file is ever stale, and nothing grows faster than the work."""

import multiprocessing as mp
import os
import signal
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from actors.backtest import CoordinatorActor, PlannedUnit
from algo_royale.data import mapped
from algo_royale.data.catalog import open_catalog, write_parquet
from algo_royale.errors import BadMarketData
from algo_royale.market import Bars, Timeframe
from algo_royale.research import plan as planning
from algo_royale.research.plan import ResearchConfig, Series
from algo_royale.research.windows import WindowConfig
from algo_royale.sessions import calendar, new_york_date

DAY = Timeframe.DAY_1
COLUMNS = ("start_ns", "end_ns", "open", "high", "low", "close", "volume", "vwap", "trade_count")


def labels(count: int) -> np.ndarray:
    days = calendar().sessions(new_york_date(1_200_000_000_000_000_000), new_york_date(1_700_000_000_000_000_000))
    return np.array([day.label_ns for day in days[:count]], np.int64)


def write(folder: Path, symbol: str, count: int, *, price: float = 50.0) -> None:
    """Flat bars with a dividend and a split on the way, and a column of true and false."""
    at, close = labels(count), np.full(count, price)
    dividend, ratio = np.full(count, np.nan), np.full(count, np.nan)
    dividend[count // 3], ratio[count // 2] = 1.0, 2.0
    columns = {
        "timestamp": at, "open": close, "high": close + 1, "low": close - 1, "close": close, "volume": close * 100,
        "ex_dividend": dividend, "split_ratio": ratio, "lucky": (np.arange(count) % 7 == 0) * 1.0,
    }  # fmt: skip
    write_parquet(folder / f"{symbol}.parquet", columns)


def config(tmp_path: Path, *symbols: str, **more: object) -> ResearchConfig:
    made: ResearchConfig = ResearchConfig(
        artifacts_root=tmp_path / "artifacts", cache=tmp_path / "cache", data=str(tmp_path / "data"), symbols=symbols,
        strategies=("BollingerBandsStrategy", "RSIStrategy"), portfolios=("EqualWeightPortfolioStrategy",),
        windows=WindowConfig(unit="months", train=12, test=6, step=6, embargo=1, holdout=1),
    )  # fmt: skip
    return replace(made, **more)


def same(ours: Bars, theirs: Bars) -> bool:
    return ours.extra.keys() == theirs.extra.keys() and all(
        np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        for a, b in [
            *((getattr(ours, name), getattr(theirs, name)) for name in COLUMNS),
            *((ours.extra[name], theirs.extra[name]) for name in ours.extra),
        ]
    )


@pytest.fixture
def prepared(tmp_path: Path) -> tuple[ResearchConfig, Series]:
    write(tmp_path / "data", "AAA", 600)
    asked = config(tmp_path, "AAA")
    planning.read_data(asked)
    return asked, planning.series(asked.data, "AAA", DAY)


def base(array: np.ndarray) -> object:
    """What the memory of an array belongs to."""
    while isinstance(array, np.ndarray) and array.base is not None:
        array = array.base
    return array


def test_mapped_bars_are_those_of_the_catalogue_to_the_last_bit(prepared: tuple[ResearchConfig, Series]) -> None:
    asked, found = prepared
    catalog = open_catalog(asked.data)

    assert same(found.raw, catalog.bars("AAA", DAY))
    assert same(found.bars, catalog.adjusted("AAA", DAY))
    assert not np.array_equal(found.bars.close, found.raw.close)
    assert found.fingerprint == catalog.fingerprint(["AAA"], DAY)
    assert found.sessions[found.session].tolist() == found.raw.start_ns.tolist()
    assert {type(base(getattr(bars, name))) for bars in (found.raw, found.bars) for name in COLUMNS} == {
        type(base(found.session))
    }
    assert type(base(found.session)).__name__ == "mmap"
    with pytest.raises(ValueError, match="read-only"):
        found.raw.close[0] = 1.0


def test_with_and_without_a_cache_the_plan_is_the_same(prepared: tuple[ResearchConfig, Series]) -> None:
    asked, _ = prepared
    mapped_plan, plain = planning.plan(asked), planning.plan(replace(asked, cache=None))

    assert mapped_plan.units == plain.units
    assert mapped_plan.data_fingerprint == plain.data_fingerprint == open_catalog(asked.data).fingerprint(["AAA"], DAY)


def test_changed_data_are_prepared_anew_and_the_old_file_goes(prepared: tuple[ResearchConfig, Series]) -> None:
    """Also where name, size and time of the file stay: only the content counts."""
    asked, before = prepared
    source = Path(asked.data, "AAA.parquet")
    was = source.stat()
    (place,) = planning.prepared(asked).values()
    write(Path(asked.data), "AAA", 600, price=51.0)
    os.utime(source, ns=(was.st_atime_ns, was.st_mtime_ns))
    planning.read_data(asked)
    after = planning.series(asked.data, "AAA", DAY)

    assert (before.raw.close[0], after.raw.close[0]) == (50.0, 51.0)
    assert before.fingerprint != after.fingerprint
    assert not place.exists()
    assert [p.suffix for p in place.parent.iterdir()] == [".bars"]


def test_a_worker_keeps_to_the_bars_that_were_planned(prepared: tuple[ResearchConfig, Series]) -> None:
    """Data that change during a run are the next run's business."""
    asked, before = prepared
    places = planning.prepared(asked)
    write(Path(asked.data), "AAA", 600, price=99.0)
    planning.use_prepared(asked, places)

    assert planning.series(asked.data, "AAA", DAY).fingerprint == before.fingerprint


def test_what_is_already_there_is_not_made_again(prepared: tuple[ResearchConfig, Series]) -> None:
    asked, _ = prepared
    (place,) = planning.prepared(asked).values()
    was = place.stat()
    planning.read_data(asked)

    assert (place.stat().st_ino, place.stat().st_mtime_ns) == (was.st_ino, was.st_mtime_ns)


def _write_for_ever(path: str) -> None:
    while True:
        mapped.write(Path(path), {"n": 1}, {"x": np.arange(200_000), "y": np.ones(3)})


def test_a_writer_that_is_killed_leaves_a_whole_file_or_none(tmp_path: Path) -> None:
    path = tmp_path / "x.bars"
    for _ in range(5):
        process = mp.get_context("fork").Process(target=_write_for_ever, args=(str(path),))
        process.start()
        while not (path.exists() or list(tmp_path.glob(".*.tmp"))):
            process.join(0.001)
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        if path.exists():
            about, arrays = mapped.read(path)
            assert (about, arrays["x"].tolist()[-1], arrays["y"].tolist()) == ({"n": 1}, 199_999, [1.0] * 3)
            path.unlink()


def test_a_file_that_was_cut_is_refused(prepared: tuple[ResearchConfig, Series]) -> None:
    asked, _ = prepared
    (place,) = planning.prepared(asked).values()
    os.truncate(place, place.stat().st_size // 2)
    planning.use_prepared(asked, {"AAA": place})

    with pytest.raises(BadMarketData, match="delete it"):
        planning.series(asked.data, "AAA", DAY)


def own_bytes() -> int:
    """Memory of this process that is not a file's: pages of a mapped file are the system's, however few processes have them."""
    found = psutil.Process().memory_info()
    return int(found.rss - found.shared)


def _private(places: dict[str, Path], asked: ResearchConfig, answer: "mp.connection.Connection") -> None:
    """Private bytes of a process before and after it has looked at every bar of every symbol."""
    planning.use_prepared(asked, {})
    before = own_bytes()
    planning.use_prepared(asked, places)
    total = 0.0
    for symbol in asked.symbols:
        found = planning.series(asked.data, symbol, DAY)
        total += sum(float(getattr(found.raw, name).sum()) for name in COLUMNS)
    answer.send((own_bytes() - before, total))


@pytest.mark.skipif(sys.platform != "linux", reason="the system must say which pages belong to files")
def test_what_a_worker_has_to_itself_does_not_grow_with_the_bars(tmp_path: Path) -> None:
    """64 MB of prepared bars, read in a process of its own, cost it less than 8 MB."""
    rows, symbols = 40_000, tuple(f"S{i}" for i in range(20))
    arrays = {name: np.arange(rows, dtype=np.int64) for name in ("start_ns", "end_ns", "trade_count", "session")}
    arrays |= {name: np.arange(rows, dtype=np.float64) for name in ("open", "high", "low", "close", "volume", "vwap")}
    places = {}
    for symbol in symbols:
        places[symbol] = tmp_path / f"{symbol}.bars"
        about = {"symbol": symbol, "timeframe": "1Day", "fingerprint": symbol}
        mapped.write(places[symbol], about, arrays | {"sessions": np.arange(5)})
    assert sum(place.stat().st_size for place in places.values()) > 60e6
    ours, theirs = mp.Pipe()
    process = mp.get_context("fork").Process(target=_private, args=(places, config(tmp_path, *symbols), theirs))
    process.start()
    grown, total = ours.recv()
    process.join()

    assert total == 20 * 9 * rows * (rows - 1) / 2
    assert grown < 8e6


def planned(tmp_path: Path, symbols: int, windows: int) -> tuple[int, int, int]:
    """Bytes of a plan and of its coordinator, and the number of units."""
    names = [f"S{i:03d}" for i in range(symbols)]
    for name in names:
        if not (tmp_path / "data" / f"{name}.parquet").exists():
            write(tmp_path / "data", name, 1500)
    asked = config(
        tmp_path, *names, portfolios=tuple(planning.PORTFOLIOS),
        windows=WindowConfig(unit="months", train=12, test=6, step=6, embargo=1, holdout=1, count=windows),
    )  # fmt: skip
    planning.plan(asked)  # prepared and imported
    tracemalloc.start()
    made = planning.plan(asked)
    planning.series.cache_clear()
    of_plan = tracemalloc.get_traced_memory()[0]
    units = [PlannedUnit(key=u.key, label=u.label, stage=u.stage, depends_on=u.depends_on) for u in made.units]
    before = tracemalloc.get_traced_memory()[0]
    coordinator = CoordinatorActor(units, workers={}, reusable=lambda key: False, on_progress=lambda progress: None)
    of_coordinator = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert coordinator.progress.planned == len(units)
    return of_plan, of_coordinator, len(units)


def test_a_plan_and_its_coordinator_grow_as_the_number_of_symbols(tmp_path: Path) -> None:
    """Sixteen symbols take no more than four times what four take, twelve portfolio strategies over all of them included."""
    few, many = planned(tmp_path, 4, 4), planned(tmp_path, 16, 4)

    assert many[0] < 4.2 * few[0]
    assert many[1] < 4.2 * few[1]
    assert many[0] / many[2] < 3000, "bytes of plan per unit"
