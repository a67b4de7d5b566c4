"""What a backtest's report is about, as plain data: artifacts and bars in, numbers by session out. Nothing here draws.

Returns, equity and odds are the recorded ones. Trades and the sensitivity to costs are not recorded; they are computed again
from the recorded parameters by the functions that research used, and are there only where the returns come out equal, and
only of the best symbols: of hundreds, a page of readable size shows the rest as a row each.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from algo_royale.app.report import silence
from algo_royale.costs import CostRules
from algo_royale.errors import ArtifactError
from algo_royale.market import FloatArray, IntArray, SignalArray, Timeframe
from algo_royale.portfolio import weights as portfolio_weights
from algo_royale.research import artifacts, metrics, passport, portfolio_stages, signal_stages
from algo_royale.research.optimise import Objective
from algo_royale.research.plan import ResearchConfig, Series, read_data, series, warmup_bars
from algo_royale.research.signal_stages import Searched
from algo_royale.research.viability import Check, Dimension, ViabilityConfig
from algo_royale.research.windows import Window, WindowConfig, windows
from algo_royale.sessions import calendar, new_york_date
from algo_royale.strategies import space

COST_MULTIPLES = (0, 1, 2, 3)
DETAILED_MAX = 30  # symbols told in full; with more of them a page would pass five megabytes
MONTHS = 12
FLAT = 1e-12  # a deviation below it is none, as for every Sharpe ratio here


@dataclass(frozen=True, slots=True, kw_only=True)
class Trade:
    """A round trip; `entry` and `exit` number the sessions of the stitched test ranges. Adjusted prices, US dollars."""

    entry: int
    exit: int
    entered: date
    exited: date
    entry_price: float
    exit_price: float
    net_pnl: float
    gain: float
    closed_by_end: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """One window: [first, last) number its test sessions. `point` is the chosen point of the search space.

    `why` says, of a window without a trade, what kept it out; `voters` who voted (a portfolio's window only).
    """

    window_id: str
    test_start: date
    test_end: date
    first: int
    last: int
    gain: float
    benchmark: float
    num_trades: int
    searched: bool
    point: Mapping[str, Any] | None
    train_sharpe: float | None
    test_sharpe: float | None
    pbo: float | None
    why: str = ""
    voters: Mapping[str, Sequence[str]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CostRow:
    """Stitched results at so many times the run's costs."""

    multiple: int
    total_return: float
    sharpe_ratio: float | None
    max_drawdown: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawdown:
    """A fall from a peak; `end` is None while it lasts. `sessions` from peak to recovery or to the last session."""

    peak: date
    valley: date
    end: date | None
    depth: float
    sessions: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A symbol with its best strategy, or the portfolio with its best one: test windows end to end, one value a session.

    `document` is the summary artifact. `price` and `trades` are a symbol's (`equal` False: computed again, the returns
    differ, so no trades and no costs); `fills`, `held` (symbol -> share of equity) a portfolio's. Not `detailed`: only what
    a row of a table needs was read, so there are no trades, costs or evaluations.
    """

    name: str
    document: Mapping[str, Any]
    dates: tuple[date, ...]
    returns: FloatArray
    benchmark: FloatArray
    walks: tuple[Walk, ...]
    dimensions: tuple[Dimension, ...]
    evaluations: tuple[Mapping[str, Any], ...]
    price: FloatArray | None = None
    trades: tuple[Trade, ...] = ()
    costs: tuple[CostRow, ...] = ()
    equal: bool = True
    fills: tuple[Mapping[str, Any], ...] = ()
    held: Mapping[str, FloatArray] | None = None
    detailed: bool = True

    @property
    def is_portfolio(self) -> bool:
        return self.held is not None

    @property
    def strategy(self) -> str:
        return str(self.document["strategy"])

    @cached_property
    def equity(self) -> FloatArray:
        """Growth of 1."""
        return metrics.stitch([self.returns], 1.0)[1]

    @cached_property
    def benchmark_equity(self) -> FloatArray:
        return metrics.stitch([self.benchmark], 1.0)[1]

    @cached_property
    def benchmark_figures(self) -> dict[str, float | None]:
        """Return, Sharpe ratio and largest fall of buying and holding over the same sessions, without costs."""
        curve = self.benchmark_equity
        total = float(curve[-1]) - 1.0 if len(curve) else 0.0
        return {
            "total_return": total,
            "cagr": metrics.cagr(total, len(curve)),
            "sharpe_ratio": metrics.sharpe_ratio(self.benchmark),
            "max_drawdown": metrics.drawdown(curve, 1.0)[0],
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """A whole run, the best symbol first. `missing` maps symbols without a verdict to why; `bars` has symbol, number of
    bars, first and last date."""

    manifest: Mapping[str, Any]
    config: ResearchConfig
    symbols: tuple[Subject, ...]
    portfolio: Subject | None
    missing: Mapping[str, str]
    bars: tuple[tuple[str, int, date, date], ...]


def load(root: Path) -> Run:
    """Read the artifacts below `root` and the bars they were made from.

    Raises ArtifactError, saying what to do, if there is no manifest, an artifact is unreadable, or the data are not those
    of the run any more.
    """
    manifest = artifacts.read(root / artifacts.MANIFEST, "run_manifest")
    config = restored(manifest, root)
    if read_data(config)[1] != manifest["data_fingerprint"]:
        raise ArtifactError(f"the bars of {config.data!r} are not those of this run any more; run run-backtest again")
    start, end = (date.fromisoformat(manifest[key]) for key in ("start", "end"))
    cut = windows(calendar(), config.window_config, config.timeframe, start=start, end=end).windows
    units = manifest["units"]
    summaries, missing = {}, {}
    for symbol in config.symbols:
        key = artifacts.symbol_summary_path(Path(), symbol).as_posix()
        if key not in units:
            missing[symbol] = "its data cover no whole window"
        elif units[key]["status"] != "complete":
            missing[symbol] = units[key].get("error", "no verdict yet")
        else:
            summaries[symbol] = artifacts.read(artifacts.symbol_summary_path(root, symbol), "signal_summary")
    ranked = sorted(summaries, key=lambda symbol: _rank(summaries[symbol]))
    symbols, bars = {}, []
    for symbol in config.symbols:  # in this order and once each, so that bars are read once each
        if symbol in summaries:
            full = symbol in ranked[:DETAILED_MAX]
            symbols[symbol] = _symbol(config, symbol, summaries[symbol], cut, full=full)
        bars.append(_extent(config, symbol))
    key = artifacts.portfolio_summary_path(Path(), config.symbols).as_posix()
    done = units.get(key, {}).get("status") == "complete"
    return Run(
        manifest=manifest, config=config, symbols=tuple(symbols[name] for name in ranked), missing=missing,
        portfolio=_portfolio(config, cut) if done else None, bars=tuple(bars),
    )  # fmt: skip


def _rank(document: Mapping[str, Any]) -> tuple[Any, ...]:
    sharpe = document["oos"]["sharpe_ratio"]
    return not document["is_viable"], -document["viability_score"], -(sharpe or 0.0), document["symbol"]


def _extent(config: ResearchConfig, symbol: str) -> tuple[str, int, date, date]:
    starts = series(config.data, symbol, config.timeframe).bars.start_ns
    return symbol, len(starts), new_york_date(int(starts[0])), new_york_date(int(starts[-1]))


def restored(manifest: Mapping[str, Any], root: Path) -> ResearchConfig:
    """The configuration of a run as far as its backtests of single symbols depend on it."""
    settings = manifest.get("settings")
    if settings is None:
        raise ArtifactError(f"{root / artifacts.MANIFEST} does not say its settings; run run-backtest again")
    costs: dict[str, Any] = {k: None if v is None else Decimal(v) for k, v in settings["costs"].items()}
    judged, prepared = settings["viability"], root.with_name("cache")
    return ResearchConfig(
        artifacts_root=root, cache=prepared if prepared.is_dir() else None, symbols=tuple(manifest["symbols"]), strategies=tuple(manifest["strategies"]),
        portfolios=tuple(manifest["portfolios"]), timeframe=Timeframe(manifest["timeframe"]), data=settings["data"],
        windows=WindowConfig(**settings["windows"]), trials=settings["trials"],
        portfolio_trials=settings["portfolio_trials"], min_trades=settings["min_trades"], seed=manifest["seed"],
        objective=Objective(**{key: tuple(names) for key, names in settings["objective"].items()}),
        strategy_path=tuple(settings.get("strategy_path", ())),
        costs=CostRules(**costs), start_equity=settings["start_equity"], rf=settings["rf"],
        viability=ViabilityConfig(
            checks=tuple(Check(**check) for check in judged["checks"]), threshold=judged["threshold"], hard_checks=()
        ),
    )  # fmt: skip


# --- a symbol ------------------------------------------------------------------------------------------------------------


def _symbol(
    config: ResearchConfig, symbol: str, document: Mapping[str, Any], cut: Sequence[Window], *, full: bool
) -> Subject:
    """A symbol's subject; unless `full` without what has to be computed again."""
    root, name = config.artifacts_root, document["strategy"]
    by_id = {window.window_id: window for window in cut}
    own = [by_id[row["window_id"]] for row in document["window_params"]]
    found = [_searched(config, artifacts.signal_folder(symbol, name), window) for window in own]
    data, dimensions = series(config.data, symbol, config.timeframe), space(name, config.timeframe)
    spans = [data.span(window.test_start_ns, window.test_end_ns) for window in own]
    stored = [s.arrays["test_returns"] for s in found]
    last = [low + data.last_bars(low, high) for low, high in spans]
    dates = tuple(new_york_date(int(at)) for rows in last for at in data.sessions[data.session[rows]])
    if len(dates) != sum(map(len, stored)):
        raise ArtifactError(f"{symbol}: the bars have not the sessions of its artifacts; run run-backtest --fresh")
    benchmark = [signal_stages.buy_and_hold(data, low, high) for low, high in spans]
    walks, first = [], 0
    for window, searched, held in zip(own, found, benchmark, strict=True):
        walks.append(_walk(window, searched, dimensions, held, first))
        first = walks[-1].last
    subject = Subject(
        name=symbol, document=document, dates=dates, returns=np.concatenate(stored), benchmark=np.concatenate(benchmark),
        walks=tuple(walks), dimensions=dimensions, price=data.bars.close[np.concatenate(last)], detailed=full,
        evaluations=tuple(artifacts.read(artifacts.evaluation_path(root, symbol, s)) for s in config.strategies)
        if full else (),
    )  # fmt: skip
    return _again(config, data, subject, own, spans, stored) if full else subject


