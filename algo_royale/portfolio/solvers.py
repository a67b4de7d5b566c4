"""Estimates and solvers of the allocators: small dense problems by explicit loops in compiled kernels.

No BLAS and no threads, so that the same returns give the same bits on every run. Every solver returns None instead of a
result that misses its conditions of optimality by more than 1e-6, with the covariance scaled to a mean variance of 1.
"""

import math
from typing import Any

import numpy as np

from algo_royale.compiled import compiled_as_called
from algo_royale.market import FloatArray, IntArray

JITTER = 1e-10
KKT_TOLERANCE = 1e-6
BALANCED = 1e-12  # risk contributions this close to their budgets are as good as rounding allows

_kernel = compiled_as_called


# --- estimates -------------------------------------------------------------------------------------------------------


def covariance(returns: FloatArray, method: str = "ledoit_wolf") -> FloatArray:
    """Covariance [n, n] per bar of `returns` [T, n] (T >= 2): Ledoit-Wolf 2004 with the identity target, or ddof 1.

    A jitter of 1e-10 of the mean variance keeps it positive definite for duplicate columns and T < n.
    """
    sigma: FloatArray = _ledoit_wolf(returns) if method == "ledoit_wolf" else _sample(returns)
    _jitter(sigma)
    return sigma


@_kernel
def mean(returns: FloatArray, shrink: float) -> FloatArray:
    """Mean [n] per bar of `returns` [T, n], drawn by the fraction `shrink` towards the mean of the means (Jorion 1986)."""
    rows, n = returns.shape
    out = np.zeros(n)
    grand = 0.0
    for j in range(n):
        for t in range(rows):
            out[j] += returns[t, j]
        out[j] /= rows
        grand += out[j]
    grand /= n
    for j in range(n):
        out[j] = (1.0 - shrink) * out[j] + shrink * grand
    return out


@_kernel
def compounded(returns: FloatArray) -> FloatArray:
    """Total return [n] over all rows of `returns` [T, n]."""
    rows, n = returns.shape
    out = np.ones(n)
    for j in range(n):
        for t in range(rows):
            out[j] *= 1.0 + returns[t, j]
    return out - 1.0


@_kernel
def deviations(window: FloatArray) -> FloatArray:
    """Standard deviation (ddof 1) of each column, two passes; NaN where a value is not finite or there are fewer than two.

    Each column is summed oldest to newest; the columns are walked side by side, as they lie in memory, four rows at a time
    that each sum is fetched and put back.
    """
    rows, n = window.shape
    out = np.full(n, np.nan)
    if rows < 2:
        return out
    means, totals = np.zeros(n), np.zeros(n)
    fours = rows // 4 * 4
    for t in range(0, fours, 4):
        a, b, c, d = window[t], window[t + 1], window[t + 2], window[t + 3]
        for j in range(n):
            means[j] = means[j] + a[j] + b[j] + c[j] + d[j]
    for t in range(fours, rows):
        for j in range(n):
            means[j] += window[t, j]
    means /= rows
    for t in range(0, fours, 4):
        a, b, c, d = window[t], window[t + 1], window[t + 2], window[t + 3]
        for j in range(n):
            mean = means[j]
            e, f, g, h = a[j] - mean, b[j] - mean, c[j] - mean, d[j] - mean
            totals[j] = totals[j] + e * e + f * f + g * g + h * h
    for t in range(fours, rows):
        for j in range(n):
            away = window[t, j] - means[j]
            totals[j] += away * away
    for j in range(n):
        if np.isfinite(totals[j]):
            out[j] = math.sqrt(totals[j] / (rows - 1))
    return out


