"""W3: a walk-forward with search. 5 symbols x 10 windows x 50 trials over six whole-number parameters.

Buy when the short average crosses above the long one or RSI falls below a level; sell when RSI rises above another or the
close leaves the upper Bollinger band (2 deviations of its window). What is searched is the annual Sharpe ratio of the daily
equity of the train range, and the best parameters then run over the test range. The rules are those of W1 (see crosses.py);
prices lie on a grid of 1/64 dollar.

The check values are the objective of 40 fixed points in the first window of every symbol: everybody judges alike. What the
searches find is compared over seeds, by `python benchmarks/search.py quality [SEEDS]`: the sum over all studies of the best
objective, and its median over the seeds; it fails if ours is below stock TPE's. `python benchmarks/search.py shares` tells
where the time of a search on the bundled data goes.
"""

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from _harness import OURS, Arrays, Engine, Run, Work, main

CASH, LOT, FEE = 1_000_000.0, 100.0, 1e-4
TRAIN, TEST, WARM_UP = 756, 252, 400  # bars
BOUNDS = {
    "short": (5, 50), "gap": (20, 150), "period": (5, 30), "oversold": (15, 45), "overbought": (55, 85), "window": (10, 60),
}  # fmt: skip
NAMES = tuple(BOUNDS)
DEFAULT = (20, 30, 14, 30, 70, 20)
DEVIATIONS = 2.0
TRIALS = 50
SEED = 20240501

Best = tuple[float, tuple[int, ...]]  # the best objective in train, and its point
Objective = Callable[[tuple[int, ...]], float]