def _again(
    config: ResearchConfig, data: Series, subject: Subject, own: Sequence[Window], spans: Sequence[tuple[int, int]],
    stored: Sequence[FloatArray],
) -> Subject:  # fmt: skip
    """The subject with what is computed again from its recorded parameters: trades, costs, why it was silent."""
    name, chosen = subject.strategy, [row["params"] for row in subject.document["window_params"]]
    signals = [
        _signal(config, data, name, params, w, span) for params, w, span in zip(chosen, own, spans, strict=True)
    ]  # fmt: skip
    again = [
        signal_stages.judge_interval(config, data, signal, *span)
        for signal, span in zip(signals, spans, strict=True)
    ]  # fmt: skip
    equal = all(np.array_equal(a.returns, b) for a, b in zip(again, stored, strict=True))
    walks, trades = [], []
    for walk, params, window, span, done in zip(subject.walks, chosen, own, spans, again, strict=True):
        silent = not walk.num_trades
        walks.append(replace(walk, why=_why_silent(config, data, subject, params, window, span)) if silent else walk)
        trades += _trades(done, data, span[0], subject.dates, walk.first) if equal else []

    def at(multiple: int) -> list[FloatArray]:
        dearer = replace(config, costs=config.costs.times(multiple))
        pairs = zip(signals, spans, strict=True)
        return [signal_stages.judge_interval(dearer, data, signal, *span, full=False).returns for signal, span in pairs]

    costs = _cost_rows(config, at) if equal else ()
    return replace(subject, walks=tuple(walks), trades=tuple(trades), costs=costs, equal=equal)


