"""One sentence per message, for people at a terminal: what `messages list`, `tail` and `trace` print after the type.

A pipe and `--json` get the fields themselves. A type that is not in the table is shown by its fields.
"""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any


def headline(message: Any) -> str | None:
    """The message in one sentence, or None where there is none for its type (or it is of another version)."""
    told = _HEADLINES.get(type(message).__name__)
    return None if told is None else told(message)


def _order(order: Any) -> str:
    """`buy 10 IBM`, of anything with side, quantity and symbol."""
    limit = getattr(order, "limit_price_usd", None)
    return f"{order.side} {order.quantity} {order.symbol}" + ("" if limit is None else f" at {limit} or better")


def _usd(amount: Decimal | None) -> str:
    return "unknown" if amount is None else f"{amount:,.2f}"


def _target(target: Any) -> str:
    shares = f"{target.held_quantity}"
    if target.target_quantity != target.held_quantity:
        shares += f"->{target.target_quantity}"
    return f"{target.symbol} {target.weight:.0%} ({shares})"


def _decision(message: Any) -> str:
    targets = ", ".join(_target(t) for t in message.targets) or "unchanged"
    parts = [
        f"equity {_usd(message.equity_usd)}, cash {_usd(message.cash_usd)}",
        f"targets {targets}",
        ", ".join(_order(intent) for intent in message.approved) or "no order",
    ]
    parts += [f"refused {_order(r.intent)}: {r.code}" for r in message.refused]
    if message.missing:
        parts.append(f"without {', '.join(message.missing)}")
    return "; ".join(parts)


def _signal(message: Any) -> str:
    state = "in" if message.state_in else "out"
    told = f"{message.symbol} {'goes' if message.changed else 'stays'} {state}"
    told += f", score {message.score:.2f}, close {message.close_usd}"
    if message.votes:
        votes = (f"{_short(v.strategy)} {v.weight:.0%} {'in' if v.held else 'out'}" for v in message.votes)
        told += f"; votes {', '.join(votes)}"
    passed = [f"{v.slot} {v.condition}" for v in message.verdicts if v.verdict]
    return told + (f"; true: {', '.join(passed)}" if passed else "")


def _short(strategy: str) -> str:
    return strategy.removesuffix("Strategy")


def _bar(message: Any) -> str:
    bar = message.bar
    told = f"{message.symbol} {message.timeframe} {bar.open:g} {bar.high:g} {bar.low:g} {bar.close:g}, volume {bar.volume:,.0f}"
    actions = [f"split {a.ratio:g}" for a in message.actions if a.ratio != 1]
    actions += [f"dividend {a.cash_usd:g}" for a in message.actions if a.cash_usd]
    return told + (f"; {', '.join(actions)}" if actions else "")


def _changed(message: Any) -> str:
    order, fill = message.order, message.fill
    return f"{_order(order)}: {order.status}" + (f" at {fill.price_usd}" if fill is not None else "")


def _update(message: Any) -> str:
    told = f"{message.event}: {_order(message)}"
    if message.fill_quantity is not None:
        told += f", {message.fill_quantity} at {message.fill_price_usd}"
    return told


def _event(message: Any) -> str:
    fill = message.fill
    told = f"{message.event} {message.client_order_id}"
    told += f": {_order(fill)} at {fill.price_usd}" if fill is not None else ""
    return told + (f" ({message.detail})" if message.detail else "")


def _agreement(message: Any) -> str:
    held = f"{len(message.positions)} position{'' if len(message.positions) == 1 else 's'}"
    look = "" if message.is_final else ", to be looked at again if it differs"
    return f"{message.cause_of}: {message.checked} to compare, cash {_usd(message.account_cash_usd)}, {held}{look}"


def _holdings(message: Any) -> str:
    held = ", ".join(f"{p.quantity} {p.symbol}" for p in message.positions) or "no position"
    return f"cash {_usd(message.cash_usd)}, {held}"


_HEADLINES: Mapping[str, Callable[[Any], str]] = {
    "BarClosed": _bar,
    "BrokerSnapshot": _holdings,
    "BrokerSnapshotRequested": lambda m: m.cause_of,
    "DecisionRecorded": lambda m: ", ".join(map(_order, m.orders)) or "no order",
    "FrameReceived": lambda m: f"{m.endpoint}: {m.text}",
    "HistoryLoaded": lambda m: f"{m.symbol}: {len(m.bars)} bars, {len(m.actions)} splits and dividends",
    "JobDue": lambda m: m.job,
    "LedgerSnapshot": _holdings,
    "LookUpOrder": lambda m: m.client_order_id,
    "OrderAbsent": lambda m: f"{m.client_order_id} is not shown" + (f": {m.reason}" if m.reason else ""),
    "OrderAccepted": lambda m: f"{m.client_order_id} is {m.status}" + (", adopted" if m.adopted else ""),
    "OrderChanged": _changed,
    "OrderRejected": lambda m: f"{m.client_order_id}: {m.status} {m.reason}",
    "Reconciled": _holdings,
    "RecordDecision": _decision,
    "RecordOrderEvent": _event,
    "RecordReconciliation": _agreement,
    "RecordSessionJob": lambda m: f"{m.session_date} {m.phase} {m.job}: {'' if m.ok else 'failed: '}{m.detail}",
    "SessionJobDone": lambda m: f"{m.session_date} {m.phase} {m.job}: {'' if m.ok else 'failed: '}{m.detail}",
    "SessionJobDue": lambda m: f"{m.session_date} {m.phase} {m.job}",
    "SessionPhaseChanged": lambda m: f"{m.session_date} {m.phase}",
    "SignalReported": _signal,
    "SubmissionDelayed": lambda m: f"{m.client_order_id} after {m.wait_ns / 1e9:g} s: {m.reason}",
    "SubmissionUncertain": lambda m: f"{m.client_order_id}: {m.reason}",
    "SubmitOrder": lambda m: _order(m.order),
    "SymbolWarmed": lambda m: f"{m.symbol}: {len(m.bar_ends_ns)} closes",
    "TimerFired": lambda m: f"{m.name} {m.key}".strip(),
    "TradeUpdated": _update,
}
