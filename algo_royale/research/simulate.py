"""The engine driven over history: what the whole actor system must reproduce order by order.

Timing, for each bar time of the union over symbols, in this order:
  1. a new session: splits that go ex today change quantities; unsettled cash whose day has come settles;
  2. the open: orders decided at the previous bar time fill at their symbol's open through `costs.fill_price`, sells before
     buys, each in symbol order; an order whose symbol has no bar here, and what is left of a scaled one, expires;
  3. the close: one `BarsClosed` with every symbol that has a bar, hence one decision, whose orders live until step 2 of the
     next bar time. Orders of the last bar time therefore stay unfilled.

Two sets of account rules (`portfolio.sizing`): RESEARCH_RULES on adjusted prices, fractional, buys scaled to the cash there is
when they fill; TRADER_RULES on raw prices, whole shares on a tick, every order fills whole as the broker does it, and dividends
are not paid (Alpaca's paper account pays none). A live caller that tells `engine.step` the same events gets the same orders.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

import numpy as np

from algo_royale.costs import BUY, commission, fees, fill_price, usd
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
from algo_royale.market import Bars, BoolArray, CorporateAction, FloatArray, IntArray
from algo_royale.orders import Fill, Order, OrderEvent, OrderStatus, apply
from algo_royale.portfolio.sizing import AccountRules, scale_buys, sell_proceeds

_ZERO, _ONE = Decimal(0), Decimal(1)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class MarketStep:
    """One bar time: `opens` and labels (`starts_ns`) of the symbols that have a bar, their closes, the splits before them."""

    opens: Mapping[str, Decimal]
    starts_ns: Mapping[str, int]
    closed: BarsClosed
    new_session: bool
    splits: tuple[SymbolSplit, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Market:
    """Everything of a simulation that does not depend on the portfolio strategy; made once, run many times."""

    symbols: tuple[str, ...]
    history: Mapping[str, RecentCloses]  # before the first step
    steps: tuple[MarketStep, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FillRow:
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
    symbols = tuple(sorted(inputs))
    rows: dict[int, list[tuple[str, int]]] = {}
    history: dict[str, RecentCloses] = {}
    columns = {s: _columns(inputs[s]) for s in symbols}
    for symbol in symbols:
        bars = inputs[symbol].traded
        low, high = np.searchsorted(bars.start_ns, [start_ns, end_ns], side="left")
        history[symbol] = RecentCloses(bars.end_ns[:low], inputs[symbol].adjusted_close[:low])
        for index in range(int(low), int(high)):
            rows.setdefault(int(bars.end_ns[index]), []).append((symbol, index))
    steps: list[MarketStep] = []
    session = ""
    for end in sorted(rows):
        members = rows[end]
        starts = {symbol: int(inputs[symbol].traded.start_ns[index]) for symbol, index in members}
        today = str(np.datetime64(min(starts.values()) - NEW_YORK_LATEST_OFFSET_NS, "ns").astype("datetime64[D]"))
        closed = {symbol: columns[symbol].bars[index] for symbol, index in members}
        steps.append(
            MarketStep(
                opens={symbol: columns[symbol].opens[index] for symbol, index in members},
                starts_ns=starts,
                closed=BarsClosed(end, today, closed),
                new_session=today != session,
                splits=_splits(inputs, session, today),
            )
        )
        session = today
    return Market(symbols=symbols, history=history, steps=tuple(steps))


@dataclass(frozen=True, slots=True)
class _Columns:
    opens: list[Decimal]
    bars: list[SymbolBar]


def _columns(one: SymbolInput) -> _Columns:
    rows = zip(
        one.traded.close.tolist(), one.adjusted_close.tolist(), one.state_in.tolist(), one.score.tolist(), strict=True
    )
    return _Columns(
        [usd(p) for p in one.traded.open.tolist()], [SymbolBar(usd(c), a, bool(i), s) for c, a, i, s in rows]
    )


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

    def tell(self, event: Event) -> None:
        self.state, decisions = step(self.state, event, self.config)
        for decision in decisions:
            if decision.targets:
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
    first = market.steps[0].closed.bar_end_ns if market.steps else 0
    history, _ = history_before(config, market.history, first)
    run = _Run(start(config, cash_usd, history), config)
    for moment in market.steps:
        if moment.new_session:
            for split in moment.splits:
                run.tell(split)
            if config.rules.account == "cash":
                run.tell(SessionStarted(moment.closed.session))
        if run.state.orders:
            _open(run, moment)
        run.tell(moment.closed)
        assert run.state.equity is not None
        run.equity.append(float(run.state.equity))
        run.cash.append(float(run.state.account.cash))
    final = run.state.equity if run.state.equity is not None else cash_usd
    return SimulationResult(
        decisions=tuple(run.decisions), orders=tuple(run.orders.values()), fills=tuple(run.fills),
        bar_end_ns=np.array([m.closed.bar_end_ns for m in market.steps], np.int64), equity=np.array(run.equity, np.float64),
        cash=np.array(run.cash, np.float64), final_equity=final, closed_equity=_closed_equity(run.state, config.rules),
        state=run.state, solver_fallbacks=sum(d.fallback for d in run.decisions),
    )  # fmt: skip


def _open(run: _Run, moment: MarketStep) -> None:
    """Fill what can be filled at this bar time's opens, then let every remaining order expire."""
    rules = run.config.rules
    waiting = sorted(run.state.orders.values(), key=lambda o: (o.side == BUY, o.symbol))
    filled = [order for order in waiting if order.symbol in moment.opens]
    for order in filled:
        if order.side != BUY:
            _execute(run, order, min(order.quantity, run.state.account.quantity(order.symbol)), moment)
    buys = [order for order in filled if order.side == BUY]
    quantities: Sequence[Decimal] = [order.quantity for order in buys]
    if rules.shortfall == "scale":
        references = [moment.opens[order.symbol] for order in buys]
        quantities = scale_buys(quantities, references, run.state.account.settled_cash, rules)
    for order, quantity in zip(buys, quantities, strict=True):
        _execute(run, order, quantity, moment)
    for order in waiting:
        if order.client_order_id in run.state.orders:
            run.tell(OrderEnded(order.client_order_id, OrderStatus.EXPIRED))
            now = run.orders[order.client_order_id]
            run.orders[order.client_order_id] = apply(now, OrderEvent.EXPIRED).order