def _searched(config: ResearchConfig, folder: str, window: Window) -> Searched:
    return signal_stages.load_searched(config, f"{folder}/{window.window_id}/{artifacts.OPTIMIZATION}")


def _signal(
    config: ResearchConfig, data: Series, name: str, params: Mapping[str, Any] | None, window: Window,
    span: tuple[int, int],
) -> SignalArray:  # fmt: skip
    if params is None:
        return np.zeros(span[1] - span[0], np.int8)
    return signal_stages.strategy_signal(config, data, name, params, *span, window.train_start_ns)


def _walk(
    window: Window, searched: Searched, dimensions: Sequence[Dimension], benchmark: FloatArray, first: int
) -> Walk:
    search, test = searched.document["optimization"], searched.document["test"]["metrics"]
    return Walk(
        window_id=window.window_id, test_start=window.test_start, test_end=window.test_end, first=first,
        last=first + len(searched.arrays["test_returns"]), gain=float(test["total_return"]),
        benchmark=float(np.prod(1.0 + benchmark)) - 1.0, num_trades=int(test["num_trades"]),
        searched=searched.params is not None, point=searched.point(dimensions),
        train_sharpe=(search["metrics"] or {}).get("sharpe_ratio"), test_sharpe=test["sharpe_ratio"],
        pbo=(search["overfitting"] or {}).get("pbo"),
    )  # fmt: skip


