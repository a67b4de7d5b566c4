"""Plans, traders and simulations within the day, on minutes that a seed makes."""

from collections.abc import Mapping, Sequence
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from algo_royale.app.stepped import SteppedTrader, market_replay
from algo_royale.config import Config
from algo_royale.data.catalog import Catalog, write_parquet
from algo_royale.data.resample import resample
from algo_royale.exchange.replay import MarketReplay
from algo_royale.market import Bars, Timeframe
from algo_royale.research.handover import Member, SymbolPlan, TradingPlan, engine_config, simulate_plan
from algo_royale.research.simulate import SimulationResult
from algo_royale.sessions import calendar
from algo_royale.strategies import default_trial, resolve, strategy_id
from markets import MINUTE_NS, minutes
from traders import config

HALF = date(2012, 11, 23)  # the session after Thanksgiving ends at one
FIRST = date(2012, 11, 8)  # minutes from here on
SYMBOLS = ("AAA", "BBB", "CCC")
STRATEGIES = {"RSIStrategy": 0.6, "MomentumStrategy": 0.3, "PullbackEntryStrategy": 0.3}
BUSY = (("WickReversalStrategy", 1.0), ("PullbackEntryStrategy", 0.8))  # 20 orders within 40 quarters of an hour
COLUMNS = ("open", "high", "low", "close", "volume", "vwap", "trade_count")


def catalog_of(series: Mapping[str, Bars]) -> Catalog:
    """A catalogue of these minutes and of every longer bar that they make."""

    def read(symbol: str, timeframe: Timeframe | None) -> tuple[str, dict[str, Any]]:
        bars = series[symbol]
        if timeframe is not None and timeframe is not Timeframe.MIN_1:
            bars = resample(bars, timeframe)
        return symbol, {"timestamp": bars.start_ns, **{name: getattr(bars, name) for name in COLUMNS}}

    return Catalog("seeded minutes", dict.fromkeys(series, tuple(Timeframe)), read)


@lru_cache
def seeded(
    symbols: Sequence[str] = SYMBOLS, last: date = date(2012, 12, 7), gaps: float = 0.0, seed: int = 1, silent: int = 0
) -> Catalog:
    """Minutes of random walks over a month with a half day; `gaps` of the minutes have no trade, and the first symbol has none in
    the first `silent` minutes of each session."""
    sessions = calendar().sessions(FIRST, last)
    series = {s: minutes(s, seed + n, sessions, gaps=gaps) for n, s in enumerate(symbols)}
    bars = series[symbols[0]]
    opens = np.array([session.open_ns for session in sessions])
    late = bars.start_ns - opens[np.searchsorted(opens, bars.start_ns, side="right") - 1] >= silent * MINUTE_NS
    series[symbols[0]] = Bars.of(symbols[0], bars.timeframe, [bars.bar(row) for row in np.flatnonzero(late).tolist()])
    return catalog_of(series)


def config_on(folder: Path, catalog: Catalog) -> Config:
    """The shipped configuration over a folder with these minutes in it."""
    for symbol in catalog.symbols():
        bars = catalog.bars(symbol, Timeframe.MIN_1)
        columns = {name: getattr(bars, name) for name in COLUMNS}
        write_parquet(folder / "1Min" / f"{symbol}.parquet", {"timestamp": bars.start_ns, **columns})
    found = config()
    return found.model_copy(update={"research": found.research.model_copy(update={"data": str(folder)})})


@lru_cache
def plan(
    timeframe: str,
    symbols: Sequence[str] = SYMBOLS,
    warmup_bars: int = 60,
    portfolio: str = "EqualWeight",
    strategies: Sequence[tuple[str, float]] = tuple(STRATEGIES.items()),
) -> TradingPlan:
    length, members = Timeframe(timeframe), []
    for name, weight in strategies:
        params = resolve(name, default_trial(name, length), length)
        members.append(
            Member(strategy=name, strategy_id=strategy_id(name, params, length), weight=weight, params=params)
        )
    return TradingPlan(
        timeframe=timeframe, universe="_".join(symbols), portfolio=f"{portfolio}PortfolioStrategy",
        symbols=tuple(SymbolPlan(symbol=s, viability=1.0, members=tuple(members)) for s in symbols),
        portfolio_params={} if portfolio == "EqualWeight" else {"lookback": 40}, warmup_bars=warmup_bars,
        last_session="2012-11-16", data_end="2012-12-07",
    )  # fmt: skip


@lru_cache
def _replay(symbols: tuple[str, ...], catalog: Catalog, end: date) -> MarketReplay:
    return market_replay(plan("1Min", symbols), catalog, end)  # the same market for every length of bar


def trader(
    the_plan: TradingPlan, catalog: Catalog, start: date, end: date, cfg: Config | None = None, **options: Any
) -> SteppedTrader:  # fmt: skip
    """A stepped trader over the sessions from `start` to `end`; the twin's replay is shared between equal ones."""
    replay = _replay(the_plan.names, catalog, end)
    return SteppedTrader(the_plan, cfg or config(), replay, start=start, **options)


def simulated(
    the_plan: TradingPlan, catalog: Catalog, start: date, end: date, cfg: Config | None = None
) -> SimulationResult:  # fmt: skip
    """The research side of parity: the same plan, rules, limits and cash through `research.simulate`."""
    cfg = cfg or config()
    rules = engine_config(
        the_plan, ledger_id="0123456789ab", rules=cfg.trader_rules(), limits=cfg.risk.limits(),
        weights=cfg.account.weights(bars_per_year=Timeframe(the_plan.timeframe).bars_per_year),
    )  # fmt: skip
    return simulate_plan(the_plan, catalog, rules, start=start, end=end, cash_usd=cfg.account.cash)
