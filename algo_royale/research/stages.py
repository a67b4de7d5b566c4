"""Run one unit, write its artifact, and keep the manifest: what a stage worker calls.

`run_unit` is a function of the unit, the configuration, the data and the artifacts that the unit depends on; it writes
nothing. `commit` puts the result on disk whole. Results do not depend on which process computes what, or when.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from algo_royale.compiled import compile_now, is_on_disk
from algo_royale.engine import EngineConfig
from algo_royale.errors import AlgoRoyaleError, ArtifactError
from algo_royale.research import (
    WORKER_ENVIRONMENT,
    artifacts,
    backtest,
    metrics,
    overfitting,
    panel,
    portfolio_stages,
    samplers,
    signal_stages,
)
from algo_royale.research import plan as planning
from algo_royale.research.plan import STAGES, Plan, ResearchConfig, Unit, plan, reusable, warmup_bars
from algo_royale.research.signal_stages import Result, sidecar_entry

__all__ = [
    "STAGES", "WORKER_ENVIRONMENT", "Plan", "ResearchConfig", "Result", "Unit", "commit", "plan", "read_holdout",
    "reusable", "run_all", "run_unit", "write_manifest",
]  # fmt: skip

_RUN: Mapping[str, Callable[[Unit, ResearchConfig], Result]] = {
    "signal_optimization": signal_stages.optimise_signal,
    "signal_evaluation": signal_stages.evaluate_signal,
    "symbol_summary": signal_stages.summarise_symbol,
    "portfolio_optimization": portfolio_stages.optimise_portfolio,
    "portfolio_evaluation": portfolio_stages.evaluate_portfolio,
    "portfolio_summary": portfolio_stages.summarise_portfolio,
}


# What the first units need after `machine.judge`, which takes as long to compile as all the others.
_SIGNAL_KERNELS = (
    backtest._kernel, samplers.uniform, samplers.encode, metrics._drawdown, overfitting._losing_halves,
)  # fmt: skip


def must_compile() -> bool:
    """Whether this machine has kernels still to compile."""
    return not is_on_disk(panel._walk)


def compile_ahead(config: ResearchConfig) -> None:
    """Compile what the workers will need while they compile what they need at once: two processors are better than one.

    The portfolio strategies of the run are computed on random prices, which finds out what each of them calls.
    """
    for kernel in _SIGNAL_KERNELS:
        compile_now(kernel)
    days, symbols, day_ns = np.arange(200), ("A", "B", "C"), 86_400_000_000_000
    close = 100.0 + np.random.default_rng(1).normal(0.0, 1.0, (len(days), len(symbols)))
    market = panel.Panel.whole(symbols, days * day_ns, days * day_ns + day_ns // 4, close, close)
    for name in config.portfolios:
        engine = EngineConfig(
            ledger_id="research", symbols=symbols, strategy=name, weights=config.weights, rules=config.account_rules
        )
        panel.simulate_panel(market, engine, config.start_equity)


def run_unit(unit: Unit, config: ResearchConfig) -> Result:
    """Compute a unit whose dependencies are committed.

    Raises ArtifactError if one of them is missing or unreadable, StudyFailed if too many trials failed, and what the data
    or the configuration deserve otherwise.
    """
    planning.load_strategies(config)  # this process may have just begun
    with np.errstate(all="ignore"):  # undefined ratios are None by rule, not by accident
        return _RUN[unit.stage](unit, config)


def commit(result: Result, unit: Unit, config: ResearchConfig, *, created_at: str, run_time_sec: float) -> None:
    """Write the unit's artifact, its arrays first. `created_at` is ISO-8601 with Z; both are kept in `meta` only."""
    path, document = unit.path(config), result.document
    if result.arrays is not None:
        content = artifacts.npz(result.arrays)
        artifacts.write(path.with_name(artifacts.SIDECAR), content)
        document = document | {"sidecar": sidecar_entry(content)}
    made = {"created_at": created_at, "run_time_sec": run_time_sec}
    if "optimization" in document:
        found = document["optimization"]
        document = document | {"optimization": found | {"meta": found["meta"] | made}}
        assert unit.window
        document = {unit.window.window_id: document}
    else:
        document = document | {"meta": document["meta"] | made}
    artifacts.write(path, artifacts.dumps(document))