def _trades(done: signal_stages.Judged, data: Series, low: int, dates: Sequence[date], first: int) -> list[Trade]:
    found, out = done.backtest.trades, []
    for i in range(len(found)):
        entry, leave = (
            first + int(data.session[low + at] - data.session[low]) for at in (found.entry[i], found.exit[i])
        )
        out.append(
            Trade(
                entry=entry, exit=leave, entered=dates[entry], exited=dates[leave],
                entry_price=float(found.entry_price[i]), exit_price=float(found.exit_price[i]),
                net_pnl=float(found.net_pnl[i]), gain=float(found.returns[i]),
                closed_by_end=found.open_at_end and i == len(found) - 1,
            )
        )  # fmt: skip
    return out


def _cost_rows(config: ResearchConfig, returns: Callable[[int], Sequence[FloatArray]]) -> tuple[CostRow, ...]:
    """Stitched results at multiples of the costs; `returns(multiple)` gives those of each window."""
    rows = []
    for multiple in COST_MULTIPLES:
        whole, equity = metrics.stitch(list(returns(multiple)), 1.0)
        rows.append(
            CostRow(
                multiple=multiple, total_return=float(equity[-1]) - 1.0 if len(equity) else 0.0,
                sharpe_ratio=metrics.sharpe_ratio(whole, rf=config.rf), max_drawdown=metrics.drawdown(equity, 1.0)[0],
            )
        )  # fmt: skip
    return tuple(rows)


