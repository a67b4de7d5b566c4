"""The research account over arrays: what `simulate` does event by event, for thousands of trials, in compiled code.

What is to weigh what depends on the market and never on the account. So the bars at which the vector of effective states
changes are found for all bars at once, each of them is allocated, and then one kernel walks the account: the timing, the
sizing and the rules are those of `simulate`, and a test holds the two against each other on random markets.

Money is float64 here and Decimal there, so the two agree to rounding (1e-9 relative) and not bit for bit: a price is its
binary double instead of the decimal it is spelt as, and a target within 1e-15 of a whole lot may floor to its neighbour. Only
rules that a research account can have are known here (`supports`); limits, auctions, holds and the trader's go through `simulate`.
"""

import dataclasses
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from functools import cached_property
from typing import Any

import numpy as np
from numba import types

from algo_royale.compiled import BOOLS_IN, F64, FLOATS_IN, FLOATS_OUT, I64, VOID, compiled
from algo_royale.costs import BUY, SELL
from algo_royale.engine import EngineConfig
from algo_royale.errors import BadInput
from algo_royale.market import BoolArray, FloatArray, IntArray
from algo_royale.portfolio.sizing import AccountRules, OrderType, sell_proceeds
from algo_royale.portfolio.weights import allocate
from algo_royale.research.backtest import cost_array
from algo_royale.research.simulate import DAY_NS, NEW_YORK_LATEST_OFFSET_NS, Market, SimulationResult, simulate
from algo_royale.sessions import calendar

KEPT = 64  # allocations kept, for the best trial is simulated again, and at other costs


@dataclass(frozen=True, kw_only=True, eq=False)
class Panel:
    """A market as arrays [T, n]: bar times by symbols in name order.

    `open` and `start_ns` (label, UTC ns) where a symbol has a bar, else NaN and 0; `close`, `adjusted`, `state_in` and `score`
    as last known, before the first bar 0, NaN, False and 0. `adjusted` has the rows before the simulation on top:
    [H + T, n]. `missed`: bar times since the symbol's last bar. `day` [T]: the session, in days since 1970.
    """

    symbols: tuple[str, ...]
    bar_end_ns: IntArray
    day: IntArray
    start_ns: IntArray
    open: FloatArray
    close: FloatArray
    adjusted: FloatArray
    state_in: BoolArray
    score: FloatArray
    missed: IntArray
    market: Market | None = field(default=None, repr=False)  # what it was made of
    kept: "dict[tuple[Any, ...], Weighed]" = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        shape = (len(self.bar_end_ns), len(self.symbols))
        for name in ("start_ns", "open", "close", "state_in", "score", "missed"):
            if getattr(self, name).shape != shape:
                raise BadInput(f"{name} is {getattr(self, name).shape}, not {shape}")

    @classmethod
    def whole(
        cls, symbols: tuple[str, ...], start_ns: IntArray, bar_end_ns: IntArray, open_: FloatArray, close: FloatArray
    ) -> "Panel":
        """A market [T, n] of `symbols` in name order without a hole, all of them always in; it begins without a past."""
        shape = close.shape
        return cls(
            symbols=symbols, bar_end_ns=bar_end_ns, day=(start_ns - NEW_YORK_LATEST_OFFSET_NS) // DAY_NS,
            start_ns=np.broadcast_to(start_ns[:, None], shape), open=open_, close=close, adjusted=close,
            state_in=np.broadcast_to(np.True_, shape), score=np.broadcast_to(1.0, shape),
            missed=np.broadcast_to(np.int64(0), shape),
        )  # fmt: skip

    @cached_property
    def returns(self) -> FloatArray:
        """Simple returns [H + T - 1, n] of the adjusted closes."""
        out = np.empty((max(len(self.adjusted) - 1, 0), self.adjusted.shape[1]))
        _changes(np.ascontiguousarray(self.adjusted, np.float64), out)
        return out

    @cached_property
    def new_session(self) -> BoolArray:
        return np.concatenate(([True], self.day[1:] != self.day[:-1]))[: len(self.day)]