def write_manifest(
    the_plan: Plan, config: ResearchConfig, *, failures: Mapping[str, str], created_at: str, run_time_sec: float
) -> dict[str, Any]:
    """Write `run_manifest.json`: what was asked, and what became of every unit. `failures` maps keys to errors.

    A unit without an artifact that did not fail is `pending`: the run was interrupted. The count of holdout reads is
    carried over from the manifest before.
    """
    path = config.artifacts_root / artifacts.MANIFEST
    units: dict[str, dict[str, Any]] = {key: {"status": why} for key, why in the_plan.skipped.items()}
    for unit in the_plan.units:
        if unit.key in failures:
            units[unit.key] = {"status": "failed", "error": failures[unit.key]}
        elif reusable(unit, config):
            document = artifacts.read(unit.path(config))
            units[unit.key] = {"status": document.get("status", "complete"), "sha256": artifacts.digest(document)}
        else:
            units[unit.key] = {"status": "pending"}
    manifest = {
        "schema_version": artifacts.SCHEMA_VERSION,
        "kind": "run_manifest",
        "symbols": list(config.symbols),
        "strategies": list(config.strategies),
        "portfolios": list(config.portfolios),
        "universe": artifacts.universe_name(config.symbols),
        "timeframe": config.timeframe.value,
        "seed": config.seed,
        "start": the_plan.start,
        "end": the_plan.end,
        "holdout_start": the_plan.holdout_start,
        "windows": [signal_stages.window_block(config, w, warmup_bars(config)) for w in the_plan.windows],
        "settings": planning.settings(config),
        "config_hash": planning.config_hash(config, "portfolio", (the_plan.start, the_plan.end)),
        "data_fingerprint": the_plan.data_fingerprint,
        "code_version": the_plan.code_version,
        "strategies_version": artifacts.strategies_version(),
        "holdout_reads": _holdout_reads(config),
        "units": units,
        "meta": {"created_at": created_at, "run_time_sec": run_time_sec},
    }
    artifacts.write(path, artifacts.dumps(manifest))
    return manifest


def _holdout_reads(config: ResearchConfig) -> int:
    path = config.artifacts_root / artifacts.MANIFEST
    return int(artifacts.read(path, "run_manifest")["holdout_reads"]) if path.exists() else 0


def read_holdout(config: ResearchConfig) -> int:
    """Note in the manifest that the held-back range was looked at; returns how often it has been. More than once
    contaminates it: choices made after the first look are no longer blind."""
    path = config.artifacts_root / artifacts.MANIFEST
    manifest = artifacts.read(path, "run_manifest")
    manifest["holdout_reads"] = int(manifest["holdout_reads"]) + 1
    artifacts.write(path, artifacts.dumps(manifest))
    return int(manifest["holdout_reads"])


def run_all(
    config: ResearchConfig,
    *,
    created_at: str = "1970-01-01T00:00:00Z",
    on_unit: Callable[[Unit], None] = lambda unit: None,
) -> tuple[Plan, dict[str, Any]]:
    """The whole run in this process, one unit after the other; finished units are reused. For notebooks and tests.

    A unit that fails is in the manifest and does not stop the others. Returns the plan and the manifest.
    """
    the_plan, failures = plan(config), {}
    for unit in the_plan.units:
        if reusable(unit, config):
            continue
        on_unit(unit)
        try:
            blocked = [key for key in unit.depends_on if key in failures]
            if blocked:
                raise ArtifactError(f"needs {blocked[0]}, which failed")
            commit(run_unit(unit, config), unit, config, created_at=created_at, run_time_sec=0.0)
        except AlgoRoyaleError as error:
            failures[unit.key] = str(error)
    done = write_manifest(the_plan, config, failures=failures, created_at=created_at, run_time_sec=0.0)
    return the_plan, done
