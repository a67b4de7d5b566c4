"""How much of a Sharpe ratio is luck.

Sources: probabilistic Sharpe ratio and minimum track record, Bailey and Lopez de Prado (2012); deflated Sharpe ratio,
the same (2014), and its appendix 3 for the number of independent trials; probability of backtest overfitting by
combinatorially symmetric cross-validation, Bailey et al. (2015).
All Sharpe ratios here are per session (not annualised); kurtosis of a normal is 3.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from statistics import NormalDist

import numpy as np
from numba import types

from algo_royale.compiled import F64, FLOATS_IN, FLOATS_OUT, I64, VOID, compiled
from algo_royale.market import FloatArray, IntArray

EULER_GAMMA = 0.5772156649015329
N_MIN = 20  # fewer session returns than this say nothing about tails
BLOCKS = 16
_NORMAL = NormalDist()


def _spread(sharpe: float, skewness: float, kurtosis: float) -> float:
    return 1.0 - skewness * sharpe + (kurtosis - 1.0) / 4.0 * sharpe * sharpe


def psr(sharpe: float, n: int, skewness: float, kurtosis: float, benchmark: float = 0.0) -> float | None:
    """Probability that the true Sharpe ratio exceeds `benchmark`, given `n` returns; None if the variance estimate is
    not positive."""
    spread = _spread(sharpe, skewness, kurtosis)
    if n < 2 or not spread > 0.0:
        return None
    return _NORMAL.cdf((sharpe - benchmark) * math.sqrt(n - 1) / math.sqrt(spread))


def expected_maximum(k: float) -> float:
    """Expected largest of `k` independent standard normal draws; 0 below two."""
    if k < 2:
        return 0.0
    return (1.0 - EULER_GAMMA) * _NORMAL.inv_cdf(1.0 - 1.0 / k) + EULER_GAMMA * _NORMAL.inv_cdf(
        1.0 - 1.0 / (k * math.e)
    )


def sharpe_benchmark(variance: float, k: float) -> float:
    """Sharpe ratio that the best of `k` worthless trials is expected to show; 0 for one trial."""
    return math.sqrt(variance) * expected_maximum(k)


def worthless_benchmark(n: int, k: float) -> float:
    """`sharpe_benchmark` of `k` independent trials whose true Sharpe ratio is 0, each seen over `n` sessions: a worthless
    trial's Sharpe ratio scatters with variance 1/(n - 1), whatever the trials that were really made look like."""
    return sharpe_benchmark(1.0 / (n - 1), k) if n > 1 else 0.0


def independent_trials(returns: FloatArray) -> tuple[float | None, float]:
    """(mean correlation rho, rho + (1 - rho) k) of a trial matrix (sessions x trials): its `k` trials are worth that many
    independent ones. A trial without variance never traded and is not one; rho below 0 counts as 0, None below two."""
    spread = returns.std(axis=0)
    moving = spread > 1e-12
    k = int(moving.sum())
    if k < 2:
        return None, float(k)
    standard = (returns[:, moving] - returns[:, moving].mean(axis=0)) / spread[moving]
    together = float((standard.sum(axis=1) ** 2).mean())  # k + k (k - 1) rho
    rho = min(1.0, max(0.0, (together - k) / (k * (k - 1))))
    return rho, rho + (1.0 - rho) * k


def deflated_sharpe(sharpe: float, n: int, skewness: float, kurtosis: float, variance: float, k: int) -> float | None:
    """`psr` against what the best of `k` trials with Sharpe variance `variance` (ddof 1) shows by luck."""
    return psr(sharpe, n, skewness, kurtosis, sharpe_benchmark(variance, k))


def min_track_record(sharpe: float, skewness: float, kurtosis: float, benchmark: float = 0.0) -> int | None:
    """Sessions needed for 95 % confidence that the Sharpe ratio exceeds `benchmark`; None if it does not."""
    spread = _spread(sharpe, skewness, kurtosis)
    if not sharpe > benchmark or not spread > 0.0:
        return None
    needed = 1.0 + spread * (_NORMAL.inv_cdf(0.95) / (sharpe - benchmark)) ** 2
    return math.ceil(needed) if needed < 1e15 else None


