"""Symbols that may not be ordered for a while, as one table.

    start -> (an order is recorded) hold_all -> (it has ended) closed_for_day | post_fill_delay | pending_settlement | rest
    closed_for_day -> (another session) post_fill_delay | ...     post_fill_delay -> (its time is over) pending_settlement | ...
    pending_settlement -> (the proceeds have settled) rest        rest: start, or with `one_way` buy_only or sell_only

A cell lists states in the order of preference: the first that applies is taken, so a rule that is off is passed over. Which one
applies follows from facts that the ledger has: what is held, what is open, when the symbol was last bought and sold. So a
restart stands where the events led (`of_facts`), and research and trader agree.

Times are those of the decision's orders: `at_ns` is the earliest instant they may be sent, `session` the session they are for. A
daily bar's orders are the next session's; a hold that ends with the session does not touch them.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
from msgspec.structs import replace

from algo_royale.costs import BUY
from algo_royale.errors import BadConfiguration
from algo_royale.sessions import calendar, new_york_date

SESSION_S = 23_400
_SECOND_NS = 1_000_000_000


class Hold(enum.StrEnum):
    """What a symbol is held back from."""

    START = "start"  # nothing
    BUY_ONLY = "buy_only"
    SELL_ONLY = "sell_only"
    HOLD_ALL = "hold_all"  # an order of it is open
    POST_FILL_DELAY = "post_fill_delay"  # it was traded a moment ago
    PENDING_SETTLEMENT = "pending_settlement"  # it was sold, and the proceeds have not settled: no purchase
    CLOSED_FOR_DAY = "closed_for_day"  # it was traded in this session: the way back would be a day trade

    def allows(self, side: str) -> bool:
        """Whether an order of that side may be recorded."""
        if self in (Hold.START, Hold.BUY_ONLY if side == BUY else Hold.SELL_ONLY):
            return True
        return self is Hold.PENDING_SETTLEMENT and side != BUY


class HoldEvent(enum.StrEnum):
    """What moves a hold."""

    ORDERED = "ordered"
    BOUGHT = "bought"
    SOLD = "sold"
    ENDED = "ended"  # an order will not fill any further
    MOVED = "moved"  # what is held changed without an order of ours
    DELAY_OVER = "delay_over"
    SETTLED = "settled"
    SESSION_OVER = "session_over"


_H, _E = Hold, HoldEvent
_REST: Final = (_H.SELL_ONLY, _H.BUY_ONLY, _H.START)
_UNSETTLED: Final = (_H.PENDING_SETTLEMENT, *_REST)
_DELAYED: Final = (_H.POST_FILL_DELAY, *_UNSETTLED)
_ALL: Final = (_H.HOLD_ALL, _H.CLOSED_FOR_DAY, *_DELAYED)
_TRADED: Final = {_E.ORDERED: (_H.HOLD_ALL,), _E.BOUGHT: _ALL, _E.SOLD: _ALL}  # also fills that are told late
_AT_REST: Final = {**_TRADED, _E.MOVED: _REST}

# (state, event) -> the states of which the first that applies is taken; what is not listed changes nothing
TRANSITIONS: Final[Mapping[Hold, Mapping[HoldEvent, tuple[Hold, ...]]]] = {
    _H.START: _AT_REST,
    _H.BUY_ONLY: _AT_REST,
    _H.SELL_ONLY: _AT_REST,
    _H.HOLD_ALL: {**_TRADED, _E.ENDED: _ALL},
    _H.CLOSED_FOR_DAY: {**_TRADED, _E.SESSION_OVER: _DELAYED},
    _H.POST_FILL_DELAY: {**_TRADED, _E.DELAY_OVER: _UNSETTLED},
    _H.PENDING_SETTLEMENT: {**_TRADED, _E.SETTLED: _REST},
}
_ENDS: Final = {
    _H.CLOSED_FOR_DAY: _E.SESSION_OVER, _H.POST_FILL_DELAY: _E.DELAY_OVER, _H.PENDING_SETTLEMENT: _E.SETTLED,
    _H.START: _E.MOVED, _H.BUY_ONLY: _E.MOVED, _H.SELL_ONLY: _E.MOVED, _H.HOLD_ALL: _E.ENDED,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldRules:
    """Which holds there are; as they stand here, none.

    `one_way`: a flat symbol is only bought and a held one only sold, so that positions are never added to or trimmed.
    `post_fill_delay_s`: so long after a fill nothing is ordered, counted from the start of the bar it filled in.
    `settlement_days`: sessions until the proceeds of a sale have settled; until then the symbol is not bought. 0: no hold.
    `no_day_trades`: a symbol that was traded in a session is not ordered in it again.
    """

    one_way: bool = False
    post_fill_delay_s: int = 0
    settlement_days: int = 0
    no_day_trades: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.post_fill_delay_s <= SESSION_S or self.settlement_days < 0:
            raise BadConfiguration(
                f"post_fill_delay_s must be in 0..{SESSION_S}, a session; settlement_days not negative"
            )

    @property
    def active(self) -> bool:
        """Whether there is anything to keep track of."""
        return self.one_way or self.no_day_trades or self.post_fill_delay_s > 0 or self.settlement_days > 0

    def matters(self, *, is_daily: bool) -> bool:
        """Whether any of it can keep an order back. A daily bar's order is for the next session, hours after its last fill."""
        return self.one_way or self.settlement_days > 1 if is_daily else self.active


