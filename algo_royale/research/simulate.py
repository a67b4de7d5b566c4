"""The engine driven over history: what the whole actor system must reproduce order by order.

Timing, for each bar time of the union over symbols, in this order:
  1. a new session: splits that go ex today change quantities; unsettled cash whose day has come settles;
  2. the open: orders decided at the previous bar time fill at their symbol's open through `costs.fill_price`, sells before
     buys, each in symbol order: the first trade after the decision, however late in the bar it comes. An order whose symbol
     has no bar here, and what is left of a scaled one, ends; with a broker (TRADER_RULES) so does one whose own bar passed
     without a trade in any symbol. A limit that the open does not satisfy fills at itself if it may wait and the bar's range
     reaches it, an order for the closing auction at the close;
  3. the close: one `BarsClosed` with every symbol that has a bar, hence one decision, whose orders live until step 2 of the
     next bar time. Orders of the last bar time therefore stay unfilled.

Two sets of account rules (`portfolio.sizing`): RESEARCH_RULES on adjusted prices, fractional, buys scaled to the cash there is
when they fill; TRADER_RULES on raw prices, whole shares on a tick, every order fills whole as the broker does it, and dividends
are not paid (Alpaca's paper account pays none). A live caller that tells `engine.step` the same events gets the same orders.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

import msgspec
import numpy as np

from algo_royale.costs import BUY, CostRules, commission, fees, fill_price, usd
from algo_royale.engine import (
    BarsClosed,
    Decision,
    EngineConfig,
    EngineState,
    Event,
    FillApplied,
    OrderEnded,
    RecentCloses,
    SessionStarted,
    SymbolBar,
    SymbolSplit,
    history_before,
    start,
    step,
)
from algo_royale.errors import BadInput
from algo_royale.market import Bars, BoolArray, CorporateAction, FloatArray, IntArray, Timeframe
from algo_royale.orders import Fill, Order, OrderEvent, apply
from algo_royale.portfolio.sizing import AccountRules, scale_buys, sell_proceeds
from algo_royale.sessions import calendar, order_window

_ZERO, _ONE = Decimal(0), Decimal(1)
DAY_NS = 24 * 3_600_000_000_000
NEW_YORK_LATEST_OFFSET_NS = 4 * 3_600_000_000_000  # UTC-4: start minus this has New York's date, summer and winter


@dataclass(frozen=True, slots=True, kw_only=True)
class SymbolInput:
    """One symbol: `traded` bars that orders are sized and filled on, and arrays of the same length.

    Research passes adjusted bars, the trader's rules raw ones. Bars that start before the simulation are the allocator's
    history and are not traded. `state_in` and `score` are the combined signal after each bar. `actions`: splits to book,
    for raw prices only.
    """

    traded: Bars
    adjusted_close: FloatArray
    state_in: BoolArray
    score: FloatArray
    actions: tuple[CorporateAction, ...] = ()

    def __post_init__(self) -> None:
        for name in ("adjusted_close", "state_in", "score"):
            if len(getattr(self, name)) != len(self.traded):
                raise BadInput(f"{self.traded.symbol}: {name} has not the {len(self.traded)} rows of its bars")


class MarketBar(NamedTuple):
    """What a symbol did during a bar time, in US dollars; `start_ns` labels it."""

    open: float
    high: float
    low: float
    close: float
    start_ns: int


class MarketStep(msgspec.Struct, frozen=True, gc=False):
    """One bar time: what closed, and the splits before its open."""

    closed: BarsClosed
    new_session: bool
    splits: tuple[SymbolSplit, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Market:
    """Everything of a simulation that does not depend on the portfolio strategy."""

    inputs: Mapping[str, SymbolInput]  # in name order
    spans: Mapping[str, tuple[int, int]]  # the rows of each symbol that are traded
    bar_end_ns: IntArray  # [T], the union over symbols

    @property
    def symbols(self) -> tuple[str, ...]:
        return tuple(self.inputs)

    @property
    def history(self) -> dict[str, RecentCloses]:
        """What is known of each symbol before the first step."""
        rows = ((s, one, self.spans[s][0]) for s, one in self.inputs.items())
        return {s: RecentCloses(one.traded.end_ns[:low], one.adjusted_close[:low]) for s, one, low in rows}

    @property
    def steps(self) -> Iterator[MarketStep]:
        """The bar times in order, made as they are asked for: a long market is never in memory as objects."""
        columns = {symbol: _rows(one, *self.spans[symbol]) for symbol, one in self.inputs.items()}
        merged = _merged(columns, self.bar_end_ns.tolist()) if len(columns) > 1 else _alone(*columns.items())
        names, last, session = _Names(), -1, ""
        for end, bars, day in merged:
            if day == last:
                yield MarketStep(BarsClosed(end, session, bars), False, ())
                continue
            last, today = day, names[day]
            yield MarketStep(BarsClosed(end, today, bars), True, _splits(self.inputs, session, today))
            session = today

    def bar(self, symbol: str, bar_end_ns: int) -> MarketBar:
        """The symbol's bar that ends then."""
        bars = self.inputs[symbol].traded
        row = bars.end_ns.searchsorted(bar_end_ns)
        open_, high, low, close = (float(column[row]) for column in (bars.open, bars.high, bars.low, bars.close))
        return MarketBar(open_, high, low, close, int(bars.start_ns[row]))


class FillRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A fill as it is reported (catalogue §14.6). US dollars; `timestamp` is the label of the bar it filled at the open of."""

    fill_id: str
    timestamp: int
    symbol: str
    action: str
    quantity: Decimal
    price: Decimal
    notional: Decimal
    commission: Decimal
    fees: Decimal
    slippage_cost: Decimal
    cash_after: Decimal
    unsettled_after: Decimal
    position_after: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationResult:
    """`orders` in the order they were decided, as they ended; `decisions` those with targets; arrays one value per bar time.

    `equity` and `cash` in US dollars at each close. `closed_equity`: what is left after selling everything at the last close,
    costs paid.
    """

    decisions: tuple[Decision, ...]
    orders: tuple[Order, ...]
    fills: tuple[FillRow, ...]
    bar_end_ns: IntArray
    equity: FloatArray
    cash: FloatArray
    final_equity: Decimal
    closed_equity: Decimal
    state: EngineState
    solver_fallbacks: int


def prepare(inputs: Mapping[str, SymbolInput], start_ns: int, end_ns: int) -> Market:
    """Lay out the union of bar times whose bars start in [start_ns, end_ns) (UTC ns)."""
    ordered, spans, ends = {s: inputs[s] for s in sorted(inputs)}, {}, []
    for symbol, one in ordered.items():
        low, high = np.searchsorted(one.traded.start_ns, [start_ns, end_ns], side="left").tolist()
        spans[symbol] = (low, high)
        ends.append(one.traded.end_ns[low:high])
    union = np.unique(np.concatenate(ends)) if ends else np.empty(0, np.int64)
    return Market(inputs=ordered, spans=spans, bar_end_ns=union)


_Row = tuple[int, SymbolBar, int]  # bar end, what closed, day since 1970 in New York
_END: _Row = (-1, SymbolBar(None, 0.0, False, 0.0), -1)


def _rows(one: SymbolInput, low: int, high: int) -> Iterator[_Row]:
    """The rows [low, high) of a symbol."""
    cut, bars = slice(low, high), one.traded
    days = (bars.start_ns[cut] - NEW_YORK_LATEST_OFFSET_NS) // DAY_NS
    closes = one.adjusted_close[cut].tolist()
    shown = map(SymbolBar, _usd_of(bars.close[cut]), closes, one.state_in[cut].tolist(), one.score[cut].tolist())
    return zip(bars.end_ns[cut].tolist(), shown, days.tolist(), strict=True)


_Time = tuple[int, dict[str, SymbolBar], int]  # bar end, what closed then, the first of its days


def _alone(one: tuple[str, Iterator[_Row]]) -> Iterator[_Time]:
    """The bar times of a single symbol."""
    symbol, column = one
    return ((end, {symbol: bar}, day) for end, bar, day in column)


def _merged(columns: Mapping[str, Iterator[_Row]], ends: Sequence[int]) -> Iterator[_Time]:
    """The bar times of the union, each with every symbol that has a bar."""
    heads = {symbol: next(column, _END) for symbol, column in columns.items()}
    for end in ends:
        bars: dict[str, SymbolBar] = {}
        first = 2**62
        for symbol, column in columns.items():
            head = heads[symbol]
            if head[0] == end:
                bars[symbol] = head[1]
                first = head[2] if head[2] < first else first
                heads[symbol] = next(column, _END)
        yield end, bars, first


def _usd_of(prices: FloatArray) -> Iterator[Decimal]:
    """`costs.usd` of each price; of prices in cents there are few, and each is spelt once."""
    values, at = np.unique(prices, return_inverse=True)
    return map([usd(value) for value in values.tolist()].__getitem__, at.tolist())


class _Names(dict[int, str]):
    """ISO dates of days since 1970, each spelt once."""

    def __missing__(self, day: int) -> str:
        self[day] = str(np.datetime64(day, "D"))
        return self[day]


def _splits(inputs: Mapping[str, SymbolInput], after: str, until: str) -> tuple[SymbolSplit, ...]:
    """Splits with `after` < ex-date <= `until` (ISO dates); none before the first step, for nothing is held then."""
    if after in ("", until):
        return ()
    due = (
        (symbol, a.ex_date.isoformat(), a.ratio)
        for symbol in sorted(inputs)
        for a in inputs[symbol].actions
        if a.ratio != 1.0
    )
    return tuple(SymbolSplit(symbol, usd(ratio)) for symbol, date, ratio in due if after < date <= until)


@dataclass(slots=True)
class _Run:
    """What accumulates while the steps are walked."""

    state: EngineState
    config: EngineConfig
    decisions: list[Decision] = field(default_factory=list)
    orders: dict[str, Order] = field(default_factory=dict)
    fills: list[FillRow] = field(default_factory=list)
    equity: list[float] = field(default_factory=list)
    cash: list[float] = field(default_factory=list)

    def tell(self, event: Event) -> EngineState:
        self.state, decisions = step(self.state, event, self.config)
        if decisions and decisions[0].targets:
            self._keep(decisions[0])
        return self.state

    def _keep(self, decision: Decision) -> None:
        self.decisions.append(decision)
        for approved in decision.approved:
            order_id = approved.intent.client_order_id
            self.orders[order_id] = self.state.orders[order_id]


def simulate(market: Market, config: EngineConfig, cash_usd: Decimal) -> SimulationResult:
    """Trade `market` from a flat account of `cash_usd`. Deterministic; the timing is the module's.

    Raises BadInput where the configuration's symbols are not the market's.
    """
    if config.symbols != market.symbols:
        raise BadInput(f"configuration trades {config.symbols}, the market has {market.symbols}")
    history, _ = history_before(config, market.history, int(market.bar_end_ns[0]) if len(market.bar_end_ns) else 0)
    run = _Run(start(config, cash_usd, history), config)
    cash, cash_float = cash_usd, float(cash_usd)
    for moment in market.steps:
        if moment.new_session:
            for split in moment.splits:
                run.tell(split)
            if config.rules.account == "cash":
                run.tell(SessionStarted(moment.closed.session))
        if run.state.orders:
            _fill_orders(run, market, moment)
        state = run.tell(moment.closed)
        assert state.equity is not None
        if state.account.cash is not cash:
            cash, cash_float = state.account.cash, float(state.account.cash)
        run.equity.append(cash_float if state.equity is cash else float(state.equity))
        run.cash.append(cash_float)
    final = run.state.equity if run.state.equity is not None else cash_usd
    return SimulationResult(
        decisions=tuple(run.decisions), orders=tuple(run.orders.values()), fills=tuple(run.fills),
        bar_end_ns=market.bar_end_ns, equity=np.array(run.equity, np.float64),
        cash=np.array(run.cash, np.float64), final_equity=final, closed_equity=_closed_equity(run.state, config.rules),
        state=run.state, solver_fallbacks=sum(d.fallback for d in run.decisions),
    )  # fmt: skip


class Chance(NamedTuple):
    """Where an order may fill during a bar: `phase` 0 at its open, 1 within it, 2 at its close."""

    phase: int
    order: Order
    reference: Decimal  # US dollars per share that it meets
    at_ns: int


def _fill_orders(run: _Run, market: Market, moment: MarketStep) -> None:
    """Fill what can be filled during this bar time, then let every remaining order end."""
    rules, end_ns = run.config.rules, moment.closed.bar_end_ns
    waiting = sorted(run.state.orders.values(), key=lambda o: (o.side == BUY, o.symbol))
    chances = []
    if rules.shortfall == "scale" or _is_next(market, run.state.bar_end_ns, end_ns):
        traded = [order for order in waiting if order.symbol in moment.closed.bars]
        found = [_chance(order, market.bar(order.symbol, end_ns)) for order in traded]
        chances = [chance for chance in found if chance is not None]
    for phase in sorted({chance.phase for chance in chances}):
        _fill_phase(run, [chance for chance in chances if chance.phase == phase])
    for order in waiting:
        if order.client_order_id in run.state.orders:
            expires = run.config.is_daily and order.time_in_force == "day"  # with its session, by itself
            event = OrderEvent.EXPIRED if expires else OrderEvent.CANCELED
            now = run.orders[order.client_order_id] = apply(run.orders[order.client_order_id], event).order
            run.tell(OrderEnded(order.client_order_id, now.status))


def _is_next(market: Market, decided_ns: int, end_ns: int) -> bool:
    """Whether the bar that ends at `end_ns` is the one that orders decided at `decided_ns` are for."""
    timeframe = market.inputs[market.symbols[0]].traded.timeframe
    return timeframe is Timeframe.DAY_1 or end_ns <= order_window(decided_ns, timeframe, calendar())[1]


def _chance(order: Order, bar: MarketBar) -> Chance | None:
    """Where the order fills in its symbol's bar, or None.

    A limit that is not good enough at the open fills at itself, and only where the bar's range reached it: what the market did
    within the bar nobody knows. One that is immediate or cancel has no later chance.
    """
    if order.time_in_force == "cls":
        return Chance(2, order, usd(bar.close), bar.start_ns)
    opened, limit = usd(bar.open), order.limit_price_usd
    if limit is None or (opened <= limit if order.side == BUY else opened >= limit):
        return Chance(0, order, opened, bar.start_ns)
    if order.time_in_force != "day":
        return None
    reached = usd(bar.low) <= limit if order.side == BUY else usd(bar.high) >= limit
    return Chance(1, order, limit, bar.start_ns) if reached else None


def _fill_phase(run: _Run, chances: Sequence[Chance]) -> None:
    """Sells before buys; where there is no credit, buys are scaled to the cash that there is then."""
    rules = run.config.rules
    for chance in chances:
        if chance.order.side != BUY:
            quantity = min(chance.order.quantity, run.state.account.quantity(chance.order.symbol))
            _execute(run, chance, quantity)
    buys = [chance for chance in chances if chance.order.side == BUY]
    quantities: Sequence[Decimal] = [chance.order.quantity for chance in buys]
    if rules.shortfall == "scale":
        references = [chance.reference for chance in buys]
        quantities = scale_buys(quantities, references, run.state.account.settled_cash, rules)
    for chance, quantity in zip(buys, quantities, strict=True):
        _execute(run, chance, quantity)


def _price(chance: Chance, costs: CostRules) -> Decimal:
    """Slippage never makes a price worse than the limit; inside a bar a limit trades at itself."""
    limit = chance.order.limit_price_usd
    if limit is not None and chance.phase == 1:
        return limit
    price = fill_price(chance.order.side, chance.reference, costs)
    if limit is None:
        return price
    return min(price, limit) if chance.order.side == BUY else max(price, limit)


def _execute(run: _Run, chance: Chance, quantity: Decimal) -> None:
    if quantity <= 0:
        return
    costs, order = run.config.rules.costs, chance.order
    price = _price(chance, costs)
    fee, charged = fees(order.side, quantity, price, costs), commission(order.side, quantity, price, costs)
    fill = Fill(
        execution_id=f"{order.client_order_id}.1", client_order_id=order.client_order_id, broker_order_id="",
        symbol=order.symbol, side=order.side, quantity=quantity, cumulative_quantity=quantity, price_usd=price,
        fees_usd=fee + charged, at_ns=chance.at_ns,
    )  # fmt: skip
    run.tell(FillApplied(fill))
    run.orders[order.client_order_id] = apply(run.orders[order.client_order_id], OrderEvent.FILL, fill=fill).order
    account = run.state.account
    run.fills.append(
        FillRow(
            fill_id=fill.execution_id, timestamp=fill.at_ns, symbol=order.symbol, action=order.side, quantity=quantity,
            price=price, notional=quantity * price, commission=charged, fees=fee,
            slippage_cost=abs(price - chance.reference) * quantity, cash_after=account.cash,
            unsettled_after=account.unsettled_cash, position_after=account.quantity(order.symbol),
        )
    )  # fmt: skip


def _closed_equity(state: EngineState, rules: AccountRules) -> Decimal:
    cash, prices = state.account.cash, state.prices
    for symbol, position in sorted(state.account.positions.items()):
        cash += sell_proceeds(position.quantity, prices[symbol], rules)
    return cash
