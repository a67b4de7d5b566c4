"""What a run computes, in what order, and what of it is already there.

A unit is one artifact; its key is the artifact's path below the optimization root. Units are a function of configuration
and data alone. A unit is reusable if its file is there and was made by the same schema, configuration, data and code.
"""

import glob
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from algo_royale.costs import CostRules
from algo_royale.data import mapped
from algo_royale.data.catalog import Catalog, fingerprint, open_catalog
from algo_royale.errors import ArtifactError, BadInput, InsufficientHistory, UnsupportedTimeframe
from algo_royale.holds import HoldRules
from algo_royale.market import Bars, IntArray, Timeframe
from algo_royale.portfolio import weights as portfolio_weights
from algo_royale.portfolio.sizing import AccountRules, OrderPolicy, OrderType
from algo_royale.portfolio.weights import PORTFOLIOS, WeightConfig
from algo_royale.research import artifacts
from algo_royale.research.optimise import Objective, Search
from algo_royale.research.viability import Check, ViabilityConfig
from algo_royale.research.windows import Window, WindowConfig, windows
from algo_royale.sessions import calendar, new_york_date
from algo_royale.strategies import STRATEGIES, loading, required_history, spec

COVERAGE_MIN = 0.95  # share of a window's sessions that a symbol must have
STAGES = (
    "signal_optimization", "signal_evaluation", "symbol_summary",
    "portfolio_optimization", "portfolio_evaluation", "portfolio_summary",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ResearchConfig:
    """Everything a run depends on. `start` and `end` are inclusive dates; None reaches as far as the data.

    `windows` None takes the timeframe's default. `start_equity` in US dollars; `rf` a year. `rules` None is a research
    account (fractional, adjusted prices) with these `costs`. `cache` is a folder for prepared bars, which processes map instead
    of reading the data; None keeps them in memory. Strategies that cannot read bars of this length move from
    `strategies` to `unsupported`.
    """

    artifacts_root: Path
    symbols: tuple[str, ...]
    strategies: tuple[str, ...] = tuple(STRATEGIES)
    portfolios: tuple[str, ...] = tuple(PORTFOLIOS)
    timeframe: Timeframe = Timeframe.DAY_1
    data: str = "bundled"
    start: date | None = None
    end: date | None = None
    windows: WindowConfig | None = None
    trials: int = 100
    portfolio_trials: int = 50
    objective: Objective = field(default_factory=Objective)
    search: Search = field(default_factory=Search)
    min_trades: int = 10
    seed: int = 20240501
    cache: Path | None = None
    costs: CostRules = field(default_factory=CostRules)
    start_equity: float = 100_000.0
    rf: float = 0.0
    viability: ViabilityConfig = field(default_factory=ViabilityConfig)
    weights: WeightConfig = field(default_factory=WeightConfig)
    rules: AccountRules | None = None
    strategy_path: tuple[str, ...] = ()
    own: tuple[tuple[str, str], ...] = field(init=False)
    unsupported: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        for name in ("symbols", "strategies", "portfolios"):
            given = getattr(self, name)
            if len(set(given)) != len(given):
                raise BadInput(f"{name}: {', '.join(given)} names one twice")
            object.__setattr__(self, name, tuple(sorted(given)))
        if not self.symbols or not self.strategies:
            raise BadInput("at least one symbol and one strategy are needed")
        if self.trials < 1 or self.portfolio_trials < 1 or self.min_trades < 0 or not self.start_equity > 0:
            raise BadInput("trials must be at least 1, min_trades at least 0, start_equity positive")
        own = loading.load(self.strategy_path)
        object.__setattr__(self, "own", tuple((name, own[name]) for name in self.strategies if name in own))
        readable = tuple(name for name in self.strategies if spec(name).supports(self.timeframe))
        object.__setattr__(self, "unsupported", tuple(sorted(set(self.strategies) - set(readable))))
        object.__setattr__(self, "strategies", readable)
        if not readable:
            raise UnsupportedTimeframe(
                f"{', '.join(self.unsupported)}: of no use on {self.timeframe.value} bars; choose shorter ones"
            )
        for portfolio in self.portfolios:
            portfolio_weights.portfolio(portfolio)
        weights = replace(self.weights, bars_per_year=self.timeframe.bars_per_year, rf=self.rf)
        object.__setattr__(self, "weights", weights)

    @property
    def versions(self) -> dict[str, str]:
        """Of the strategies that are a user's own, by name."""
        return dict(self.own)

    @property
    def window_config(self) -> WindowConfig:
        return self.windows or WindowConfig.default(self.timeframe)

    @property
    def account_rules(self) -> AccountRules:
        return self.rules or AccountRules(costs=self.costs)


# Which part of a configuration a stage's artifacts depend on; the portfolio's stages on all of it.
_PARTS = {
    "signal_optimization": "signal",
    "signal_evaluation": "signal_viability",
    "symbol_summary": "signal_viability",
}


class Input(NamedTuple):
    """One signal optimisation that a unit reads."""

    symbol: str
    strategy: str
    window: Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One artifact to make. `windows` are those with enough data, in time order; `window` is the unit's own."""

    key: str
    label: str
    stage: str
    symbol: str | None = None
    strategy: str | None = None
    window: Window | None = None
    windows: tuple[Window, ...] = ()
    inputs: tuple[Input, ...] = ()
    depends_on: tuple[str, ...] = ()
    span: tuple[date, date]
    config_hash: str
    data_fingerprint: str

    def path(self, config: ResearchConfig) -> Path:
        return config.artifacts_root / self.key


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Units in dependency order. `skipped` maps what cannot be made to why: unsupported_timeframe or insufficient_data."""

    units: tuple[Unit, ...]
    skipped: Mapping[str, str]
    windows: tuple[Window, ...]
    start: date
    end: date
    holdout_start: date
    data_fingerprint: str
    code_version: str

    def unit(self, key: str) -> Unit:
        return next(unit for unit in self.units if unit.key == key)


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """A symbol's bars as research sees them (adjusted) and as traded; `session` numbers each bar's session, `sessions`
    are the labels (midnight New York, UTC ns) of the sessions that have a bar; `fingerprint` is that of the adjusted bars."""

    bars: Bars
    raw: Bars
    session: IntArray
    sessions: IntArray
    fingerprint: str

    def span(self, start_ns: int, end_ns: int) -> tuple[int, int]:
        """Indices of the bars that start in [start_ns, end_ns)."""
        low, high = np.searchsorted(self.bars.start_ns, [start_ns, end_ns])
        return int(low), int(high)

    def session_edges(self, low: int, high: int, parts: int) -> list[int]:
        """Bar indices from `low` to `high` that cut the bars between into equal parts of whole sessions."""
        ends = self.last_bars(low, high) + 1
        if len(ends) < parts:
            raise InsufficientHistory(f"{len(ends)} sessions cannot be cut into {parts} folds")
        return [low, *(low + int(ends[len(ends) * i // parts - 1]) for i in range(1, parts)), high]

    def last_bars(self, low: int, high: int) -> IntArray:
        """Index within [low, high) of each session's last bar."""
        part = self.session[low:high]
        return np.flatnonzero(np.append(np.diff(part) != 0, True)) if len(part) else np.empty(0, np.int64)


_prepared: dict[tuple[str, str, Timeframe], Path] = {}  # of this process: what `read_data` or `use_prepared` said


@cache
def series(data: str, symbol: str, timeframe: Timeframe) -> Series:
    """A symbol's whole history, read once per process, or mapped where it has been prepared."""
    place = _prepared.get((data, symbol, timeframe))
    if place is not None:
        return _mapped(place)
    catalog = _catalog(data)
    bars = catalog.adjusted(symbol, timeframe)
    first, last = (new_york_date(int(bars.start_ns[i])) for i in (0, -1))
    labels = np.array([s.label_ns for s in calendar().sessions(first, last)], np.int64)
    found = labels[np.searchsorted(labels, bars.start_ns, side="right") - 1]
    sessions, number = np.unique(found, return_inverse=True)
    own = fingerprint([bars], "forward")
    return Series(bars, catalog.bars(symbol, timeframe), number.astype(np.int64), sessions, own)


_PRICED = ("open", "high", "low", "close", "volume", "vwap")  # what adjustment changes


def _write_series(place: Path, made: Series) -> None:
    """Put a series where it can be mapped from; adjusted columns only where they differ from the raw ones."""
    arrays = {name: getattr(made.raw, name) for name in ("start_ns", "end_ns", *_PRICED, "trade_count")}
    for name in _PRICED:
        adjusted = getattr(made.bars, name)
        if not np.array_equal(adjusted, arrays[name], equal_nan=True):
            arrays[f"adjusted_{name}"] = adjusted
    arrays |= {"session": made.session, "sessions": made.sessions}
    arrays |= {f"extra_{name}": column for name, column in made.raw.extra.items()}
    about = {"symbol": made.raw.symbol, "timeframe": made.raw.timeframe.value, "fingerprint": made.fingerprint}
    mapped.write(place, about, arrays)


def _mapped(place: Path) -> Series:
    about, arrays = mapped.read(place)
    timeframe = Timeframe(about["timeframe"])
    extra = {name.removeprefix("extra_"): arrays[name] for name in arrays if name.startswith("extra_")}
    common: dict[str, Any] = {name: arrays[name] for name in ("start_ns", "end_ns", "trade_count")}
    common |= {"symbol": about["symbol"], "timeframe": timeframe, "extra": extra}
    raw = Bars(**common | {name: arrays[name] for name in _PRICED})
    bars = Bars(**common | {name: arrays.get(f"adjusted_{name}", arrays[name]) for name in _PRICED})
    return Series(bars, raw, arrays["session"], arrays["sessions"], about["fingerprint"])


def read_data(config: ResearchConfig) -> tuple[dict[str, str], str]:
    """Read the run's bars anew; gives the fingerprint of each symbol and that of all.

    With a cache this process maps them from there from now on, and what is there and was made of the very same files by the
    same code is not made again. Raises UnknownName before anything is read.
    """
    forget_data()
    catalog, timeframe = _catalog(config.data), config.timeframe
    for symbol in config.symbols:
        catalog.holds(symbol, timeframe)  # names the symbol that is unknown
    for symbol in config.symbols if config.cache else ():
        place = _place(config, symbol, catalog.digest(symbol))
        if not place.exists():
            _write_series(place, series(config.data, symbol, timeframe))
            for older in place.parent.glob(f"{glob.escape(symbol)}.????????????????????????.bars"):
                if older != place:
                    older.unlink(missing_ok=True)
            series.cache_clear()
            catalog.forget()
        _prepared[config.data, symbol, timeframe] = place
    made = {symbol: series(config.data, symbol, timeframe) for symbol in config.symbols}
    return {symbol: s.fingerprint for symbol, s in made.items()}, fingerprint(
        (s.bars for s in made.values()), "forward"
    )


def _place(config: ResearchConfig, symbol: str, digest: str) -> Path:
    assert config.cache
    source = config.data if config.data == "bundled" else str(Path(config.data).resolve())
    folder = config.cache / "bars" / hashlib.sha256(source.encode()).hexdigest()[:12] / config.timeframe.value
    return folder / f"{symbol}.{artifacts.content_hash([digest, artifacts.code_version()])[:24]}.bars"


def prepared(config: ResearchConfig) -> dict[str, Path]:
    """Where this process maps the run's bars from, for a process that is to compute units; empty without a cache."""
    wanted = {symbol: _prepared.get((config.data, symbol, config.timeframe)) for symbol in config.symbols}
    return {symbol: place for symbol, place in wanted.items() if place is not None}


def use_prepared(config: ResearchConfig, places: Mapping[str, Path]) -> None:
    """Map the run's bars from where the planning process prepared them, whatever the data have become since."""
    forget_data()
    _prepared.update({(config.data, symbol, config.timeframe): place for symbol, place in places.items()})


@lru_cache(maxsize=4)
def _catalog(data: str) -> Catalog:
    return open_catalog(data)


def forget_data() -> None:
    """Drop what this process has read or mapped, so that changed files are seen."""
    _prepared.clear()
    series.cache_clear()
    _catalog.cache_clear()


@lru_cache(maxsize=1024)
def _session_count(first: date, last: date) -> int:
    return len(calendar().sessions(first, last))


def covered(symbol: Series, window: Window) -> bool:
    """Whether the symbol has a bar in enough of the window's sessions."""
    wanted = _session_count(window.train_start, window.test_end)
    low, high = np.searchsorted(symbol.sessions, [window.train_start_ns, window.test_end_ns])
    return bool(high - low >= COVERAGE_MIN * wanted)


def warmup_bars(config: ResearchConfig, strategy: str | None = None) -> int:
    """Bars before an interval that its features start from: of one strategy, or the most that any needs."""
    names = (strategy,) if strategy else config.strategies
    return max(required_history(name, config.timeframe) for name in names)


def load_strategies(config: ResearchConfig) -> None:
    """Have the user's own strategies of the run in the tables of this process; raises BadStrategy if one has changed."""
    loading.load(config.strategy_path)
    for name, version in config.versions.items():
        loading.require(name, version)


def plan(config: ResearchConfig) -> Plan:
    """Cut the range, look which symbols reach over which windows, and list the units. Data files are read anew.

    Raises UnknownName, BadInput or InsufficientHistory when the run as a whole is impossible.
    """
    load_strategies(config)
    prints, whole = read_data(config)
    loaded = {symbol: series(config.data, symbol, config.timeframe) for symbol in config.symbols}
    start = config.start or new_york_date(min(int(s.bars.start_ns[0]) for s in loaded.values()))
    end = config.end or new_york_date(max(int(s.bars.start_ns[-1]) for s in loaded.values()))
    cut = windows(calendar(), config.window_config, config.timeframe, start=start, end=end)
    available = {name: tuple(w for w in cut.windows if covered(s, w)) for name, s in loaded.items()}
    if not any(available.values()):
        raise InsufficientHistory(
            f"none of {', '.join(config.symbols)} has bars for {COVERAGE_MIN:.0%} of the sessions of any window"
            f" in {start} .. {end}; shorten train and test, or choose another range"
        )
    skipped = {
        f"{artifacts.signal_folder(symbol, strategy)}/{window.window_id}": reason
        for symbol in config.symbols
        for names, reason in ((config.strategies, "insufficient_data"), (config.unsupported, "unsupported_timeframe"))
        for strategy in names
        for window in cut.windows
        if strategy in config.unsupported or window not in available[symbol]
    }
    searches = {
        symbol: [
            (Input(symbol, strategy, window), optimisation_key(symbol, strategy, window))
            for strategy in config.strategies
            for window in own
        ]
        for symbol, own in available.items()
    }
    units = _signal_units(config, available, searches, prints, (start, end))
    units += _portfolio_units(config, available, searches, cut.windows, whole, (start, end))
    return Plan(
        units=tuple(units), skipped=skipped, windows=cut.windows, start=start, end=end,
        holdout_start=cut.holdout_start, data_fingerprint=whole, code_version=artifacts.code_version(),
    )  # fmt: skip


Searches = Mapping[str, Sequence[tuple[Input, str]]]
"""The signal optimisations of each symbol with their keys: made once, for a plan has many units that read the same."""


def _read_by(
    window: Window, available: Mapping[str, tuple[Window, ...]], searches: Searches
) -> tuple[tuple[Input, ...], tuple[str, ...]]:
    """What every portfolio optimisation of a window reads: the symbols with data for it, up to the end of its train range."""
    found = [
        pair
        for symbol, some in available.items()
        if window in some
        for pair in searches[symbol]
        if pair[0].window.train_end_ns <= window.train_end_ns
    ]
    return tuple(item for item, _ in found), tuple(key for _, key in found)


def _signal_units(
    config: ResearchConfig,
    available: Mapping[str, tuple[Window, ...]],
    searches: Searches,
    prints: Mapping[str, str],
    span: tuple[date, date],
) -> list[Unit]:
    judged = config_hash(config, "signal_viability", span)
    searched = {name: config_hash(config, "signal", span, name) for name in config.strategies}
    optimisations, evaluations, summaries = [], [], []
    for symbol, own in available.items():
        if not own:
            continue
        inputs = tuple(item for item, _ in searches[symbol])
        keys = tuple(key for _, key in searches[symbol])
        common: dict[str, Any] = {"symbol": symbol, "windows": own, "data_fingerprint": prints[symbol], "span": span}
        optimisations += [
            Unit(
                key=key,
                label=f"{symbol} {item.strategy} {item.window.window_id}",
                stage="signal_optimization",
                strategy=item.strategy,
                window=item.window,
                config_hash=searched[item.strategy],
                **common,
            )
            for item, key in searches[symbol]
        ]
        judges = [
            Unit(
                key=f"{artifacts.signal_folder(symbol, strategy)}/{artifacts.EVALUATION}",
                label=f"{symbol} {strategy}",
                stage="signal_evaluation",
                strategy=strategy,
                inputs=inputs,
                depends_on=keys,
                config_hash=judged,
                **common,
            )
            for strategy in config.strategies
        ]
        evaluations += judges
        summaries.append(
            Unit(
                key=f"signal/{symbol}/{artifacts.SUMMARY}",
                label=symbol,
                stage="symbol_summary",
                depends_on=tuple(unit.key for unit in judges),
                config_hash=judged,
                **common,
            )
        )
    return optimisations + evaluations + summaries


def _portfolio_units(
    config: ResearchConfig,
    available: Mapping[str, tuple[Window, ...]],
    searches: Searches,
    all_windows: Sequence[Window],
    data_fingerprint: str,
    span: tuple[date, date],
) -> list[Unit]:
    digest = config_hash(config, "portfolio", span)
    own = tuple(w for w in all_windows if any(w in some for some in available.values()))
    common: dict[str, Any] = {
        "windows": own, "data_fingerprint": data_fingerprint, "config_hash": digest, "span": span,
    }  # fmt: skip
    optimisations, evaluations = [], []
    read = {window: _read_by(window, available, searches) for window in own}
    for strategy in config.portfolios:
        folder = artifacts.portfolio_folder(config.symbols, strategy)
        keys = {window: f"{folder}/{window.window_id}/{artifacts.OPTIMIZATION}" for window in own}
        for window in own:
            inputs, depends_on = read[window]
            optimisations.append(
                Unit(
                    key=keys[window],
                    label=f"{strategy} {window.window_id}",
                    stage="portfolio_optimization",
                    strategy=strategy,
                    window=window,
                    inputs=inputs,
                    depends_on=depends_on,
                    **common,
                )
            )
    searched = tuple(unit.key for unit in optimisations)
    for strategy in config.portfolios:
        evaluations.append(
            Unit(
                key=f"{artifacts.portfolio_folder(config.symbols, strategy)}/{artifacts.EVALUATION}",
                label=strategy,
                stage="portfolio_evaluation",
                strategy=strategy,
                depends_on=searched,
                **common,
            )
        )
    if not evaluations:
        return []
    universe = artifacts.universe_name(config.symbols)
    summary = Unit(
        key=f"portfolio/{universe}/{artifacts.SUMMARY}", label=universe, stage="portfolio_summary",
        depends_on=tuple(u.key for u in evaluations), **common,
    )  # fmt: skip
    return optimisations + evaluations + [summary]


def optimisation_key(symbol: str, strategy: str, window: Window) -> str:
    """Key of a signal optimisation."""
    return f"{artifacts.signal_folder(symbol, strategy)}/{window.window_id}/{artifacts.OPTIMIZATION}"


def config_hash(config: ResearchConfig, part: str, span: tuple[date, date], strategy: str | None = None) -> str:
    """Digest of a part's recipe."""
    return artifacts.content_hash(recipe(config, part, span, strategy))


def recipe(config: ResearchConfig, part: str, span: tuple[date, date], strategy: str | None = None) -> dict[str, Any]:
    """The configuration that a part of the run depends on, and nothing else; where it runs and writes is none of it.

    A signal optimisation does not depend on which other symbols or strategies are searched, but on its own `strategy`'s code
    if a user wrote it; its evaluation does, for the deflated Sharpe ratio counts the strategies that were tried.
    """
    cut = config.window_config
    relevant: dict[str, Any] = {
        "timeframe": config.timeframe, "trials": config.trials, "seed": config.seed, "min_trades": config.min_trades,
        "objective": [config.objective.names, config.objective.directions], "start_equity": config.start_equity,
        "costs": _fields(config.costs), "windows": _fields(cut), "start": span[0], "end": span[1], "rf": config.rf,
        "search": config.search.recipe(),
    }  # fmt: skip
    if part != "signal":
        checks = [_fields(check) for check in config.viability.checks]
        relevant |= {
            "strategies": config.strategies, "checks": checks, "threshold": config.viability.threshold,
            "hard_checks": config.viability.hard_checks,
        }  # fmt: skip
    if part == "portfolio":
        relevant |= {
            "symbols": config.symbols, "portfolios": config.portfolios, "portfolio_trials": config.portfolio_trials,
            "weights": _fields(config.weights),
            "rules": _fields(config.account_rules),
        }  # fmt: skip
    code = {name: version for name, version in config.versions.items() if part != "signal" or name == strategy}
    return {"part": part, **relevant} | ({"strategy_versions": code} if code else {})


def unit_recipe(unit: Unit, config: ResearchConfig) -> dict[str, Any]:
    """The recipe whose digest is the unit's `config_hash`; it stands in the artifact, so that it can be made again."""
    return recipe(config, _PARTS.get(unit.stage, "portfolio"), unit.span, unit.strategy)


def from_recipe(
    found: Mapping[str, Any], root: Path, data: str, *, symbols: Sequence[str], strategies: Sequence[str]
) -> ResearchConfig:
    """A configuration under which the units of an artifact's recipe have the same `config_hash`; `symbols` and `strategies`
    are those to plan where the recipe does not depend on them. Raises KeyError, TypeError or ValueError for what is none."""

    def costs(values: Mapping[str, Any]) -> CostRules:
        exact: dict[str, Any] = {name: None if x is None else Decimal(x) for name, x in values.items()}
        return CostRules(**exact)

    given: dict[str, Any] = {name: tuple(x) if isinstance(x, list) else x for name, x in found.items()}
    code: Mapping[str, str] = found.get("strategy_versions", {})
    given.pop("strategy_versions", None)
    for name, version in code.items():
        loading.require(name, version)
    names, directions = given.pop("objective")
    own: dict[str, Any] = {"symbols": tuple(symbols), "strategies": tuple(strategies), "portfolios": ()}
    own |= {
        "timeframe": Timeframe(given.pop("timeframe")), "windows": WindowConfig(**given.pop("windows")),
        "objective": Objective(names=tuple(names), directions=tuple(directions)), "costs": costs(given.pop("costs")),
        "start": date.fromisoformat(given.pop("start")), "end": date.fromisoformat(given.pop("end")),
        "search": Search.from_recipe(given.pop("search")),
    }  # fmt: skip
    if given.pop("part") != "signal":
        own["viability"] = ViabilityConfig(
            checks=tuple(Check(**check) for check in given.pop("checks")), threshold=given.pop("threshold"),
            hard_checks=given.pop("hard_checks"),
        )  # fmt: skip
    if "rules" in given:
        rules = dict(given.pop("rules"))
        decimals = {name: Decimal(rules[name]) for name in ("lot", "min_notional", "drift_band")}
        held, sent = HoldRules(**rules.pop("holds", {})), dict(rules.pop("policy", {}))
        for name, exact in (("type", OrderType), ("collar_bps", Decimal)):
            sent |= {name: exact(sent[name])} if name in sent else {}
        parts = {"costs": costs(rules["costs"]), "holds": held, "policy": OrderPolicy(**sent)}
        own["rules"] = AccountRules(**{**rules, **decimals, **parts})
        own["weights"] = WeightConfig(**given.pop("weights"))
    return ResearchConfig(artifacts_root=root, data=data, **{**own, **given})


def settings(config: ResearchConfig) -> dict[str, Any]:
    """What the manifest says of a configuration beside names, dates and seed: enough to run any of its backtests again."""
    checks = [_fields(check) for check in config.viability.checks]
    own = {"strategy_path": config.strategy_path, "strategy_versions": config.versions} if config.versions else {}
    return {
        **own,
        "data": config.data, "windows": _fields(config.window_config), "trials": config.trials,
        "portfolio_trials": config.portfolio_trials, "min_trades": config.min_trades,
        "objective": {"names": config.objective.names, "directions": config.objective.directions},
        "search": config.search.recipe(),
        "costs": _fields(config.costs), "start_equity": config.start_equity, "rf": config.rf,
        "viability": {"checks": checks, "threshold": config.viability.threshold},
    }  # fmt: skip


def _fields(value: Any) -> dict[str, Any]:
    found = {name: getattr(value, name) for name in value.__slots__}
    return {
        name: str(x)
        if isinstance(x, Decimal)
        else _fields(x)
        if isinstance(x, CostRules | HoldRules | OrderPolicy)
        else x
        for name, x in found.items()
    }


def reusable(unit: Unit, config: ResearchConfig) -> bool:
    """Whether the unit's artifact is there and was made by this schema, configuration, data and code."""
    return left(unit, config) is not None


def left(unit: Unit, config: ResearchConfig) -> dict[str, Any] | None:
    """The unit's artifact, if it is reusable."""
    try:
        document = artifacts.read(unit.path(config))
    except ArtifactError:
        return None
    meta = document["optimization"]["meta"] if "optimization" in document else document["meta"]
    if (meta.get("config_hash"), meta.get("data_fingerprint"), meta.get("code_version")) != (
        unit.config_hash,
        unit.data_fingerprint,
        artifacts.code_version(),
    ):
        return None
    sidecar = document.get("sidecar")
    if sidecar is None:
        return document
    try:
        artifacts.read_sidecar(unit.path(config).with_name(sidecar["file"]), sidecar["sha256"], ())
    except ArtifactError:
        return None
    return document