@dataclass(frozen=True, slots=True, eq=False)
class Weighed:
    """`row` [T]: the row of `weights` that a bar decides by anew, or -1. `fallbacks`: how often a solver was replaced."""

    row: IntArray
    weights: FloatArray
    fallbacks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelFill:
    """A fill (catalogue §14.6), US dollars and shares; `timestamp` is the label of the bar it filled at the open of."""

    timestamp: int
    symbol: str
    action: str
    quantity: float
    price: float
    notional: float
    commission: float
    fees: float
    slippage_cost: float
    cash_after: float
    unsettled_after: float
    position_after: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PanelResult:
    """`equity` and `cash` in US dollars at each close; `closed_equity` after selling everything at the last close.

    `trades` [k, 2]: net profit and return on the money put in of each round trip, per symbol from flat to flat, in the order
    they ended; those open at the end are sold at the last close. `notional` and `num_fills` are without those last sales.
    """

    equity: FloatArray
    cash: FloatArray
    closed_equity: float
    notional: float
    num_fills: int
    trades: FloatArray
    fills: tuple[PanelFill, ...]
    solver_fallbacks: int


def supports(config: EngineConfig) -> bool:
    """Whether the compiled account knows the rules: those of research, market orders, and no hold that can come to bear."""
    rules = config.rules
    is_research = rules.shortfall == "scale" and rules.costs.price_tick is None
    return is_research and rules.policy.type is OrderType.MARKET and not rules.holds.matters(is_daily=config.is_daily)


def panel(market: Market) -> Panel:
    """The arrays of a market without splits."""
    names, ends = market.symbols, market.bar_end_ns
    if any(a.ratio != 1.0 for one in market.inputs.values() for a in one.actions):
        raise BadInput("splits are for raw prices, and those for the event-driven simulation")
    first = int(ends[0]) if len(ends) else 0
    before = [h.bar_ends_ns for h in market.history.values()]
    past = np.unique(np.concatenate([np.asarray(t, np.int64) for t in before])) if before else np.empty(0, np.int64)
    past = past[past < first]
    shape = (len(ends), len(names))
    start_ns, state_in, missed = np.zeros(shape, np.int64), np.zeros(shape, np.bool_), np.empty(shape, np.int64)
    open_, close, score = np.full(shape, np.nan), np.zeros(shape), np.zeros(shape)
    adjusted = np.full((len(past) + len(ends), len(names)), np.nan)
    grid, index = np.concatenate((past, ends)), np.arange(len(ends))
    for j, (symbol, one) in enumerate(market.inputs.items()):
        low, high = market.spans[symbol]
        bars, rows = one.traded, slice(low, high)
        at = np.searchsorted(ends, bars.end_ns[rows])
        start_ns[at, j], open_[at, j] = bars.start_ns[rows], bars.open[rows]
        latest = np.searchsorted(at, index, side="right") - 1
        missed[:, j] = index - np.concatenate((at, [-1]))[latest]
        seen, row = latest >= 0, low + latest[latest >= 0]
        close[seen, j], state_in[seen, j], score[seen, j] = bars.close[row], one.state_in[row], one.score[row]
        known = np.searchsorted(bars.end_ns[:high], grid, side="right") - 1
        adjusted[known >= 0, j] = one.adjusted_close[known[known >= 0]]
    day = np.where(np.isnan(open_), 2**62, start_ns).min(axis=1, initial=2**62)
    return Panel(
        symbols=names, bar_end_ns=ends, day=(day - NEW_YORK_LATEST_OFFSET_NS) // DAY_NS, start_ns=start_ns, open=open_,
        close=close, adjusted=adjusted, state_in=state_in, score=score, missed=missed, market=market,
    )  # fmt: skip


def weigh(panel: Panel, config: EngineConfig, rebalance_at: BoolArray | None = None) -> Weighed:
    """The weights of every bar that allocates anew, as `engine.step` finds them; `rebalance_at` [T] stands in for the rule of
    the configuration."""
    key = (
        config.strategy, *config.params.items(), config.rebalance, config.weights, config.viability_array.tobytes(),
        config.max_stale_bars, None if rebalance_at is None else rebalance_at.tobytes(),
    )  # fmt: skip
    if key not in panel.kept:
        if len(panel.kept) >= KEPT:
            panel.kept.clear()
        panel.kept[key] = _weigh(panel, config, rebalance_at)
    return panel.kept[key]