def _why_silent(
    config: ResearchConfig, data: Series, subject: Subject, params: Mapping[str, Any] | None, window: Window,
    span: tuple[int, int],
) -> str:  # fmt: skip
    """What kept a strategy out of a whole test range."""
    name = subject.strategy
    if params is None:
        folder = config.artifacts_root / artifacts.signal_folder(subject.name, name) / window.window_id
        sidecar = artifacts.read(folder / artifacts.OPTIMIZATION)["sidecar"]
        made = artifacts.read_sidecar(folder / sidecar["file"], sidecar["sha256"], ("num_trades",))["num_trades"]
        busiest = f": the busiest made {int(made.max())}" if len(made) else ""
        return f"no set of parameters made {config.min_trades} trades in training{busiest}; the window stayed in cash"
    first, _ = data.span(window.train_start_ns, window.train_start_ns)
    bars = data.bars.slice(max(0, first - warmup_bars(config, name)), span[1])
    return silence.why(bars, span[1] - span[0], name, params, config.timeframe)


# --- the portfolio -------------------------------------------------------------------------------------------------------


def _portfolio(config: ResearchConfig, cut: Sequence[Window]) -> Subject:
    root = config.artifacts_root
    document = artifacts.read(artifacts.portfolio_summary_path(root, config.symbols), "portfolio_summary")
    name = document["strategy"]
    by_id = {window.window_id: window for window in cut}
    own = [by_id[row["window_id"]] for row in document["window_params"]]
    dimensions = portfolio_weights.space(name, config.timeframe.bars_per_year)
    labels, stored, benchmark, fills, walks, first = [], [], [], [], [], 0
    at: dict[int, list[FloatArray]] = {multiple: [] for multiple in COST_MULTIPLES}
    shares: dict[str, list[FloatArray]] = {symbol: [] for symbol in config.symbols}
    for window in own:
        searched = _searched(config, artifacts.portfolio_folder(config.symbols, name), window)
        chosen = searched.document["symbol_signals"]
        voters = {s: [v["strategy"] for v in found["strategies"]] for s, found in sorted(chosen.items())}
        days = _sessions(config, window, [s for s, names in voters.items() if names])
        returns = searched.arrays["test_returns"]
        if len(days) != len(returns):
            raise ArtifactError(f"{window.window_id}: the bars have not the sessions of the portfolio's artifact")
        held = portfolio_stages.equal_hold(config, sorted(chosen), days.tolist())
        done = searched.document["test"]["transactions"]
        equity = metrics.stitch([returns], config.start_equity)[1]
        for symbol, parts in shares.items():
            parts.append(_share(config, symbol, [f for f in done if f["symbol"] == symbol], days, equity))
        walks.append(replace(_walk(window, searched, dimensions, held, first), voters=voters))
        for multiple, found in _at_costs(config, name, window, searched, returns).items():
            at[multiple].append(found)
        first += len(returns)
        labels.append(days)
        stored.append(returns)
        benchmark.append(held)
        fills += done
    return Subject(
        name="Portfolio", document=document, dates=tuple(new_york_date(int(at)) for days in labels for at in days),
        returns=np.concatenate(stored), benchmark=np.concatenate(benchmark), walks=tuple(walks), dimensions=dimensions,
        evaluations=tuple(
            artifacts.read(artifacts.portfolio_evaluation_path(root, config.symbols, s)) for s in config.portfolios
        ),
        fills=tuple(fills), held={symbol: np.concatenate(parts) for symbol, parts in shares.items()},
        costs=_cost_rows(config, at.__getitem__),
    )  # fmt: skip


def _at_costs(
    config: ResearchConfig, name: str, window: Window, searched: Searched, returns: FloatArray
) -> dict[int, FloatArray]:
    """Session returns of a window's test at each multiple of the costs, as the search recorded them."""
    folder = config.artifacts_root / artifacts.portfolio_folder(config.symbols, name) / window.window_id
    names = {multiple: f"test_returns_costs_{multiple}" for multiple in portfolio_stages.OTHER_COSTS}
    names |= {passport.COST_MULTIPLE: "test_returns_double_costs"}
    sidecar = searched.document["sidecar"]
    arrays = artifacts.read_sidecar(folder / sidecar["file"], sidecar["sha256"], tuple(names.values()))
    return {1: returns} | {multiple: arrays[key] for multiple, key in names.items()}


