"""The compiled machine that computes features, verdicts and signals: one implementation of every operation.

A `Code` is a list of operations over rows of values. The machine runs it block by block, so that what passes from one
operation to the next stays in the cache, and hands the verdicts of each block to `decide`. Operations carry what they
need from earlier bars in a memory, so the size of a block, like that of a chunk, changes no bit.

Sums over a window are exact, rounded once (as math.fsum): the window is put on a fixed-point grid fine enough for all
its digits, in two integers per value, and integers are added and taken away as the window moves. So a sum costs the same
whatever the window, and depends on nothing but the values in it: not on the chunk, the block, or where history began.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import types

from algo_royale.compiled import (
    BOOLS_IN,
    BOOLS_OUT,
    F64,
    FLOATS_IN,
    FLOATS_OUT,
    I64,
    SIGNALS_OUT,
    VOID,
    compiled,
)
from algo_royale.market import ENTER, EXIT, BoolArray, FloatArray, IntArray, SignalArray

BLOCK = 2048
EACH_BYTE = 0x0101010101010101
WINDOW_MAX = 300  # bounds what a memory may hold and a deviation may cost; the grid of `exact_sums` counts on it

# Operations: what `Code` calls them. Those up to _LAST_RATIO look at one bar; those up to _LAST_WINDOW have a memory.
OPERATIONS = (
    "column", "given", "subtract", "negative", "gain", "loss", "band", "scaled", "times", "size", "larger", "smaller",
    "directional", "signed", "logarithm",
    "ratio", "change", "strength", "index", "imbalance", "position", "percent", "pressure",
    "lag", "sum", "mean", "sd0", "sd1", "ema", "rma", "run_above", "since_above", "highest", "cumulative",
    "above", "below", "at_least", "at_most", "above_level", "below_level", "at_least_level", "at_most_level",
    "number", "both", "either", "always", "never", "cross_up", "cross_both_ways",
)  # fmt: skip
NUMBER = {name: number for number, name in enumerate(OPERATIONS)}
(
    _COLUMN, _GIVEN, _SUBTRACT, _NEGATIVE, _GAIN, _LOSS, _BAND, _SCALED, _TIMES, _SIZE, _LARGER, _SMALLER, _DIRECTIONAL,
    _SIGNED, _LOGARITHM,
    _RATIO, _CHANGE, _STRENGTH, _INDEX, _IMBALANCE, _POSITION, _PERCENT, _PRESSURE,
    _LAG, _SUM, _MEAN, _SD0, _SD1, _EMA, _RMA, _RUN_ABOVE, _SINCE_ABOVE, _HIGHEST, _CUMULATIVE,
    _ABOVE, _BELOW, _AT_LEAST, _AT_MOST, _ABOVE_LEVEL, _BELOW_LEVEL, _AT_LEAST_LEVEL, _AT_MOST_LEVEL,
    _NUMBER, _BOTH, _EITHER, _ALWAYS, _NEVER, _CROSS_UP, _CROSS_BOTH_WAYS,
) = range(len(OPERATIONS))  # fmt: skip
_LAST_PLAIN, _LAST_RATIO, _LAST_WINDOW = _LOGARITHM, _PRESSURE, _CUMULATIVE
FIRST_FLAG = _ABOVE  # from here on the result is true or false

INTS_OUT = types.Array(types.int64, 1, "C")
INTS_IN = types.Array(types.int64, 1, "C", readonly=True)
INT_ROWS = types.Array(types.int64, 2, "C", readonly=True)
FLOAT_ROWS = types.Array(types.float64, 2, "C")
FLAG_ROWS = types.Array(types.boolean, 2, "C")


# Sums.

# Bits of each of the two integers: as 2**9 > WINDOW_MAX, a sum of them stays below 2**52, exact as a float.
_DIGITS = 43
_PER_GRID = 2.0**_DIGITS
_SIGNLESS = 0x7FFFFFFFFFFFFFFF


@compiled(F64, FLOATS_IN)
def exact_sum(x: FloatArray) -> float:
    """The exact sum rounded once, for numbers of any size (Shewchuk 1997); NaN if one is not finite."""
    partials = np.empty(len(x) + 1)
    count = 0
    for i in range(len(x)):
        value, kept = x[i], 0
        if not np.isfinite(value):
            return np.nan
        for j in range(count):
            other = partials[j]
            if abs(value) < abs(other):
                value, other = other, value
            high = value + other
            low = other - (high - value)
            if low != 0.0:
                partials[kept] = low
                kept += 1
            value = high
        partials[kept] = value
        count = kept + 1
    high, low = 0.0, 0.0
    while count > 0 and low == 0.0:
        count -= 1
        value = high
        high = value + partials[count]
        low = partials[count] - (high - value)
    # The parts that are left may tip a tie.
    if count > 0 and ((low < 0.0 and partials[count - 1] < 0.0) or (low > 0.0 and partials[count - 1] > 0.0)):
        value = high + 2.0 * low
        if 2.0 * low == value - high:
            high = value
    return float(high)


@compiled(F64, FLOATS_IN, I64, I64, INTS_OUT)
def _prefix_sums(x: FloatArray, n: int, length: int, total: IntArray) -> float:
    """Sums of the first 0, 1, ... `length` values in `total`, in units of what is returned.

    0 if one integer does not hold every digit of any sum of n values, as it does for prices of one order.
    """
    _, exponent = math.frexp(x[length - 1])  # of the others it is a guess, which `limit` checks
    spare = 62 - 9 if n > 256 else 62 - 8 if n > 64 else 62 - 6
    if not -900 < exponent < 900:
        return 0.0
    scale, limit = 2.0 ** (spare - 1 - exponent), 2.0**spare
    lost, later = 0, total[1:]
    for i in range(length):
        scaled = x[i] * scale
        whole = np.int64(scaled)
        lost += (np.float64(whole) != scaled) | (abs(scaled) >= limit)
        later[i] = whole
    if lost:
        return 0.0
    running = np.int64(0)  # it may run over, but no difference of two that are a window apart does
    total[0] = 0
    for i in range(length):
        running += later[i]
        later[i] = running
    return 1.0 / scale


@compiled(VOID, INTS_IN, F64, I64, F64, FLOATS_OUT)
def _differences(total: IntArray, unit: float, n: int, divisor: float, out: FloatArray) -> None:
    """Sums of n values from `_prefix_sums`, divided."""
    later = total[n:]
    for t in range(len(out)):
        out[t] = np.float64(later[t] - total[t]) * unit / divisor


@compiled(types.boolean, FLOATS_IN, I64, F64, FLOATS_OUT, INTS_OUT, INTS_OUT)
def _wide_sums(x: FloatArray, n: int, divisor: float, out: FloatArray, high: IntArray, low: IntArray) -> bool:
    """As `exact_sums` if all of x is finite and lies on one grid of 86 bits; else False."""
    length, bits = len(out) + n - 1, x.view(np.int64)
    top = np.int64(0)
    for i in range(length):
        top = max(top, bits[i] & _SIGNLESS)
    exponent = (top >> 52) - 1022  # |x| < 2**exponent
    if exponent > 900 or (exponent < -900 and top != 0):
        return False
    scale = 2.0 ** (_DIGITS - exponent) if top != 0 else 1.0
    lost = 0
    for i in range(length):
        scaled = x[i] * scale
        whole = np.int64(scaled)
        rest = (scaled - np.float64(whole)) * _PER_GRID
        part = np.int64(rest)
        lost += np.float64(part) != rest
        high[i + 1], low[i + 1] = whole, part
    if lost:
        return False
    many, few = np.int64(0), np.int64(0)
    high[0], low[0] = 0, 0
    for i in range(1, length + 1):
        many += high[i]
        few += low[i]
        high[i], low[i] = many, few
    down = 1.0 / scale
    for t in range(len(out)):
        whole, part = high[t + n] - high[t], low[t + n] - low[t]
        out[t] = (np.float64(whole) + np.float64(part) / _PER_GRID) * down / divisor
    return True


@compiled(F64, FLOATS_IN, I64, F64, FLOATS_OUT, INTS_OUT, INTS_OUT)
def exact_sums(x: FloatArray, n: int, divisor: float, out: FloatArray, high: IntArray, low: IntArray) -> float:
    """out[t] = (x[t] + ... + x[t+n-1])/divisor, the sum rounded once; NaN where one of them is not finite.

    x has at least len(out) + n - 1 values, `high` and `low` one place more to work in. Returns the unit of the running
    sums of x that `high` holds afterwards, as `_prefix_sums` has them; 0 if it does not.
    """
    skipped = 0  # the missing past of a beginning
    while skipped < len(out) and not np.isfinite(x[skipped]):
        out[skipped] = np.nan
        skipped += 1
    x, out = x[skipped:], out[skipped:]
    if len(out) == 0:
        return 0.0
    unit = _prefix_sums(x, n, len(out) + n - 1, high)
    if unit != 0.0:
        _differences(high, unit, n, divisor, out)
        return unit if skipped == 0 else 0.0
    if _wide_sums(x, n, divisor, out, high, low):
        return 0.0
    bad = 0
    for i in range(n - 1):
        bad += not np.isfinite(x[i])
    for t in range(len(out)):
        bad += not np.isfinite(x[t + n - 1])
        out[t] = np.nan if bad else exact_sum(x[t : t + n]) / divisor
        bad -= not np.isfinite(x[t])
    return 0.0


# Operations on one block. `a`, `b`, `c`, `d` are its inputs; unused ones are whatever is at hand.


@compiled(VOID, I64, F64, FLOATS_IN, FLOATS_IN, FLOATS_IN, FLOATS_OUT)
def _plain(op: int, level: float, a: FloatArray, b: FloatArray, c: FloatArray, out: FloatArray) -> None:
    n = len(out)
    if op == _SUBTRACT:
        for t in range(n):
            out[t] = a[t] - b[t]
    elif op == _NEGATIVE:
        for t in range(n):
            out[t] = -a[t]
    elif op == _GAIN:
        for t in range(n):
            moved = a[t] - b[t]
            out[t] = 0.0 if moved < 0.0 else moved
    elif op == _LOSS:
        for t in range(n):
            moved = b[t] - a[t]
            out[t] = 0.0 if moved < 0.0 else moved
    elif op == _BAND:
        for t in range(n):
            out[t] = a[t] + level * b[t]
    elif op == _SCALED:
        for t in range(n):
            out[t] = level * a[t]
    elif op == _TIMES:
        for t in range(n):
            out[t] = a[t] * b[t]
    elif op == _SIZE:
        for t in range(n):
            out[t] = abs(a[t] - b[t])
    elif op == _LARGER:
        for t in range(n):
            out[t] = a[t] if (a[t] >= b[t]) | (a[t] != a[t]) else b[t]
    elif op == _SMALLER:
        for t in range(n):
            out[t] = a[t] if (a[t] <= b[t]) | (a[t] != a[t]) else b[t]
    elif op == _DIRECTIONAL:
        for t in range(n):
            nothing = abs(a[t] + b[t]) * 0.0  # NaN where there is no bar before
            out[t] = a[t] if (a[t] > b[t]) & (a[t] > 0.0) else nothing
    elif op == _SIGNED:
        for t in range(n):
            move = a[t] - b[t]
            out[t] = c[t] if move > 0.0 else -c[t] if move < 0.0 else 0.0
    elif op == _LOGARITHM:
        for t in range(n):
            out[t] = math.log(a[t])


@compiled(VOID, I64, FLOATS_IN, FLOATS_IN, FLOATS_IN, FLOATS_IN, FLOATS_OUT)
def _ratio(op: int, a: FloatArray, b: FloatArray, c: FloatArray, d: FloatArray, out: FloatArray) -> None:
    """Quotients; each states its value where the divisor is zero."""
    for t in range(len(out)):
        if op == _RATIO:
            out[t] = np.nan if b[t] == 0.0 else a[t] / b[t]
        elif op == _CHANGE:
            out[t] = np.nan if b[t] == 0.0 else a[t] / b[t] - 1.0
        elif op == _STRENGTH:
            both = a[t] + b[t]
            out[t] = 50.0 if both == 0.0 else 100.0 * a[t] / both
        elif op == _INDEX:
            out[t] = 0.0 if b[t] == 0.0 else 100.0 * a[t] / b[t]
        elif op == _IMBALANCE:
            both = a[t] + b[t]
            out[t] = 0.0 if both == 0.0 else 100.0 * abs(a[t] - b[t]) / both
        elif op == _POSITION:
            span = c[t] - b[t]
            out[t] = 0.5 if span == 0.0 else (a[t] - b[t]) / span
        elif op == _PERCENT:
            span = c[t] - b[t]
            out[t] = 50.0 if span == 0.0 else 100.0 * (a[t] - b[t]) / span
        else:  # pressure of (high, low, close, volume)
            span = a[t] - b[t]
            out[t] = 0.0 if span == 0.0 else d[t] * ((c[t] - b[t]) - (a[t] - c[t])) / span


@compiled(VOID, FLOATS_IN, I64, F64, F64, FLOATS_OUT, FLOATS_OUT)
def smooth(x: FloatArray, n: int, factor: float, divisor: float, memory: FloatArray, out: FloatArray) -> None:
    """e <- e + factor·(x - e)/divisor, seeded with the mean of the first n finite x; memory = (count, sum or e).

    Non-finite x gives NaN and leaves the memory alone: nothing that is not a number ever enters the recursion.
    """
    count, e = memory[0], memory[1]
    for t in range(len(x)):
        out[t] = np.nan
        if not np.isfinite(x[t]):
            continue
        if count < n:
            count += 1.0
            e += x[t]
            if count < n:
                continue
            e /= n
        else:
            e += factor * (x[t] - e) / divisor
        out[t] = e
    memory[0], memory[1] = count, e


@compiled(VOID, I64, I64, F64, FLOATS_IN, FLOATS_OUT, FLOATS_OUT)
def _counted(op: int, n: int, level: float, x: FloatArray, memory: FloatArray, out: FloatArray) -> None:
    """Operations whose memory is one number."""
    kept = memory[0]
    for t in range(len(out)):
        if op == _RUN_ABOVE:
            kept = min(kept + 1.0, float(n)) if x[t] > level else 0.0
            out[t] = kept
        elif op == _SINCE_ABOVE:
            kept = 0.0 if x[t] > level else kept + 1.0
            out[t] = kept if np.isfinite(kept) else np.nan
        else:  # cumulative
            kept += x[t]
            out[t] = kept
    memory[0] = kept


@compiled(VOID, FLOATS_IN, FLOATS_OUT, FLOATS_OUT)
def _remember(x: FloatArray, memory: FloatArray, wide: FloatArray) -> None:
    """Put memory and block end to end in `wide`; the memory then holds the last of them."""
    now, last = wide[len(memory) :], wide[len(x) :]
    for i in range(len(memory)):
        wide[i] = memory[i]
    for t in range(len(x)):
        now[t] = x[t]
    for i in range(len(memory)):
        memory[i] = last[i]


@compiled(F64, I64, F64, FLOATS_IN, *[FLOATS_OUT] * 3, INTS_OUT, INTS_OUT, I64, F64)
def _summed(
    n: int, divisor: float, x: FloatArray, memory: FloatArray, out: FloatArray, wide: FloatArray, high: IntArray,
    low: IntArray, longest: int, unit: float,
) -> float:  # fmt: skip
    """Sums over the last n values, divided. With a unit, `high` has the running sums of `longest` >= n values and x.

    Returns the unit of those that `high` holds afterwards, or 0.
    """
    _remember(x, memory, wide)
    if unit == 0.0:
        return exact_sums(wide, n, divisor, out, high, low)
    _differences(high[longest - n :], unit, n, divisor, out)
    return unit


@compiled(VOID, I64, I64, F64, FLOATS_IN, FLOATS_IN, FLOATS_OUT, FLOATS_OUT, FLOATS_OUT, INTS_OUT, INTS_OUT)
def _windowed(
    op: int, n: int, level: float, x: FloatArray, center: FloatArray, memory: FloatArray, out: FloatArray,
    wide: FloatArray, high: IntArray, low: IntArray,
) -> None:  # fmt: skip
    """Operations over the last n values; those that look back put memory and block end to end in `wide`."""
    if op == _EMA:
        smooth(x, n, 2.0 / (n + 1), 1.0, memory, out)
        return
    if op == _RMA:
        smooth(x, n, 1.0, float(n), memory, out)
        return
    if op in (_RUN_ABOVE, _SINCE_ABOVE, _CUMULATIVE):
        _counted(op, n, level, x, memory, out)
        return
    if op in (_SUM, _MEAN):
        _summed(n, 1.0 if op == _SUM else float(n), x, memory, out, wide, high, low, 0, 0.0)
        return
    count = len(out)
    _remember(x, memory, wide)
    if op == _LAG:
        for t in range(count):
            out[t] = wide[t]
    elif op == _HIGHEST:
        for t in range(count):
            out[t] = wide[t]
        for j in range(1, n):
            later = wide[j:]
            for t in range(count):
                other = later[t]
                out[t] = out[t] if (out[t] >= other) | (out[t] != out[t]) else other
    else:  # deviation: each window's squares are summed oldest to newest
        for t in range(count):
            out[t] = 0.0
        for j in range(n):
            later = wide[j:]
            for t in range(count):
                apart = later[t] - center[t]
                out[t] += apart * apart
        freedom = float(n) if op == _SD0 else n - 1.0
        for t in range(count):
            out[t] = math.sqrt(out[t] / freedom)


@compiled(VOID, I64, I64, F64, *[FLOATS_IN] * 4, *[FLOATS_OUT] * 3, INTS_OUT, INTS_OUT)
def operate(
    op: int, n: int, level: float, a: FloatArray, b: FloatArray, c: FloatArray, d: FloatArray, memory: FloatArray,
    out: FloatArray, wide: FloatArray, high: IntArray, low: IntArray,
) -> None:  # fmt: skip
    """One operation on one block; `wide`, `high` and `low` are places to work in, of len(out) + WINDOW_MAX."""
    if op <= _LAST_PLAIN:
        _plain(op, level, a, b, c, out)
    elif op <= _LAST_RATIO:
        _ratio(op, a, b, c, d, out)
    else:
        _windowed(op, n, level, a, b, memory, out, wide, high, low)


@compiled(VOID, I64, F64, FLOATS_IN, FLOATS_IN, BOOLS_OUT)
def _compare(op: int, level: float, a: FloatArray, b: FloatArray, out: BoolArray) -> None:
    n = len(out)
    if op == _ABOVE:
        for t in range(n):
            out[t] = a[t] > b[t]
    elif op == _BELOW:
        for t in range(n):
            out[t] = a[t] < b[t]
    elif op == _AT_LEAST:
        for t in range(n):
            out[t] = a[t] >= b[t]
    elif op == _AT_MOST:
        for t in range(n):
            out[t] = a[t] <= b[t]
    elif op == _ABOVE_LEVEL:
        for t in range(n):
            out[t] = a[t] > level
    elif op == _BELOW_LEVEL:
        for t in range(n):
            out[t] = a[t] < level
    elif op == _AT_LEAST_LEVEL:
        for t in range(n):
            out[t] = a[t] >= level
    elif op == _AT_MOST_LEVEL:
        for t in range(n):
            out[t] = a[t] <= level
    elif op == _NUMBER:
        for t in range(n):
            out[t] = a[t] == a[t]


@compiled(VOID, FLOATS_IN, FLOATS_IN, FLOATS_OUT, BOOLS_OUT)
def _cross(a: FloatArray, b: FloatArray, memory: FloatArray, out: BoolArray) -> None:
    """a - b was not positive on the bar before and is now; the memory is the difference on the bar before."""
    n = len(out)
    if n:
        out[0] = (memory[0] <= 0.0) & (a[0] - b[0] > 0.0)
        for t in range(1, n):
            out[t] = (a[t - 1] - b[t - 1] <= 0.0) & (a[t] - b[t] > 0.0)
        memory[0] = a[n - 1] - b[n - 1]


@compiled(VOID, FLOATS_IN, FLOATS_IN, FLOATS_OUT, BOOLS_OUT, BOOLS_OUT, INTS_OUT, INTS_OUT)
def _cross_both_ways(
    a: FloatArray, b: FloatArray, memory: FloatArray, up: BoolArray, down: BoolArray, places: IntArray, more_places: IntArray
) -> None:  # fmt: skip
    """`_cross` of a over b and of b over a; where the difference lies is noted in bytes, of which many fit in a register."""
    n = len(up)
    if n == 0:
        return
    above, below = up.view(np.uint8), down.view(np.uint8)
    low_before, high_before = places.view(np.uint8), more_places.view(np.uint8)
    low, high = low_before[1:], high_before[1:]
    low_before[0], high_before[0] = memory[0] <= 0.0, memory[0] >= 0.0
    for t in range(n):
        gap = a[t] - b[t]
        low[t], high[t] = gap <= 0.0, gap >= 0.0
    one = np.uint8(1)
    for t in range(n):
        above[t] = low_before[t] & high[t] & (low[t] ^ one)
        below[t] = high_before[t] & low[t] & (high[t] ^ one)
    memory[0] = a[n - 1] - b[n - 1]


@compiled(VOID, I64, BOOLS_IN, BOOLS_IN, BOOLS_OUT)
def _combine(op: int, p: BoolArray, q: BoolArray, out: BoolArray) -> None:
    n = len(out)
    if op == _BOTH:
        for t in range(n):
            out[t] = p[t] & q[t]
    else:
        for t in range(n):
            out[t] = p[t] | q[t]


def operate_whole(
    op: int, n: int, level: float, a: FloatArray, b: FloatArray, c: FloatArray, d: FloatArray, memory: FloatArray,
    out: FloatArray,
) -> None:  # fmt: skip
    """One operation on arrays of any length. Not compiled, like `evaluate`: numba would compile all that it calls once more."""
    size = min(BLOCK, len(out)) + WINDOW_MAX
    wide, high, low = np.empty(size), np.empty(size, np.int64), np.empty(size, np.int64)
    for first in range(0, len(out), BLOCK):
        last = min(first + BLOCK, len(out))
        operate(
            op, n, level, a[first:last], b[first:last], c[first:last], d[first:last], memory, out[first:last], wide, high, low
        )  # fmt: skip


# Programs of operations.

# One row of a program: operation, where the result goes, up to four inputs, n, where its memory begins and ends. Places of
# numbers: 0.. a row of the block, -1.. a row of `given`; of flags: rows of the block's flags.
_OP, _OUT, _A, _B, _C, _D, _N, _FROM, _TO = range(9)
_Columns = tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]


class Code(NamedTuple):
    """Operations in order (rows as above) with their levels, their memories at the start, and the room they need."""

    rows: IntArray
    levels: FloatArray
    memory: FloatArray
    n_numbers: int
    n_flags: int


@compiled(
    VOID, INT_ROWS, FLOATS_IN, *[FLOATS_IN] * 5, FLOAT_ROWS, FLOATS_OUT, FLOAT_ROWS, FLAG_ROWS, FLOATS_OUT, INTS_OUT,
    INTS_OUT, I64, I64,
)  # fmt: skip
def advance(
    rows: IntArray, levels: FloatArray, open_: FloatArray, high: FloatArray, low: FloatArray, close: FloatArray,
    volume: FloatArray, given: FloatArray, memory: FloatArray, numbers: FloatArray, flags: BoolArray, wide: FloatArray,
    places: IntArray, more_places: IntArray, first: int, last: int,
) -> None:  # fmt: skip
    """Every operation of a program on the bars [first, last), at most BLOCK of them; the first block begins at 0."""
    n = last - first
    summed, longest, unit = 0, 0, 0.0  # the running sums in `places`: of what, for which window
    for k in range(len(rows)):
        row, level = rows[k], levels[k]
        op, kept = row[_OP], memory[row[_FROM] : row[_TO]]
        if op == _COLUMN:
            out = numbers[row[_OUT], :n]
            source = close if row[_N] == 3 else open_ if row[_N] == 0 else high if row[_N] == 1 else low
            if row[_N] == 4:
                source = volume
            for t in range(n):
                out[t] = source[first + t]
            continue
        if op in (_ALWAYS, _NEVER):
            if first == 0:  # and then for all blocks
                flags[row[_OUT]] = op == _ALWAYS
            continue
        if op in (_BOTH, _EITHER):
            _combine(op, flags[row[_A], :n], flags[row[_B], :n], flags[row[_OUT], :n])
            continue
        a = given[-1 - row[_A], first:last] if row[_A] < 0 else numbers[row[_A], :n]
        b = given[-1 - row[_B], first:last] if row[_B] < 0 else numbers[row[_B], :n]
        if op == _CROSS_UP:
            _cross(a, b, kept, flags[row[_OUT], :n])
        elif op == _CROSS_BOTH_WAYS:
            _cross_both_ways(a, b, kept, flags[row[_OUT], :n], flags[row[_C], :n], places, more_places)
            unit = 0.0
        elif op >= FIRST_FLAG:
            _compare(op, level, a, b, flags[row[_OUT], :n])
        else:
            c = given[-1 - row[_C], first:last] if row[_C] < 0 else numbers[row[_C], :n]
            d = given[-1 - row[_D], first:last] if row[_D] < 0 else numbers[row[_D], :n]
            out = given[-1 - row[_OUT], first:last] if row[_OUT] < 0 else numbers[row[_OUT], :n]
            if op in (_SUM, _MEAN):
                held = unit if row[_A] == summed and row[_N] <= longest else 0.0
                divisor = 1.0 if op == _SUM else float(row[_N])
                unit = _summed(row[_N], divisor, a, kept, out, wide, places, more_places, longest, held)
                if held == 0.0:
                    summed, longest = int(row[_A]), int(row[_N])
            else:
                operate(op, row[_N], level, a, b, c, d, kept, out, wide, places, more_places)


@compiled(
    VOID, FLOATS_IN, FLOATS_IN, BOOLS_IN, BOOLS_IN, BOOLS_IN, BOOLS_IN, BOOLS_IN, FLOATS_IN, FLOATS_OUT, SIGNALS_OUT,
    BOOLS_OUT,
)  # fmt: skip
def decide(
    open_: FloatArray, close: FloatArray, enter: BoolArray, gate: BoolArray, leave: BoolArray, logic_enter: BoolArray,
    logic_leave: BoolArray, rules: FloatArray, position: FloatArray, signal: SignalArray, state_in: BoolArray,
) -> None:  # fmt: skip
    """Compose the verdicts of each bar with the position; `rules` = (stop_pct, profit_target_pct, cooldown)."""
    stop, target, cooldown = 1.0 - rules[0], 1.0 + rules[1], rules[2]
    pos, entry_price, high, since_exit, pending = position
    for t in range(len(close)):
        if pending == ENTER:
            pos, entry_price, high = 1.0, open_[t], open_[t]
        elif pending == EXIT:
            pos, since_exit = 0.0, -1.0
        if pos == 1.0:
            high = max(high, close[t])
        else:
            since_exit += 1.0
        held = pos == 1.0
        stopped = held and (logic_leave[t] or close[t] < high * stop or close[t] >= entry_price * target)
        vetoed = not held and since_exit < cooldown
        pending = 0.0
        signal[t] = 0
        if leave[t] or stopped:
            signal[t] = EXIT
            if held:
                pending = EXIT
        elif (enter[t] or logic_enter[t]) and gate[t] and not vetoed:
            signal[t] = ENTER
            if not held:
                pending = ENTER
        state_in[t] = pending == ENTER or (held and pending != EXIT)
    position[0], position[1], position[2], position[3], position[4] = pos, entry_price, high, since_exit, pending


@compiled(types.boolean, BOOLS_IN, BOOLS_IN, BOOLS_IN, types.boolean, SIGNALS_OUT, BOOLS_OUT)
def _decide_without_rules(
    enter: BoolArray, gate: BoolArray, leave: BoolArray, held: bool, signal: SignalArray, state_in: BoolArray
) -> bool:
    """The signals and states of `decide` where no logic looks at the position; returns the last state."""
    n = len(signal)
    for t in range(n):
        signal[t] = np.int8(enter[t] & gate[t] & (not leave[t])) - np.int8(leave[t])
    whole = n // 8 * 8
    said, states = signal[:whole].view(np.int64), state_in[:whole].view(np.int64)  # eight bars at once
    for word in range(len(said)):
        if said[word] == 0:
            states[word] = EACH_BYTE * np.int64(held)
            continue
        for t in range(8 * word, 8 * word + 8):
            held = (signal[t] > 0) | (held & (signal[t] == 0))
            state_in[t] = held
    for t in range(whole, n):
        held = (signal[t] > 0) | (held & (signal[t] == 0))
        state_in[t] = held
    return held


@compiled(
    VOID, INT_ROWS, FLOATS_IN, *[FLOATS_IN] * 5, FLOAT_ROWS, FLOATS_OUT, I64, I64, INTS_IN, FLOATS_IN, FLOATS_OUT,
    types.boolean, I64, SIGNALS_OUT, BOOLS_OUT,
)  # fmt: skip
def judge(
    rows: IntArray, levels: FloatArray, open_: FloatArray, high: FloatArray, low: FloatArray, close: FloatArray,
    volume: FloatArray, given: FloatArray, memory: FloatArray, n_numbers: int, n_flags: int, verdicts: IntArray,
    rules: FloatArray, position: FloatArray, has_rules: bool, start: int, signal: SignalArray, state_in: BoolArray,
) -> None:  # fmt: skip
    """Run a program over all bars and decide from bar `start` on.

    `verdicts` are the flags of enter, gate, leave, logic_enter and logic_leave. Without rules the position counts for
    nothing and is left alone.
    """
    size, held = min(BLOCK, len(close)), False
    numbers, flags = np.empty((n_numbers + 1, size)), np.empty((n_flags, size), np.bool_)
    wide, places = np.empty(size + WINDOW_MAX), np.empty(size + WINDOW_MAX, np.int64)
    more = np.empty(size + WINDOW_MAX, np.int64)
    for first in range(0, len(close), BLOCK):
        last = min(first + BLOCK, len(close))
        advance(
            rows, levels, open_, high, low, close, volume, given, memory, numbers, flags, wide, places, more, first, last
        )  # fmt: skip
        begin = max(first, start)
        if begin >= last:
            continue
        a, b = begin - first, last - first
        enter, gate, leave = flags[verdicts[0], a:b], flags[verdicts[1], a:b], flags[verdicts[2], a:b]
        if has_rules:
            decide(
                open_[begin:last], close[begin:last], enter, gate, leave, flags[verdicts[3], a:b],
                flags[verdicts[4], a:b], rules, position, signal[begin:last], state_in[begin:last],
            )  # fmt: skip
        else:
            held = _decide_without_rules(enter, gate, leave, held, signal[begin:last], state_in[begin:last])


def evaluate(
    rows: IntArray, levels: FloatArray, open_: FloatArray, high: FloatArray, low: FloatArray, close: FloatArray,
    volume: FloatArray, given: FloatArray, memory: FloatArray, n_numbers: int,
) -> None:  # fmt: skip
    """Run a program without verdicts over all bars; what it makes goes into rows of `given`, and `memory` is advanced."""
    judge(
        rows, levels, open_, high, low, close, volume, given, memory, n_numbers, 1, np.empty(0, np.int64), np.empty(0),
        np.empty(0), False, len(close), np.empty(0, np.int8), np.empty(0, np.bool_),
    )  # fmt: skip