@_kernel
def fill(raw: FloatArray, budget: float, cap: float) -> FloatArray:
    """Spread `budget` in proportion to `raw` (>= 0) with no weight above `cap` (> 0); what cannot be placed stays cash."""
    weights, free, rest = np.zeros(len(raw)), raw > 0.0, budget
    while free.any():
        total, capped = 0.0, 0
        for i in range(len(raw)):
            if free[i]:
                total += raw[i]
        for i in range(len(raw)):
            if free[i]:
                weights[i] = rest * raw[i] / total
                if weights[i] > cap:
                    weights[i], free[i] = cap, False
                    capped += 1
        if not capped:
            break
        rest = max(rest - cap * capped, 0.0)
    return weights


@_kernel
def _mean_variance_of(sigma: FloatArray) -> float:
    total = 0.0
    for i in range(len(sigma)):
        total += sigma[i, i]
    return total / len(sigma)


@_kernel
def _jitter(sigma: FloatArray) -> None:
    jitter = JITTER * _mean_variance_of(sigma)
    for i in range(len(sigma)):
        sigma[i, i] += jitter


@_kernel
def _scatter(returns: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Demeaned returns X and X'X, summed oldest to newest."""
    rows, n = returns.shape
    x = np.empty((rows, n))
    for j in range(n):
        mean = 0.0
        for t in range(rows):
            mean += returns[t, j]
        mean /= rows
        for t in range(rows):
            x[t, j] = returns[t, j] - mean
    s = np.empty((n, n))
    for i in range(n):
        for j in range(i + 1):
            total = 0.0
            for t in range(rows):
                total += x[t, i] * x[t, j]
            s[i, j] = total
            s[j, i] = total
    return x, s


@_kernel
def _sample(returns: FloatArray) -> FloatArray:
    _, s = _scatter(returns)
    s /= returns.shape[0] - 1
    return s


@_kernel
def _ledoit_wolf(returns: FloatArray) -> FloatArray:
    """Ledoit and Wolf 2004, A well-conditioned estimator for large-dimensional covariance matrices, lemma 3.2 ff."""
    rows, n = returns.shape
    x, s = _scatter(returns)
    s /= rows
    mean = 0.0
    for i in range(n):
        mean += s[i, i]
    mean /= n
    distance = 0.0
    for i in range(n):
        for j in range(n):
            distance += (s[i, j] - (mean if i == j else 0.0)) ** 2
    distance /= n
    noise = 0.0
    for t in range(rows):
        for i in range(n):
            for j in range(n):
                noise += (x[t, i] * x[t, j] - s[i, j]) ** 2
    noise = min(noise / (n * float(rows) * rows), distance)
    shrinkage = noise / distance if distance > 0.0 else 0.0
    for i in range(n):
        for j in range(n):
            s[i, j] *= 1.0 - shrinkage
        s[i, i] += shrinkage * mean
    return s


# --- quadratic problems ----------------------------------------------------------------------------------------------


def minimum_variance(sigma: FloatArray, budget: float, cap: float) -> FloatArray | None:
    """argmin w'Σw with Σw = budget, 0 <= w <= cap (Markowitz 1952)."""
    return _accepted(_minimum_variance(sigma, budget, cap))


def mean_variance(
    sigma: FloatArray, mu: FloatArray, risk_aversion: float, budget: float, cap: float
) -> FloatArray | None:
    """argmax mu'w - risk_aversion·w'Σw with Σw <= budget, 0 <= w <= cap (Markowitz 1952)."""
    return _accepted(_mean_variance(sigma, mu, risk_aversion, budget, cap))


def maximum_sharpe(sigma: FloatArray, excess: FloatArray, budget: float, cap: float) -> FloatArray | None:
    """argmax excess'w / √(w'Σw) with Σw = budget, 0 <= w <= cap (Sharpe 1966); zeros if no such w earns an excess.

    The same as min y'Σy with excess'y = 1, 0 <= y_i <= cap/budget·Σy and w = budget·y/Σy.
    """
    return _accepted(_maximum_sharpe(sigma, excess, budget, cap))


def maximum_diversification(sigma: FloatArray) -> FloatArray | None:
    """argmax w'σ / √(w'Σw), w >= 0, up to a factor: the minimum variance weights of the correlations over σ (Choueifaty 2008)."""
    sd = np.sqrt(np.diag(sigma))
    weights = minimum_variance(sigma / sd[:, None] / sd, 1.0, 1.0)
    return None if weights is None else weights / sd


Solved = tuple[FloatArray, float]  # weights and their KKT residual


def _accepted(solved: Solved) -> FloatArray | None:
    weights, residual = solved
    return weights if residual <= KKT_TOLERANCE else None  # not a number is no solution either


@_kernel
def _minimum_variance(sigma: FloatArray, budget: float, cap: float) -> Solved:
    scaled, linear = sigma / _mean_variance_of(sigma), np.zeros(len(sigma))
    weights = _quadratic(scaled, linear, budget, cap, True)
    return weights, kkt_residual(scaled, linear, weights, budget, cap, True)


@_kernel
def _mean_variance(sigma: FloatArray, mu: FloatArray, risk_aversion: float, budget: float, cap: float) -> Solved:
    scale = _mean_variance_of(sigma)
    scaled, linear = sigma / scale, mu / (2.0 * risk_aversion * scale)
    weights = _quadratic(scaled, linear, budget, cap, False)
    if (
        weights.sum() > budget
    ):  # the problem is convex: where it wants more than there is, it spends exactly what there is
        weights = _quadratic(scaled, linear, budget, cap, True)
    return weights, kkt_residual(scaled, linear, weights, budget, cap, False)


@_kernel
def _maximum_sharpe(sigma: FloatArray, excess: FloatArray, budget: float, cap: float) -> Solved:
    best, left = 0.0, budget
    for value in np.sort(excess)[::-1]:
        best += min(cap, left) * value
        left = max(left - cap, 0.0)
    largest = np.abs(excess).max()
    if best <= 1e-12 * largest:
        return np.zeros(len(sigma)), 0.0
    scaled, excess = sigma / _mean_variance_of(sigma), excess / largest
    weights = _tangency(scaled, excess, budget, cap)
    linear = _form(scaled, weights) / _inner(excess, weights) * excess
    return weights, kkt_residual(scaled, linear, weights, budget, cap, True)


@_kernel
def kkt_residual(
    scaled: FloatArray, linear: FloatArray, weights: FloatArray, budget: float, cap: float, spend: bool
) -> float:
    """How far `weights` are from minimising ½w'Σw - linear'w: the largest gain per unit of weight that is moved between two
    symbols (or, unless all must be spent, to or from cash), or the largest breach of a constraint."""
    n = len(weights)
    budget = min(budget, n * cap) if spend else budget
    dearest, cheapest, total, breach = -np.inf, np.inf, 0.0, 0.0
    for i in range(n):
        gradient = -linear[i]
        for j in range(n):
            gradient += scaled[i, j] * weights[j]
        if weights[i] > 1e-12:
            dearest = max(dearest, gradient)
        if weights[i] < cap - 1e-12:
            cheapest = min(cheapest, gradient)
        total += weights[i]
        breach = max(breach, -weights[i], weights[i] - cap)
    gain = dearest - cheapest
    if not spend:
        gain = max(gain, dearest)
        if total < budget - 1e-12:
            gain = max(gain, -cheapest)
    return max(gain, breach, abs(total - budget) if spend else total - budget) if np.isfinite(total) else np.nan


@_kernel
def _solve(a: FloatArray, b: FloatArray) -> FloatArray:
    """Solve a x = b for symmetric positive definite `a` [m, m] and `b` [m, k] by Cholesky; both are overwritten."""
    m, k = b.shape
    for j in range(m):
        for i in range(j, m):
            total = a[i, j]
            for p in range(j):
                total -= a[i, p] * a[j, p]
            a[i, j] = math.sqrt(total) if i == j else total / a[j, j]
    for c in range(k):
        for i in range(m):
            for p in range(i):
                b[i, c] -= a[i, p] * b[p, c]
            b[i, c] /= a[i, i]
        for i in range(m - 1, -1, -1):
            for p in range(i + 1, m):
                b[i, c] -= a[p, i] * b[p, c]
            b[i, c] /= a[i, i]
    return b


@_kernel
def _minimise_free(
    sigma: FloatArray, linear: FloatArray, w: FloatArray, bound: Any, budget: float, spend: bool
) -> tuple[FloatArray, float]:
    """Best weights when those with bound != 0 stay put and the rest are free but for their sum; and the sum's multiplier."""
    n = len(w)
    free = np.flatnonzero(bound == 0)
    m = len(free)
    a, b = np.empty((m, m)), np.empty((m, 2))
    left = budget
    for i in range(n):
        if bound[i] != 0:
            left -= w[i]
    for p in range(m):
        pull = 0.0
        for j in range(n):
            if bound[j] != 0:
                pull += sigma[free[p], j] * w[j]
        b[p, 0], b[p, 1] = 1.0, linear[free[p]] - pull
        for q in range(m):
            a[p, q] = sigma[free[p], free[q]]
    x = _solve(a, b)
    multiplier = 0.0
    if spend:
        ones, pulls = 0.0, 0.0
        for p in range(m):
            ones += x[p, 0]
            pulls += x[p, 1]
        multiplier = (left - pulls) / ones
    out = w.copy()
    for p in range(m):
        out[free[p]] = x[p, 1] + multiplier * x[p, 0]
    return out, multiplier


@_kernel
def _release(sigma: FloatArray, linear: FloatArray, w: FloatArray, bound: Any, multiplier: float, spend: bool) -> bool:
    """Free the bound symbol whose multiplier is most wrong (the lowest index of equals); at a vertex, one of each kind."""
    gradient = -linear
    for i in range(len(w)):
        for j in range(len(w)):
            gradient[i] += sigma[i, j] * w[j]
    low, high = -1, -1
    for i in range(len(w)):
        if bound[i] < 0 and (low < 0 or gradient[i] < gradient[low]):
            low = i
        if bound[i] > 0 and (high < 0 or gradient[i] > gradient[high]):
            high = i
    if spend and np.all(bound != 0):
        if low < 0 or high < 0 or gradient[high] - gradient[low] <= 1e-12:
            return False
        bound[low], bound[high] = 0, 0
        return True
    worst_low = multiplier - gradient[low] if low >= 0 else 0.0
    worst_high = gradient[high] - multiplier if high >= 0 else 0.0
    if max(worst_low, worst_high) <= 1e-12:
        return False
    bound[low if worst_low >= worst_high else high] = 0
    return True


@_kernel
def _quadratic(sigma: FloatArray, linear: FloatArray, budget: float, cap: float, spend: bool) -> FloatArray:
    """argmin ½w'Σw - linear'w with 0 <= w <= cap and, if `spend`, Σw = budget.

    A primal active-set method, exact for the bounds that bind: from equal weights solve for the free ones, stop at the first
    bound met, free a wrong bound.
    """
    n = len(sigma)
    if spend and n * cap <= budget:
        return np.full(n, cap)
    w = np.full(n, min(budget / n, cap))
    bound = np.zeros(n, np.int8)  # -1 at zero, 1 at the cap, 0 free
    multiplier = 0.0
    for _ in range(50 * n):
        if np.any(bound == 0):
            goal, multiplier = _minimise_free(sigma, linear, w, bound, budget, spend)
            step, hit, side = 1.0, -1, 0
            for i in range(n):
                if bound[i] == 0:
                    move = goal[i] - w[i]
                    if goal[i] < 0.0 and move < 0.0 and -w[i] / move < step:
                        step, hit, side = -w[i] / move, i, -1
                    if goal[i] > cap and move > 0.0 and (cap - w[i]) / move < step:
                        step, hit, side = (cap - w[i]) / move, i, 1
            for i in range(n):
                if bound[i] == 0:
                    w[i] += step * (goal[i] - w[i])
            if hit >= 0:
                bound[hit] = side
                w[hit] = 0.0 if side < 0 else cap
                continue
        if not _release(sigma, linear, w, bound, multiplier, spend):
            break
    for i in range(n):
        w[i] = min(max(w[i], 0.0), cap)
    return w


@_kernel
def _tangency(sigma: FloatArray, excess: FloatArray, budget: float, cap: float) -> FloatArray:
    """The point of the efficient frontier w(λ) = argmin ½w'Σw - λ·excess'w where the Sharpe ratio is highest.

    That is where g(λ) = λ·excess'w - w'Σw is zero. Between two changes of the bounds that bind, w = a + λd with a the weights
    of λ = 0, and g is the line λ·excess'a - a'Σa: so Newton's steps end exactly, and halving keeps them inside a bracket.
    """
    n, nothing = len(sigma), np.zeros(len(sigma))
    price, low, high = 0.0, 0.0, np.inf
    w = nothing
    for _ in range(200):
        w = _quadratic(sigma, price * excess, budget, cap, True)
        reward, variance = _inner(excess, w), _form(sigma, w)
        gap = price * reward - variance
        if abs(gap) <= 1e-14 * variance:
            break
        if gap < 0.0:
            low = price
        else:
            high = price
        bound = np.zeros(n, np.int8)
        for i in range(n):
            bound[i] = -1 if w[i] <= 0.0 else 1 if w[i] >= cap else 0
        a = w
        if np.any(bound == 0):
            a, _ = _minimise_free(sigma, nothing, w, bound, budget, True)
        gain = _inner(excess, a)
        goal = _form(sigma, a) / gain if gain > 0.0 else np.inf
        if not low < goal < high:
            if np.isinf(high):
                goal = 4.0 * price if price > 0.0 else 1.0
            else:
                goal = 0.5 * (low + high)
        if goal in (price, low, high):
            break
        price = goal
    return w


@_kernel
def _inner(x: FloatArray, y: FloatArray) -> float:
    total = 0.0
    for i in range(len(x)):
        total += x[i] * y[i]
    return total


@_kernel
def _form(sigma: FloatArray, w: FloatArray) -> float:
    """w'Σw."""
    total = 0.0
    for i in range(len(w)):
        for j in range(len(w)):
            total += w[i] * sigma[i, j] * w[j]
    return total


# --- budgets of risk -------------------------------------------------------------------------------------------------


def risk_budgets(sigma: FloatArray, budgets: FloatArray) -> FloatArray | None:
    """w >= 0 with Σw = 1 and w_i(Σw)_i in proportion to `budgets` (>= 0, sum 1; Maillard 2010, Spinu 2013)."""
    return _accepted(_descend(sigma, budgets))


@_kernel
def _descend(sigma: FloatArray, budgets: FloatArray) -> Solved:
    """Cyclical coordinate descent on ½y'Σy - Σ b·ln y to y_i(Σy)_i = b_i: y/Σy, and the largest difference left."""
    n = len(sigma)
    sigma = sigma / _mean_variance_of(sigma)
    y = np.empty(n)
    for i in range(n):
        y[i] = math.sqrt(budgets[i] / sigma[i, i])
    residual = np.inf
    for _ in range(2000):
        size = math.sqrt(_form(sigma, y))  # at the solution y'Σy = Σb = 1, and along a ray that is the minimum
        if not size > 0.0:  # a perfect hedge has no risk to share out
            return y, np.inf
        for i in range(n):
            y[i] /= size
        for i in range(n):
            a = 0.0
            for j in range(n):
                if j != i:
                    a += sigma[i, j] * y[j]
            root = math.sqrt(a * a + 4.0 * sigma[i, i] * budgets[i])
            if a > 0.0:  # the form that does not subtract two near numbers
                y[i] = 2.0 * budgets[i] / (a + root)
            else:
                y[i] = (root - a) / (2.0 * sigma[i, i])
        residual = 0.0
        for i in range(n):
            pull = 0.0
            for j in range(n):
                pull += sigma[i, j] * y[j]
            residual = max(residual, abs(y[i] * pull - budgets[i]))
        if residual <= BALANCED:
            break
    return y / y.sum(), residual


# --- a tree of correlations ------------------------------------------------------------------------------------------


def hierarchical_risk_parity(sigma: FloatArray, method: str) -> FloatArray:
    """Weights, up to a factor, by recursive bisection of the symbols in the order of a tree of correlations (Lopez de Prado 2016).

    `method`: how scipy.cluster.hierarchy links clusters. Up to two symbols are weighted by their inverse variances.
    """
    if len(sigma) <= 2:
        inverse: FloatArray = 1.0 / np.diag(sigma)
        return inverse
    from scipy.cluster.hierarchy import linkage  # it takes a while to import, and few rows need it

    weights: FloatArray = _bisect(sigma, leaves(linkage(_distances(sigma), method)))
    return weights


@_kernel
def _distances(sigma: FloatArray) -> FloatArray:
    """Euclidean distances between the columns of D = √((1 - ρ)/2), pair by pair as scipy lists them."""
    n = len(sigma)
    d = np.empty((n, n))
    for i in range(n):
        for j in range(n):
            rho = sigma[i, j] / math.sqrt(sigma[i, i] * sigma[j, j])
            d[i, j] = 0.0 if i == j else math.sqrt(min(max(0.5 * (1.0 - rho), 0.0), 1.0))
    out = np.empty(n * (n - 1) // 2)
    k = 0
    for i in range(n):
        for j in range(i + 1, n):
            total = 0.0
            for row in range(n):
                total += (d[row, i] - d[row, j]) ** 2
            out[k] = math.sqrt(total)
            k += 1
    return out


@_kernel
def leaves(tree: FloatArray) -> IntArray:
    """Leaves of a linkage from left to right: scipy's leaves_list without the third of a millisecond of its checks."""
    n = len(tree) + 1
    out, stack = np.empty(n, np.int64), np.empty(n, np.int64)
    stack[0], depth, found = 2 * n - 2, 1, 0
    while depth:
        depth -= 1
        node = stack[depth]
        if node < n:
            out[found] = node
            found += 1
        else:
            stack[depth] = np.int64(tree[node - n, 1])
            stack[depth + 1] = np.int64(tree[node - n, 0])
            depth += 2
    return out


@_kernel
def _bisect(sigma: FloatArray, order: IntArray) -> FloatArray:
    """Halve the ordered list again and again; each half gets weight in inverse proportion to its variance."""
    n = len(order)
    w = np.ones(n)
    stack = [(0, n)]
    while stack:
        low, high = stack.pop()
        if high - low < 2:
            continue
        middle = low + (high - low) // 2
        left, right = _cluster(sigma, order[low:middle]), _cluster(sigma, order[middle:high])
        share = 1.0 - left / (left + right)
        for k in range(low, high):
            w[order[k]] *= share if k < middle else 1.0 - share
        stack.append((low, middle))
        stack.append((middle, high))
    return w


@_kernel
def _cluster(sigma: FloatArray, members: IntArray) -> float:
    """Variance of some symbols under inverse variance weights."""
    m = len(members)
    inverse, total, variance = np.empty(m), 0.0, 0.0
    for p in range(m):
        inverse[p] = 1.0 / sigma[members[p], members[p]]
        total += inverse[p]
    for p in range(m):
        for q in range(m):
            variance += inverse[p] * sigma[members[p], members[q]] * inverse[q]
    return variance / (total * total)