def _weigh(panel: Panel, config: EngineConfig, rebalance_at: BoolArray | None) -> Weighed:
    at = np.arange(len(panel.bar_end_ns)) if rebalance_at is None else np.flatnonzero(rebalance_at)
    effective, rows, past = _effective(panel, config, at), config.lookback, len(panel.adjusted) - len(panel.bar_end_ns)
    if rebalance_at is None and config.rebalance == "on_signal_change":
        before = np.concatenate((np.zeros((1, effective.shape[1]), np.bool_), effective[:-1]))
        at = np.flatnonzero((effective != before).any(axis=1))
        effective = effective[at]
    weights, fallbacks, returns = np.zeros(effective.shape), 0, panel.returns
    for i, t in enumerate(at.tolist()):
        if past + t < rows:
            continue  # nobody has a history that long
        found = allocate(
            config.strategy, config.params, returns[past + t - rows : past + t], effective[i], panel.score[t],
            config.viability_array, config.weights,
        )  # fmt: skip
        weights[i] = found.weights
        fallbacks += found.fallback
    row = np.full(len(panel.bar_end_ns), -1, np.int64)
    row[at] = np.arange(len(at))
    return Weighed(row, weights, fallbacks)


def _effective(panel: Panel, config: EngineConfig, at: IntArray) -> BoolArray:
    """Which symbols are in [len(at), n] after the bars `at`, as `engine.step` has it."""
    oldest = at + len(panel.adjusted) - len(panel.bar_end_ns) - config.lookback
    known = np.isfinite(panel.adjusted[np.maximum(oldest, 0)]) & (oldest >= 0)[:, None]
    effective: BoolArray = panel.state_in[at] & (panel.missed[at] <= config.max_stale_bars) & known
    if config.cash_at_close_ns is not None:
        days, which = np.unique(panel.day, return_inverse=True)
        sessions = [calendar().session_on(date.fromisoformat(str(np.datetime64(d, "D")))) for d in days.tolist()]
        ends = np.array([2**62 if s is None else s.close_ns - config.cash_at_close_ns for s in sessions], np.int64)
        effective &= (panel.bar_end_ns < ends[which])[at, None]
    return effective


def simulate_panel(
    panel: Panel, config: EngineConfig, cash_usd: float, *, rebalance_at: BoolArray | None = None, fills: bool = False
) -> PanelResult:
    """`simulate` for research rules: trade `panel` from a flat account of `cash_usd`; `fills` keeps each one.

    Rules that only `simulate` knows go through it, event by event. Raises BadInput for other symbols than the configuration's,
    and for such rules where the panel was made of no market or rebalances by a rule of its own.
    """
    if config.symbols != panel.symbols:
        raise BadInput(f"configuration trades {config.symbols}, the market has {panel.symbols}")
    rules = config.rules
    if not supports(config):
        if panel.market is None or rebalance_at is not None:
            raise BadInput("the compiled account knows no price tick, no borrowing, no limits and no holds")
        return _through_events(simulate(panel.market, config, Decimal(repr(cash_usd))), config, fills=fills)
    weighed, (n_bars, n) = weigh(panel, config, rebalance_at), panel.open.shape
    equity, cash = np.empty(n_bars), np.empty(n_bars)
    # Room for as many as there can be; memory that nobody writes to is never taken from the system.
    trips, rows = np.empty((n_bars * n + n, 2)), np.empty((n_bars * n if fills else 0, _FILL))
    book = np.zeros(_BOOK)
    book[_CASH] = cash_usd
    _walk(
        panel.open, panel.close, panel.new_session, weighed.row, weighed.weights, cost_array(rules.costs),
        _rules_array(rules), equity, cash, book, trips, rows,
    )  # fmt: skip
    done = rows[: int(book[_FILLS])] if fills else rows
    return PanelResult(
        equity=equity, cash=cash, closed_equity=float(book[_CASH]), notional=float(book[_NOTIONAL]),
        num_fills=int(book[_FILLS]), trades=trips[: int(book[_TRIPS])].copy(), fills=_fills(panel, done),
        solver_fallbacks=weighed.fallbacks,
    )  # fmt: skip


