"""A module variable that does no harm: answers of a pure function, kept by its arguments."""

from functools import lru_cache
from itertools import pairwise

from algo_royale.strategies.own import condition, integer, strategy


@lru_cache(maxsize=1000)
def _steps(closes):
    return sum(b > a for a, b in pairwise(closes))


@condition(lookback="days")
def mostly_up(bars, days=integer(4, 12, 8)):
    return _steps(tuple(bars.close.tolist())) > 0.7 * (days - 1)


strategy("KeptAnswers", entry=mostly_up, exit="RSIAboveThreshold")