class SymbolHold(msgspec.Struct, frozen=True, gc=False):
    """Where one symbol stands, with the facts that say how it goes on. Times in UTC ns, 0 for never."""

    hold: Hold = Hold.START
    is_held: bool = False
    is_open: bool = False  # an order of it
    bought_ns: int = 0
    sold_ns: int = 0


def applies(hold: Hold, facts: SymbolHold, rules: HoldRules, at_ns: int, session: str) -> bool:
    """Whether `hold` is the case for an order that may be sent at `at_ns`, in `session` (ISO date)."""
    traded_ns = max(facts.bought_ns, facts.sold_ns)
    match hold:
        case Hold.HOLD_ALL:
            return facts.is_open
        case Hold.CLOSED_FOR_DAY:
            return rules.no_day_trades and traded_ns > 0 and new_york_date(traded_ns).isoformat() == session
        case Hold.POST_FILL_DELAY:
            over_ns = traded_ns + rules.post_fill_delay_s * _SECOND_NS
            return rules.post_fill_delay_s > 0 and traded_ns > 0 and at_ns < over_ns
        case Hold.PENDING_SETTLEMENT:
            return facts.sold_ns > 0 and rules.settlement_days > 0 and settles_on(facts.sold_ns, rules) > session
        case Hold.SELL_ONLY:
            return rules.one_way and facts.is_held
        case Hold.BUY_ONLY:
            return rules.one_way and not facts.is_held
        case Hold.START:
            return True


def settles_on(sold_ns: int, rules: HoldRules) -> str:
    """ISO date of the session from which on the proceeds of a sale at `sold_ns` may be spent."""
    return calendar().offset(new_york_date(sold_ns), rules.settlement_days).date.isoformat()


def move(now: SymbolHold, event: HoldEvent, rules: HoldRules, at_ns: int, session: str) -> SymbolHold:
    """The symbol after `event`; the facts in `now` are those after it."""
    found = TRANSITIONS[now.hold].get(event, (now.hold,))
    if len(found) == 1:
        return now if found[0] is now.hold else replace(now, hold=found[0])
    hold = next(hold for hold in found if applies(hold, now, rules, at_ns, session))
    return now if hold is now.hold else replace(now, hold=hold)


def passed(now: SymbolHold, rules: HoldRules, at_ns: int, session: str) -> SymbolHold:
    """The symbol once time has come to `at_ns` in `session`: what is over by then has ended."""
    while not applies(now.hold, now, rules, at_ns, session) or now.hold is Hold.START:
        after = move(now, _ENDS[now.hold], rules, at_ns, session)
        if after.hold is now.hold:
            break
        now = after
    return now


def of_facts(facts: SymbolHold, rules: HoldRules, at_ns: int, session: str) -> SymbolHold:
    """The symbol as the facts alone have it: where a trader that has just started finds it."""
    return replace(facts, hold=next(hold for hold in _ALL if applies(hold, facts, rules, at_ns, session)))