def _through_events(result: SimulationResult, config: EngineConfig, *, fills: bool) -> PanelResult:
    """What the event-driven simulation found, as the compiled account tells it."""
    paid, received, held = ({symbol: Decimal(0) for symbol in config.symbols} for _ in range(3))
    trips = []

    def book(symbol: str, change: Decimal, spent: Decimal, gained: Decimal) -> None:
        paid[symbol] += spent
        received[symbol] += gained
        held[symbol] += change
        if not held[symbol] and paid[symbol]:
            trips.append((received[symbol] - paid[symbol], received[symbol] / paid[symbol] - 1))
            paid[symbol] = received[symbol] = Decimal(0)

    for f in result.fills:
        if f.action == BUY:
            book(f.symbol, f.quantity, f.notional + f.commission, Decimal(0))
        else:
            book(f.symbol, -f.quantity, Decimal(0), f.notional - f.commission - f.fees)
    prices = result.state.prices
    for symbol in config.symbols:  # what is open at the end is sold at the last close
        if held[symbol]:
            book(symbol, -held[symbol], Decimal(0), sell_proceeds(held[symbol], prices[symbol], config.rules))
    names = [one.name for one in dataclasses.fields(PanelFill)]
    told: list[dict[str, Any]] = [{n: _number(getattr(f, n)) for n in names} for f in result.fills] if fills else []
    return PanelResult(
        equity=result.equity, cash=result.cash, closed_equity=float(result.closed_equity),
        notional=float(sum(f.notional for f in result.fills)), num_fills=len(result.fills),
        trades=np.array(trips, np.float64).reshape(-1, 2), solver_fallbacks=result.solver_fallbacks,
        fills=tuple(PanelFill(**row) for row in told),
    )  # fmt: skip


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal) else value


def _rules_array(rules: AccountRules) -> FloatArray:
    """A lot as a fraction, the least notional, the band, sessions to settlement, lots of a fixed position (0: by weight)."""
    numerator, denominator = rules.lot.as_integer_ratio()
    days = rules.settlement_days if rules.account == "cash" else 0
    fixed = 0 if rules.shares is None else rules.shares // rules.lot
    return np.array([numerator, denominator, rules.min_notional, rules.drift_band, days, fixed], np.float64)


def _fills(panel: Panel, rows: FloatArray) -> tuple[PanelFill, ...]:
    out = []
    for at, symbol, signed, price, commission, fees, slippage, cash, unsettled, position in rows.tolist():
        quantity, j = abs(signed), int(symbol)
        out.append(
            PanelFill(
                timestamp=int(panel.start_ns[int(at), j]), symbol=panel.symbols[j], action=BUY if signed > 0 else SELL,
                quantity=quantity, price=price, notional=quantity * price, commission=commission, fees=fees,
                slippage_cost=slippage, cash_after=cash, unsettled_after=unsettled, position_after=position,
            )
        )  # fmt: skip
    return tuple(out)


# --- the kernel ------------------------------------------------------------------------------------------------------

# What the book holds besides positions; a fill's row: bar, symbol, signed shares, price, commission, fees, cost of slippage,
# and cash, unsettled cash and position after it.
_CASH, _UNSETTLED, _SETTLES_AT, _NOTIONAL, _FILLS, _TRIPS, _BOOK, _FILL = 0, 1, 2, 3, 4, 5, 6, 10
_HELD, _GOAL, _ORDER, _SHARES, _PAID, _RECEIVED, _POSITION = 0, 1, 2, 3, 4, 5, 6  # lots thrice, shares, dollars twice
# A quotient this close below a whole number of lots is that number: 0.35 * 100,000 / 100 is 350 shares.
_WHOLE = 1.0 + 2.0**-50

_TABLE_IN, _TABLE = types.Array(F64, 2, "C", readonly=True), types.Array(F64, 2, "C")
_INDEX, _PLACES = types.Array(I64, 1, "C", readonly=True), types.Array(I64, 1, "C")


@compiled(VOID, _TABLE_IN, _TABLE)
def _changes(prices: FloatArray, out: FloatArray) -> None:
    """Each row by the one before, less 1."""
    for t in range(len(out)):
        before, now, change = prices[t], prices[t + 1], out[t]
        for j in range(len(now)):
            change[j] = now[j] / before[j] - 1.0


@compiled(VOID, I64, I64, F64, F64, F64, F64, F64, FLOATS_IN, _TABLE, _TABLE)
def _write(
    t: int, j: int, signed: float, price: float, reference: float, commission: float, fees: float, book: FloatArray,
    positions: FloatArray, rows: FloatArray,
) -> None:  # fmt: skip
    row = rows[int(book[_FILLS])]
    row[0], row[1], row[2], row[3], row[4], row[5] = t, j, signed, price, commission, fees
    row[6], row[7], row[8] = abs(price - reference) * abs(signed), book[_CASH], book[_UNSETTLED]
    row[9] = positions[_SHARES, j]