def arrays(symbols: int, windows: int, trials: int = TRIALS, seed: int = SEED) -> Arrays:
    """Daily opens and closes of each symbol: walks whose drift turns sign every half year or so."""
    rng = np.random.default_rng(5)
    bars = WARM_UP + TRAIN + TEST * windows
    drift = np.repeat(rng.normal(0.0, 0.0012, (symbols, bars // 120 + 1)), 120, axis=1)[:, :bars]
    close = 6400.0 * np.exp(np.cumsum(drift + rng.normal(0.0, 0.013, (symbols, bars)), axis=1))
    close = np.rint(np.clip(close, 640.0, 64_000.0))
    open_ = np.rint(np.concatenate((close[:, :1], close[:, :-1]), axis=1) * (1.0 + rng.normal(0.0, 0.003, close.shape)))
    return {
        "open": np.ascontiguousarray(open_ / 64), "close": np.ascontiguousarray(close / 64),
        "size": np.array([windows, trials, seed]),
    }  # fmt: skip


def fixed_points() -> list[tuple[int, ...]]:
    rng = np.random.default_rng(3)
    return [tuple(int(rng.integers(low, high + 1)) for low, high in BOUNDS.values()) for _ in range(40)]


def walked(
    a: Arrays, objective_of: Callable[[int, int, int], Objective], search: Callable[..., Best]
) -> dict[str, Any]:
    """The whole work: every study, the best point's test range, and the fixed points that prove equal judging."""
    windows, trials, seed = (int(x) for x in a["size"])
    best, tested, judged = [], [], []
    for symbol in range(len(a["close"])):
        for window in range(windows):
            low = WARM_UP + window * TEST
            train = objective_of(symbol, low, low + TRAIN)
            value, point = search(train, trials, f"{seed}|signal|S{symbol}|W3|{window}")
            best.append(value)
            tested.append(objective_of(symbol, low + TRAIN, low + TRAIN + TEST)(point))
            if window == 0:
                judged += [train(p) for p in fixed_points()]
    return {"judged": judged, "sum_of_best": sum(best), "sum_of_tests": sum(tested)}


# A numba loop.


def _loop() -> Any:
    import numba

    @numba.njit
    def judge(open_, close, low, short, long, period, oversold, overbought, window, returns):  # type: ignore[no-untyped-def]
        """Annual Sharpe ratio of the bars from `low` on; indicators begin at the first bar."""
        n = len(close)
        cash, shares, wanted, equity_before = CASH, 0.0, 0, CASH
        sum_short, sum_long, sum_band, squares, before = 0.0, 0.0, 0.0, 0.0, np.nan
        gain, loss = 0.0, 0.0
        for t in range(n):
            if t >= low:
                if wanted == 1 and shares == 0.0:
                    shares = LOT
                    cash -= LOT * open_[t] * (1.0 + FEE)
                elif wanted == -1 and shares > 0.0:
                    cash += LOT * open_[t] * (1.0 - FEE)
                    shares = 0.0
            sum_short += close[t]
            sum_long += close[t]
            sum_band += close[t]
            squares += close[t] * close[t]
            if t >= short:
                sum_short -= close[t - short]
            if t >= long:
                sum_long -= close[t - long]
            if t >= window:
                sum_band -= close[t - window]
                squares -= close[t - window] * close[t - window]
            if t > 0:
                up, down = max(close[t] - close[t - 1], 0.0), max(close[t - 1] - close[t], 0.0)
                if t <= period:
                    gain += up / period
                    loss += down / period
                else:
                    gain += (up - gain) / period
                    loss += (down - loss) / period
            gap = sum_short / short - sum_long / long if t >= long - 1 else np.nan
            rsi = 100.0 * gain / (gain + loss) if t >= period else np.nan
            if t >= low:
                mean = sum_band / window
                upper = mean + DEVIATIONS * np.sqrt(max(squares / window - mean * mean, 0.0))
                if rsi > overbought or close[t] > upper:
                    wanted = -1
                elif (before <= 0.0 and gap > 0.0) or rsi < oversold:
                    wanted = 1
                else:
                    wanted = 0
                equity = cash + shares * close[t]
                if t == n - 1 and shares > 0.0:
                    equity = cash + LOT * close[t] * (1.0 - FEE)
                returns[t - low] = equity / equity_before - 1.0
                equity_before = equity
            before = gap
        deviation = np.sqrt(((returns - returns.mean()) ** 2).sum() / (len(returns) - 1))
        return returns.mean() / deviation * np.sqrt(252.0) if deviation > 1e-12 else 0.0

    return judge


def load_loop() -> Callable[[Arrays], Callable[[int, int, int], Objective]]:
    judge = _loop()

    def objectives(a: Arrays) -> Callable[[int, int, int], Objective]:
        def objective_of(symbol: int, low: int, high: int) -> Objective:
            origin = low - WARM_UP
            open_, close = a["open"][symbol, origin:high], a["close"][symbol, origin:high]
            returns = np.empty(high - low)

            def objective(p: tuple[int, ...]) -> float:
                return float(judge(open_, close, low - origin, p[0], p[0] + p[1], p[2], p[3], p[4], p[5], returns))

            return objective

        return objective_of

    return objectives


def load_with_optuna() -> Run:
    objectives = load_loop()
    return lambda a: walked(a, objectives(a), with_optuna)


def with_optuna(objective: Objective, trials: int, name: str) -> Best:
    """A study of stock optuna: TPE as it comes, the default point first."""
    import zlib

    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=zlib.crc32(name.encode()))
    )
    study.enqueue_trial(dict(zip(NAMES, DEFAULT, strict=True)))

    def judge(trial: Any) -> float:
        return objective(tuple(trial.suggest_int(k, low, high) for k, (low, high) in BOUNDS.items()))

    study.optimize(judge, n_trials=trials)
    return study.best_value, tuple(study.best_params[k] for k in NAMES)


# Ours: conditions of the catalogue, the all-in judge's kernel with a lot, and the search of `run-backtest`.


def load_ours() -> Run:
    objectives = load_our_objectives()
    return lambda a: walked(a, objectives(a), our_search)


def load_our_objectives() -> Callable[[Arrays], Callable[[int, int, int], Objective]]:
    from decimal import Decimal

    from algo_royale.costs import CostRules
    from algo_royale.features import FeatureCache
    from algo_royale.market import Bars, Timeframe
    from algo_royale.research import backtest, metrics
    from algo_royale.strategies import compose

    costs = backtest.cost_array(CostRules(slippage_bps=Decimal(0), commission_bps=Decimal(1)))
    day = 86_400 * 10**9

    def composed(p: tuple[int, ...]) -> Any:
        average, bands = {"short_window": p[0], "long_window": p[0] + p[1]}, {"window": p[5], "num_std": DEVIATIONS}
        entry = [{"MovingAverageEntry": average}, {"RSIEntry": {"period": p[2], "oversold": p[3]}}]
        leave = [{"RSIExit": {"period": p[2], "overbought": p[4]}}, {"BollingerBandsExit": bands}]
        return compose("W3", {"entry_conditions": entry, "exit_conditions": leave}, Timeframe.DAY_1)

    def objectives(a: Arrays) -> Callable[[int, int, int], Objective]:
        def objective_of(symbol: int, low: int, high: int) -> Objective:
            origin = low - WARM_UP
            open_, close = a["open"][symbol, origin:high], a["close"][symbol, origin:high]
            start = np.arange(len(close)) * day
            bars = Bars(
                symbol="S", timeframe=Timeframe.DAY_1, start_ns=start, end_ns=start + day // 2, open=open_,
                high=np.maximum(open_, close), low=np.minimum(open_, close), close=close, volume=np.ones(len(close)),
                vwap=np.full(len(close), np.nan), trade_count=np.full(len(close), np.nan),
            )  # fmt: skip
            cache, last = FeatureCache(bars), np.arange(high - low)
            begin = low - origin

            def objective(p: tuple[int, ...]) -> float:
                signal = composed(p).run(bars, start=begin, cache=cache).signal[begin:]
                done = backtest.run_arrays(open_[begin:], close[begin:], signal, costs, CASH, lot=LOT)
                return metrics.sharpe_ratio(metrics.session_returns(done.equity, last, CASH)) or 0.0

            return objective

        return objective_of

    return objectives


def our_search(objective: Objective, trials: int, name: str) -> Best:
    import hashlib

    from algo_royale.research.optimise import Evaluation, optimise
    from algo_royale.research.optimise import Objective as Wanted
    from algo_royale.strategies.space import integer

    space = tuple(integer(k, *bounds, default) for (k, bounds), default in zip(BOUNDS.items(), DEFAULT, strict=True))
    nothing = np.empty(0)

    def evaluate(point: dict[str, Any], fold: int) -> Evaluation:
        return Evaluation((objective(tuple(point[k] for k in NAMES)),), 1, nothing, 0.0)

    def seed(done: int) -> int:
        return int.from_bytes(hashlib.sha256(f"{name}|{done}".encode()).digest()[:4], "big")

    study = optimise(space, evaluate, n_trials=trials, next_seed=seed, objective=Wanted(), min_trades=0)
    assert study.best and study.best.evaluation.values
    return study.best.evaluation.values[0], tuple(study.best.point[k] for k in NAMES)


W3 = Work(
    name="W3",
    title="walk-forward with search: 5 symbols x 10 windows x 50 trials over six whole-number parameters",
    make=arrays,
    sizes={"full": {"symbols": 5, "windows": 10}, "quick": {"symbols": 1, "windows": 2, "trials": 15}},
    reference="numba loop + optuna",
    tolerance={"judged": 1e-7},
    engines=[
        Engine("numba loop + optuna", "optuna", load_with_optuna),
        Engine("AlgoRoyale", OURS, load_ours),
        Engine("vectorbt (numba) + optuna", "vectorbt-optuna", lambda: load_vectorbt_search(), repeats=1),
    ],
    note="Ours computes the features once per window and parameter, judges through the strategies of the catalogue, and"
    " searches with the compiled TPE.",
)
WORKS = [W3]


# vectorbt under the same optuna.


def load_vectorbt_search() -> Run:
    import pandas as pd
    import vectorbt as vbt

    vbt.settings["engine"] = "numba"
    vbt.settings.array_wrapper["freq"] = "1D"

    def objectives(a: Arrays) -> Callable[[int, int, int], Objective]:
        def objective_of(symbol: int, low: int, high: int) -> Objective:
            origin = low - WARM_UP
            close, open_ = pd.Series(a["close"][symbol, origin:high]), pd.Series(a["open"][symbol, origin:high])
            begin = low - origin

            def objective(p: tuple[int, ...]) -> float:
                short, long = vbt.MA.run(close, p[0]), vbt.MA.run(close, p[0] + p[1])
                bands = vbt.BBANDS.run(close, window=p[5], alpha=DEVIATIONS)
                rsi = wilder(close.to_numpy(), p[2])
                enter = short.ma_crossed_above(long).to_numpy() | (rsi < p[3])
                leave = (close.to_numpy() > bands.upper.to_numpy()) | (rsi > p[4])
                enter, leave = (enter & ~leave)[begin:], leave[begin:]
                held = vbt.Portfolio.from_signals(
                    close[begin:], pd.Series(enter).vbt.signals.fshift(1).to_numpy(),
                    pd.Series(leave).vbt.signals.fshift(1).to_numpy(), price=open_[begin:], size=LOT, init_cash=CASH, fees=FEE,
                )  # fmt: skip
                equity = held.value().to_numpy().copy()
                last = held.positions.status.values[-1:]  # of the positions, of which there may be none
                if len(last) and last[0] == 0:
                    equity[-1] -= LOT * close.iloc[-1] * FEE
                returns = np.diff(np.append(CASH, equity)) / np.append(CASH, equity[:-1])
                deviation = returns.std(ddof=1)
                return float(returns.mean() / deviation * np.sqrt(252.0)) if deviation > 1e-12 else 0.0

            return objective

        return objective_of

    return lambda a: walked(a, objectives(a), with_optuna)


def wilder(close: np.ndarray, period: int) -> np.ndarray:
    """Wilder's RSI, which vectorbt smooths otherwise."""
    import pandas as pd

    change = np.diff(close, prepend=np.nan)
    out = []
    for part in (np.maximum(change, 0.0), np.maximum(-change, 0.0)):
        seeded = np.concatenate((np.full(period, np.nan), [part[1 : period + 1].mean()], part[period + 1 :]))
        out.append(pd.Series(seeded).ewm(alpha=1.0 / period, adjust=False).mean().to_numpy())
    return 100.0 * out[0] / (out[0] + out[1])


# Beside the clock: what is found, and where the time goes.


def quality(n_seeds: int) -> None:
    """Compare what ours and stock TPE find, on the loop that judges alike, over sets of seeds."""
    objectives = load_loop()
    ours, stock = [], []
    for seed in range(1000, 1000 + n_seeds):
        a = arrays(5, 10, seed=seed)
        ours.append(walked(a, objectives(a), our_search)["sum_of_best"])
        stock.append(walked(a, objectives(a), with_optuna)["sum_of_best"])
        print(f"seed {seed}: ours {ours[-1]:.3f}, stock TPE {stock[-1]:.3f}", flush=True)
    print(f"median over {n_seeds} seeds: ours {statistics.median(ours):.3f}, stock TPE {statistics.median(stock):.3f}")
    if statistics.median(ours) < statistics.median(stock):
        raise SystemExit("the compiled sampler finds less than stock TPE")


def shares(symbol: str = "AAPL", trials: int = 40) -> None:
    """Where the time of signal optimisation on the bundled data goes: search, evaluation, everything else."""
    from pathlib import Path

    from algo_royale.research import optimise, plan, signal_stages

    config = plan.ResearchConfig(artifacts_root=Path("none"), symbols=(symbol,), portfolios=(), trials=trials)
    made = plan.plan(config)
    units = [u for u in made.units if u.stage == "signal_optimization"]
    for unit in units[:1]:
        signal_stages.optimise_signal(unit, config)
    spent = {"evaluation": 0.0, "study": 0.0, "trials": 0}
    real = signal_stages.optimise

    def timed(space: Any, evaluate: Any, **rest: Any) -> Any:
        def timed_evaluate(point: Any, fold: int) -> Any:
            began = time.perf_counter()
            found = evaluate(point, fold)
            spent["evaluation"] += time.perf_counter() - began
            return found

        began = time.perf_counter()
        study = real(space, timed_evaluate, **rest)
        spent["study"] += time.perf_counter() - began
        spent["trials"] += len(study.trials) + len(study.attempts)
        return study

    assert real is optimise.optimise
    signal_stages.optimise = timed  # type: ignore[attr-defined]
    began = time.perf_counter()
    for unit in units:
        signal_stages.optimise_signal(unit, config)
    whole = time.perf_counter() - began
    search = spent["study"] - spent["evaluation"]
    for name, seconds in (
        ("search overhead", search), ("evaluation", spent["evaluation"]), ("everything else", whole - spent["study"])
    ):  # fmt: skip
        print(f"{name}: {seconds / whole:.0%}, {seconds / spent['trials'] * 1e6:.0f} us a trial")


if __name__ == "__main__":
    if sys.argv[1:2] == ["quality"]:
        quality(int(sys.argv[2]) if sys.argv[2:] else 9)
    elif sys.argv[1:2] == ["shares"]:
        shares()
    else:
        main(WORKS, __file__)