def _sessions(config: ResearchConfig, window: Window, symbols: Sequence[str]) -> IntArray:
    """Labels of the test sessions as the simulation saw them: those in which a traded symbol has a bar."""
    if not symbols:
        return np.array([s.label_ns for s in calendar().sessions(window.test_start, window.test_end)], np.int64)
    found = []
    for symbol in symbols:
        data = series(config.data, symbol, config.timeframe)
        low, high = data.span(window.test_start_ns, window.test_end_ns)
        found.append(data.sessions[np.unique(data.session[low:high])])
    return np.unique(np.concatenate(found))


def _share(
    config: ResearchConfig, symbol: str, fills: Sequence[Mapping[str, Any]], days: IntArray, equity: FloatArray
) -> FloatArray:
    """Share of equity in a symbol at each session's close, from the recorded positions."""
    if not fills:
        return np.zeros(len(days))
    data = series(config.data, symbol, config.timeframe)
    times = np.array([np.datetime64(f["timestamp"].rstrip("Z"), "ns").astype(np.int64) for f in fills])
    ends = np.append(days[1:], days[-1] + 86_400_000_000_000)
    after = np.concatenate(([0.0], [f["position_after"] for f in fills]))
    quantity = after[np.searchsorted(times, ends, side="left")]
    close = data.bars.close[np.maximum(np.searchsorted(data.bars.start_ns, ends, side="left") - 1, 0)]
    return np.asarray(quantity * close / equity, np.float64)


# --- figures of a curve --------------------------------------------------------------------------------------------------


def worst_drawdowns(dates: Sequence[date], equity: FloatArray, count: int = 5) -> list[Drawdown]:
    """The deepest falls that do not overlap, deepest first; the start (1) counts as a peak on the first date."""
    found, n = [], len(equity)
    peak = np.maximum(np.maximum.accumulate(equity), 1.0)
    under = np.concatenate(([False], equity < peak, [False]))
    for start, stop in zip(*(np.flatnonzero(np.diff(under.astype(np.int8)) == x) for x in (1, -1)), strict=True):
        depth = 1.0 - equity[start:stop] / peak[start:stop]
        valley = int(start + np.argmax(depth))
        found.append(
            Drawdown(
                peak=dates[max(0, int(start) - 1)], valley=dates[valley], end=dates[stop] if stop < n else None,
                depth=float(depth.max()), sessions=int(min(stop, n - 1) - max(0, start - 1)),
            )
        )  # fmt: skip
    return sorted(found, key=lambda d: (-d.depth, d.peak))[:count]


def monthly(dates: Sequence[date], returns: FloatArray) -> dict[int, list[float | None]]:
    """Year -> twelve returns and the year's; None for a month without a session."""
    growth: dict[tuple[int, int], float] = {}
    for day, value in zip(dates, returns.tolist(), strict=True):
        for key in ((day.year, day.month - 1), (day.year, MONTHS)):
            growth[key] = growth.get(key, 1.0) * (1.0 + value)
    years = sorted({day.year for day in dates})
    return {year: [growth[year, m] - 1.0 if (year, m) in growth else None for m in range(MONTHS + 1)] for year in years}


def rolling_sharpe(returns: FloatArray, length: int) -> FloatArray:
    """Sharpe ratio of the last `length` sessions at each session; NaN before, and where it is undefined."""
    out = np.full(len(returns), np.nan)
    if len(returns) < length or length < 2:
        return out
    parts = np.lib.stride_tricks.sliding_window_view(returns, length)
    mean, spread = parts.mean(axis=1), parts.std(axis=1, ddof=1)
    flat = spread < FLAT
    ratio = mean / np.where(flat, 1.0, spread) * np.sqrt(metrics.SESSIONS_PER_YEAR)
    out[length - 1 :] = np.where(flat, np.where(np.abs(mean) < FLAT, 0.0, np.nan), ratio)
    return out