@compiled(VOID, I64, FLOATS_IN, FLOATS_IN, FLOATS_IN, FLOATS_OUT, _TABLE, _PLACES, FLOATS_OUT, _TABLE, _TABLE)
def _sell(
    t: int, references: FloatArray, costs: FloatArray, rules: FloatArray, book: FloatArray, positions: FloatArray,
    those: IntArray, waiting: FloatArray, trips: FloatArray, rows: FloatArray,
) -> None:  # fmt: skip
    """Execute the sales that wait, in symbol order; a symbol without a price sells nothing."""
    slip, bps, per_share, minimum = costs[0], costs[1], costs[2], costs[3]
    sec, taf, taf_cap = costs[4], costs[5], costs[6]
    held, order, shares, paid = positions[_HELD], positions[_ORDER], positions[_SHARES], positions[_PAID]
    received, count = positions[_RECEIVED], 0
    for j in range(len(references)):  # without a branch, for none could be foreseen
        those[count] = j
        count += (min(-order[j], held[j]) > 0.0) & (references[j] == references[j])
    cash, total, fills = book[_CASH], book[_NOTIONAL], book[_FILLS]
    for j in those[:count]:
        lots = min(-order[j], held[j])
        sold, price = lots * rules[0] / rules[1], references[j] * (1.0 - slip)
        notional = sold * price
        commission, fees = max(minimum, bps * notional + per_share * sold), sec * notional + min(taf * sold, taf_cap)
        proceeds = notional - commission - fees
        cash += proceeds
        total += notional
        if len(waiting) > 1 and proceeds > 0.0:
            waiting[int(book[_SETTLES_AT]) % len(waiting)] += proceeds
            book[_UNSETTLED] = waiting.sum()
        held[j] -= lots
        shares[j] = held[j] * rules[0] / rules[1]
        received[j] += proceeds
        if len(rows):
            book[_CASH], book[_FILLS] = cash, fills
            _write(t, j, -sold, price, references[j], commission, fees, book, positions, rows)
        fills += 1
        if held[j] == 0.0:
            trip = int(book[_TRIPS])
            trips[trip, 0], trips[trip, 1] = received[j] - paid[j], received[j] / paid[j] - 1.0
            book[_TRIPS] += 1
            paid[j], received[j] = 0.0, 0.0
    book[_CASH], book[_NOTIONAL], book[_FILLS] = cash, total, fills


@compiled(VOID, FLOATS_IN, F64, FLOATS_IN, FLOATS_IN, FLOATS_OUT, _INDEX)
def _scale(
    references: FloatArray, power: float, costs: FloatArray, rules: FloatArray, order: FloatArray, those: IntArray
) -> None:  # fmt: skip
    """The buys (`those` in `order`) that `power` can pay: `sizing.scale_buys`."""
    slip, bps, per_share, minimum = costs[0], costs[1], costs[2], costs[3]
    while True:
        cost = 0.0
        for j in those:
            if order[j] > 0.0:
                bought = order[j] * rules[0] / rules[1]
                notional = bought * (references[j] * (1.0 + slip))
                cost += notional + max(minimum, bps * notional + per_share * bought)
        if cost <= power or not cost > 0.0:
            return
        factor, same, most = max(power, 0.0) / cost, True, those[0]
        for j in those:
            if order[j] > 0.0:
                scaled = np.floor(order[j] * factor * _WHOLE)
                if scaled * rules[0] / rules[1] * references[j] < rules[2]:
                    scaled = 0.0
                same = same and scaled == order[j]
                order[j] = scaled
            most = j if order[j] > order[most] else most
        if same:
            order[most] -= 1.0


