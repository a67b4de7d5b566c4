"""What the whole pipeline calls viable: next to nothing of pure chance, nearly everything with an edge in it.

Every symbol goes through what run-backtest does for it: all sixteen strategies, all walk-forward windows, searches, evaluation,
summary, and the verdict by the strict thresholds of base.toml. `--prove` takes enough symbols for a statement with 95 %
confidence (Clopper and Pearson 1934); the suite takes a few and makes none.
"""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from multiprocessing import get_context
from pathlib import Path

import pytest
from scipy.stats import beta

import paper_markets
from algo_royale.app.cli import Settings
from algo_royale.market import FloatArray, Timeframe
from algo_royale.research import artifacts, stages
from algo_royale.research.plan import ResearchConfig
from algo_royale.research.viability import ViabilityConfig
from algo_royale.strategies import STRATEGIES

Walk = Callable[[int, int], FloatArray]
TRIALS_FULL, TRIALS_FEW = 15, 5


@dataclass(frozen=True, slots=True)
class Case:
    """One symbol: how its prices are made, from which seed, of which bars."""

    walk: Walk
    seed: int
    trials: int
    timeframe: Timeframe = Timeframe.DAY_1


@dataclass(frozen=True, slots=True)
class Found:
    viable: bool
    strategy: str
    sharpe: float
    strategies: int
    by_score: bool  # whether any strategy would be viable by the six scored checks alone


def judged(case: Case, folder: Path) -> Found:
    """The verdict on one symbol."""
    first = paper_markets.FIRST if case.timeframe is Timeframe.DAY_1 else date(2010, 7, 1)
    starts = paper_markets.labels(case.timeframe, first)
    place = folder / f"{case.walk.__name__}-{case.timeframe.value}-{case.seed}"
    paper_markets.write(place / "bars", "SYM", starts, case.walk(case.seed, len(starts)), case.seed)
    config = ResearchConfig(
        artifacts_root=place / "artifacts", symbols=("SYM",), strategies=tuple(STRATEGIES), portfolios=(),
        data=str(place / "bars"), timeframe=case.timeframe, trials=case.trials, seed=case.seed,
    )  # fmt: skip
    _, manifest = stages.run_all(config)
    assert {unit["status"] for unit in manifest["units"].values()} <= {
        "complete",
        "no_feasible_trial",
        "unsupported_timeframe",
    }
    summary = artifacts.read(artifacts.symbol_summary_path(config.artifacts_root, "SYM"))
    read = (artifacts.read(artifacts.evaluation_path(config.artifacts_root, "SYM", name)) for name in config.strategies)
    by_score = any(e["viability_score"] >= 0.75 and (e["oos"]["num_trades"] or 0) >= 20 for e in read)
    return Found(
        summary["is_viable"],
        summary["strategy"],
        summary["oos"]["sharpe_ratio"] or 0.0,
        len(config.strategies),
        by_score,
    )


def all_judged(cases: list[Case], folder: Path) -> list[Found]:
    workers = min(len(cases), os.cpu_count() or 1)
    if workers < 2 or len(cases) < 8:
        return [judged(case, folder) for case in cases]
    os.environ.update(stages.WORKER_ENVIRONMENT)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return list(pool.map(judged, cases, [folder] * len(cases)))


def shown(what: str, found: list[Found]) -> int:
    """Print the figures; give back how many are viable."""
    n, k = len(found), sum(f.viable for f in found)
    low = beta.ppf(0.05, k, n - k + 1) if k else 0.0
    high = beta.ppf(0.95, k + 1, n - k) if k < n else 1.0
    sharpes = sorted(f.sharpe for f in found)
    print(
        f"\n{what}: {k} of {n} symbols viable ({k / n:.1%}; with 95 % confidence above {low:.1%} and below {high:.1%});"
        f" median test Sharpe ratio of the best strategy {sharpes[n // 2]:.2f};"
        f" by the six scored checks alone {sum(f.by_score for f in found) / n:.0%}"
    )
    return k


def test_the_strict_thresholds_are_those_of_base_toml() -> None:
    """So that what is proved here is what an environment with money runs under."""
    assert Settings(env="prod_paper").config.viability.rules() == ViabilityConfig()


@pytest.mark.prove
def test_of_pure_noise_at_most_one_symbol_in_twenty_is_viable(
    proving: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    daily, hourly = (110, 20) if proving else (1, 1)
    trials = TRIALS_FULL if proving else TRIALS_FEW
    cases = [Case(paper_markets.noise, 1000 + i, trials) for i in range(daily)]
    cases += [Case(hourly_noise, 5000 + i, trials, Timeframe.HOUR_1) for i in range(hourly)]

    found = all_judged(cases, tmp_path)

    with capsys.disabled():
        viable = shown("pure noise", found)
    assert {f.strategies for f in found} == {15, 16}, "hourly bars are read by all sixteen strategies"
    assert viable <= 0.05 * len(found)
    if proving:
        assert beta.ppf(0.95, viable + 1, len(found) - viable) <= 0.05


def hourly_noise(seed: int, n: int) -> FloatArray:
    return paper_markets.noise(seed, n, 0.006)


@pytest.mark.prove
def test_of_planted_edges_at_least_nine_symbols_in_ten_are_viable(
    proving: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of them revert, half of them trend."""
    each, trials = (31, TRIALS_FULL) if proving else (1, TRIALS_FEW)
    walks = (paper_markets.reverting, paper_markets.trending)
    cases = [Case(walk, 2000 + i, trials) for walk in walks for i in range(each)]

    found = all_judged(cases, tmp_path)

    with capsys.disabled():
        viable = shown("planted edge", found)
    assert viable >= 0.90 * len(found)
    if proving:
        assert beta.ppf(0.05, viable, len(found) - viable + 1) >= 0.90