@lru_cache(maxsize=8)
def _halves(blocks: int) -> IntArray:
    """Every choice of half the blocks that has block 0, as bits; the others are their complements."""
    rest = combinations(range(1, blocks), blocks // 2 - 1)
    return np.array([1 + sum(1 << b for b in chosen) for chosen in rest], np.int64)


_TABLE, _INTS = types.Array(F64, 2, "C"), types.Array(I64, 1, "C")


@compiled(VOID, _TABLE, I64, I64, _TABLE)
def _subset_sums(table: FloatArray, first: int, count: int, out: FloatArray) -> None:
    """out[bits] = sum of the rows `first` + (each bit set), for all subsets of `count` rows."""
    out[0] = 0.0
    for bits in range(1, 1 << count):
        lowest = 0
        while not (bits >> lowest) & 1:
            lowest += 1
        for j in range(table.shape[1]):
            out[bits, j] = out[bits & (bits - 1), j] + table[first + lowest, j]


@compiled(VOID, FLOATS_IN, FLOATS_IN, FLOATS_IN, FLOATS_IN, FLOATS_IN, I64, FLOATS_OUT)
def _sharpes(
    low: FloatArray, high: FloatArray, low_squares: FloatArray, high_squares: FloatArray, mean: FloatArray, rows: int,
    out: FloatArray,
) -> None:  # fmt: skip
    """Sharpe per trial from sums of centred returns; a column without variance has Sharpe 0."""
    for j in range(len(mean)):
        total, squares = low[j] + high[j], low_squares[j] + high_squares[j]
        shift = total / rows
        variance = (squares - total * shift) / (rows - 1)
        out[j] = (mean[j] + shift) / np.sqrt(variance) if variance > 1e-24 else 0.0


@compiled(I64, FLOATS_IN, FLOATS_IN)
def _loses(chosen: FloatArray, judged: FloatArray) -> int:
    """1 if the best of `chosen` (the first of equals) is in the lower half of `judged`, else 0."""
    k, best = len(chosen), np.argmax(chosen)
    below, equal = 0, 0
    for j in range(k):
        below += judged[j] < judged[best]
        equal += judged[j] == judged[best]
    # logit(rank / (k + 1)) <= 0 is rank <= (k + 1) / 2, with the average rank of equals
    return 1 if below + (equal + 1) / 2.0 <= (k + 1) / 2.0 else 0


@compiled(I64, _INTS, _TABLE, _TABLE, FLOATS_IN, I64)
def _losing_halves(
    halves: IntArray, total: FloatArray, squares: FloatArray, mean: FloatArray, rows_per_block: int
) -> int:
    """Number of halves, complements included, whose in-sample best ranks in the lower half out of sample.

    Sums over a half are one row of each of two tables, which hold the sums over every subset of the first and of the second
    half of the blocks: two additions per trial instead of one per block.
    """
    blocks, k = total.shape
    split, rows = blocks // 2, rows_per_block * (blocks // 2)
    full = (1 << split) - 1
    low, high = np.empty((full + 1, k)), np.empty((full + 1, k))
    low_squares, high_squares = np.empty((full + 1, k)), np.empty((full + 1, k))
    _subset_sums(total, 0, split, low)
    _subset_sums(total, split, split, high)
    _subset_sums(squares, 0, split, low_squares)
    _subset_sums(squares, split, split, high_squares)
    inside, outside = np.empty(k), np.empty(k)
    losing = 0
    for h in range(len(halves)):
        a, b = halves[h] & full, halves[h] >> split
        c, d = full ^ a, full ^ b
        _sharpes(low[a], high[b], low_squares[a], high_squares[b], mean, rows, inside)
        _sharpes(low[c], high[d], low_squares[c], high_squares[d], mean, rows, outside)
        losing += _loses(inside, outside) + _loses(outside, inside)
    return losing


@dataclass(frozen=True, slots=True)
class Pbo:
    probability: float
    blocks: int


def pbo(returns: FloatArray) -> Pbo | None:
    """Probability of backtest overfitting of a trial matrix (sessions x trials); None below 4 blocks or 2 trials.

    16 blocks, fewer (even) so that each has at least 5 sessions; the oldest rows beyond a multiple are dropped.
    """
    returns = np.ascontiguousarray(returns)
    n, k = returns.shape
    blocks = min(BLOCKS, n // 5 // 2 * 2)
    if blocks < 4 or k < 2:
        return None
    per_block = n // blocks
    kept = returns[n - per_block * blocks :]
    mean = kept.mean(axis=0)
    centred = (kept - mean).reshape(blocks, per_block, k)  # centred, so that a flat column has variance 0, not rounding
    halves = _halves(blocks)
    losing = _losing_halves(halves, centred.sum(axis=1), (centred * centred).sum(axis=1), mean, per_block)
    return Pbo(losing / (2 * len(halves)), blocks)
