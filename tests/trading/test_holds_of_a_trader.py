"""Each hold on a whole trader within a session: what people see of it, and a restart while it lasts changes nothing."""

from typing import Any

import pytest

import intraday
from algo_royale.app.stepped import SteppedTrader
from traders import config, ledger_of

PORTFOLIO = "root/trading/portfolio"
# hold -> [orders], kind of account, whether an order that it refused is on record
HOLDS: dict[str, tuple[dict[str, Any], str, bool]] = {
    "start": ({}, "margin", False),
    "buy_only": ({"one_way": True}, "margin", False),  # nobody sells what is not held
    "sell_only": ({"one_way": True}, "margin", True),
    "hold_all": ({"one_way": True}, "margin", False),  # refused as a duplicate or a wash trade, which come first
    "post_fill_delay": ({"post_fill_delay_s": 3600}, "margin", True),
    "pending_settlement": ({}, "cash", True),
    "closed_for_day": ({"day_trades": False}, "margin", True),
}


def trader(hold: str) -> SteppedTrader:
    orders, kind, _ = HOLDS[hold]
    shipped = config()
    cfg = shipped.model_copy(
        update={
            "orders": shipped.orders.model_copy(update=orders),
            "account": shipped.account.model_copy(update={"kind": kind}),
        }
    )
    the_plan, catalog = intraday.plan("5Min", strategies=intraday.BUSY), intraday.seeded(seed=7)
    live = intraday.trader(the_plan, catalog, intraday.HALF, intraday.HALF, cfg)
    if hold == "hold_all":  # what is open never fills and is not canceled
        exchange: Any = live.exchange
        exchange.cancel = lambda order: None
        for symbol in the_plan.names:
            exchange.halt(symbol)
    return live


def held_back(live: SteppedTrader) -> dict[str, str]:
    """What `status` and the job before the open say."""
    assert live.system is not None
    found: Any = live.system.glance(PORTFOLIO).get("held_back", {})
    return dict(found)


@pytest.mark.parametrize("hold", HOLDS)
def test_a_hold_is_seen_refuses_by_name_and_outlives_a_restart(hold: str) -> None:
    seen: dict[str, str] = {}

    def arrived(live: SteppedTrader) -> bool:
        seen.update({name: symbol for symbol, name in held_back(live).items()})
        return hold in seen

    whole, parts = trader(hold), trader(hold)
    assert whole.run(should_stop=lambda: arrived(whole) and False) == 0
    assert (hold in seen) == (hold != "start") and (hold != "start" or seen == {})
    reasons = {str(reason) for (reason,) in whole.store.database.connection().execute("SELECT reason FROM refusal")}
    assert any(f"({hold})" in reason for reason in reasons) == HOLDS[hold][2]
    if hold == "start":
        return
    seen.clear()
    assert parts.run(should_stop=lambda: arrived(parts)) == 0
    assert parts.run() == 0

    assert ledger_of(parts) == ledger_of(whole)