def _execute(run: _Run, order: Order, quantity: Decimal, moment: MarketStep) -> None:
    if quantity <= 0:
        return
    reference, costs = moment.opens[order.symbol], run.config.rules.costs
    price = fill_price(order.side, reference, costs)
    fee, charged = fees(order.side, quantity, price, costs), commission(order.side, quantity, price, costs)
    fill = Fill(
        execution_id=f"{order.client_order_id}.1", client_order_id=order.client_order_id, broker_order_id="",
        symbol=order.symbol, side=order.side, quantity=quantity, cumulative_quantity=quantity, price_usd=price,
        fees_usd=fee + charged, at_ns=moment.starts_ns[order.symbol],
    )  # fmt: skip
    run.tell(FillApplied(fill))
    run.orders[order.client_order_id] = apply(run.orders[order.client_order_id], OrderEvent.FILL, fill=fill).order
    account = run.state.account
    run.fills.append(
        FillRow(
            fill_id=fill.execution_id, timestamp=fill.at_ns, symbol=order.symbol, action=order.side, quantity=quantity,
            price=price, notional=quantity * price, commission=charged, fees=fee,
            slippage_cost=abs(price - reference) * quantity, cash_after=account.cash,
            unsettled_after=account.unsettled_cash, position_after=account.quantity(order.symbol),
        )
    )  # fmt: skip


def _closed_equity(state: EngineState, rules: AccountRules) -> Decimal:
    cash = state.account.cash
    for symbol, position in sorted(state.account.positions.items()):
        cash += sell_proceeds(position.quantity, state.prices[symbol], rules)
    return cash