@compiled(VOID, I64, FLOATS_IN, FLOATS_IN, FLOATS_IN, FLOATS_OUT, _TABLE, _PLACES, _TABLE)
def _buy(
    t: int, references: FloatArray, costs: FloatArray, rules: FloatArray, book: FloatArray, positions: FloatArray,
    those: IntArray, rows: FloatArray,
) -> None:  # fmt: skip
    """Execute the buys that wait, scaled to what can be spent; a symbol without a price buys nothing."""
    slip, bps, per_share, minimum = costs[0], costs[1], costs[2], costs[3]
    held, order, shares, paid = positions[_HELD], positions[_ORDER], positions[_SHARES], positions[_PAID]
    count = 0
    for j in range(len(references)):  # as above
        those[count] = j
        count += (order[j] > 0.0) & (references[j] == references[j])
    _scale(references, book[_CASH] - book[_UNSETTLED], costs, rules, order, those[:count])
    cash, total, fills = book[_CASH], book[_NOTIONAL], book[_FILLS]
    for j in those[:count]:
        if not order[j] > 0.0:
            continue
        bought, price = order[j] * rules[0] / rules[1], references[j] * (1.0 + slip)
        notional = bought * price
        commission = max(minimum, bps * notional + per_share * bought)
        cash = max(cash - notional - commission, 0.0)  # the last cent spent may round below nothing
        total += notional
        held[j] += order[j]
        shares[j] = held[j] * rules[0] / rules[1]
        paid[j] += notional + commission
        if len(rows):
            book[_CASH], book[_FILLS] = cash, fills
            _write(t, j, bought, price, references[j], commission, 0.0, book, positions, rows)
        fills += 1
    book[_CASH], book[_NOTIONAL], book[_FILLS] = cash, total, fills


@compiled(types.boolean, FLOATS_IN, FLOATS_IN, F64, types.boolean, FLOATS_IN, _TABLE)
def _size(
    weights: FloatArray, close: FloatArray, equity: float, everybody: bool, rules: FloatArray, positions: FloatArray
) -> bool:
    """Orders of `everybody`, or of those that hold something else than wanted: `sizing.desire`. Whether there is any."""
    held, goal, order = positions[_HELD], positions[_GOAL], positions[_ORDER]
    numerator, denominator, band, found = rules[0], rules[1], max(rules[2], rules[3] * equity), False
    for j in range(len(weights)):
        order[j] = 0.0
        if not everybody and held[j] == goal[j]:
            continue
        if weights[j] <= 0.0:
            goal[j] = 0.0
        else:
            target = rules[5]
            if target == 0.0:
                target = np.floor(weights[j] * equity / close[j] * denominator / numerator * _WHOLE)
            away = abs(target - held[j]) * numerator / denominator * close[j]
            goal[j] = held[j] if away < band else target
        order[j] = goal[j] - held[j]
        found = found or order[j] != 0.0
    return found


@compiled(
    VOID, _TABLE_IN, _TABLE_IN, BOOLS_IN, _INDEX, _TABLE_IN, FLOATS_IN, FLOATS_IN, FLOATS_OUT, FLOATS_OUT, FLOATS_OUT,
    _TABLE, _TABLE,
)  # fmt: skip
def _walk(
    open_: FloatArray, close: FloatArray, new_session: BoolArray, row: IntArray, weights: FloatArray, costs: FloatArray,
    rules: FloatArray, equity: FloatArray, cash: FloatArray, book: FloatArray, trips: FloatArray, rows: FloatArray,
) -> None:  # fmt: skip
    """The account from the first bar to the last, where everything is sold: see `PanelResult`."""
    n_bars, n = open_.shape
    days = int(rules[4])
    positions, waiting, those = np.zeros((_POSITION, n)), np.zeros(days + 1), np.empty(n + 1, np.int64)
    held, goal, shares = positions[_HELD], positions[_GOAL], positions[_SHARES]
    session, current, ordered, behind = 0, -1, False, False
    for t in range(n_bars):
        if days and new_session[t]:
            session += 1
            waiting[session % (days + 1)] = 0.0
            book[_UNSETTLED], book[_SETTLES_AT] = waiting.sum(), session + days
        if ordered:
            _sell(t, open_[t], costs, rules, book, positions, those, waiting, trips, rows)
            _buy(t, open_[t], costs, rules, book, positions, those, rows)
            behind = False
            for j in range(n):
                behind = behind or held[j] != goal[j]
        value = book[_CASH]
        for j in range(n):
            value += shares[j] * close[t, j]
        equity[t], cash[t] = value, book[_CASH]
        ordered = False
        if row[t] >= 0 or behind:
            current = row[t] if row[t] >= 0 else current
            ordered = _size(weights[current], close[t], value, row[t] >= 0, rules, positions)
            behind = ordered
    if n_bars:
        fills, notional = book[_FILLS], book[_NOTIONAL]
        for j in range(n):  # of a whole row numba compiles what it says if lengths differ, for three seconds
            positions[_ORDER, j] = -held[j]
        _sell(n_bars, close[n_bars - 1], costs, rules, book, positions, those, waiting, trips, np.zeros((0, _FILL)))
        book[_FILLS], book[_NOTIONAL] = fills, notional
