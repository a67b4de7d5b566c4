"""The whole trader on one thread: the same actors over the twin's core, with virtual time, seeds and faults.

One object is one account: the exchange and the ledger live on in it while systems come and go, as they do when a trader's
process dies and is started again.
"""

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from actors.direct import DirectBroker, DirectFaults, DirectStreams
from actors.kernel import NO_FAULTS, Faults, Sink, SteppedSystem
from actors.trading import Trader, tree
from algo_royale.app.pacing import DirectMarket, run_paced
from algo_royale.app.trader import live_start, trader_parts
from algo_royale.config import Config
from algo_royale.data.catalog import Catalog
from algo_royale.exchange.core import Exchange, ExchangeConfig
from algo_royale.exchange.replay import MarketReplay
from algo_royale.market import Timeframe
from algo_royale.research.handover import TradingPlan
from algo_royale.sessions import calendar
from db.store import Store

HOUR_NS = 3_600_000_000_000


def market_replay(plan: TradingPlan, catalog: Catalog, end: date) -> MarketReplay:
    """What the twin replays: the plan's symbols up to the session `end`, and for a plan within the day a path through their
    minutes. Immutable: one serves any number of runs."""
    within: dict[str, Any] = {"timeframe": Timeframe.MIN_1, "seed": 0, "spread_bps": 0.0}
    daily = Timeframe(plan.timeframe) is Timeframe.DAY_1
    return MarketReplay.of(catalog, calendar(), plan.names, end=end, **({} if daily else within))


class SteppedTrader:
    """One trader's life over the sessions that follow `start` in `replay`."""

    def __init__(
        self, plan: TradingPlan, config: Config, replay: MarketReplay, *, start: date, ledger: Path | None = None,
        faults: DirectFaults | None = None,
    ) -> None:  # fmt: skip
        self.plan, self.config = plan, config
        begin_ns = calendar().offset(start, 0).open_ns - HOUR_NS
        costs = config.costs.rules(price_tick=config.account.price_tick)
        self.exchange = Exchange(
            replay,
            ExchangeConfig(
                start_ns=begin_ns, seed=config.exchange.seed, cash=config.account.cash, costs=costs,
                multiplier=config.exchange.multiplier, connections=config.exchange.connections,
            ),
        )  # fmt: skip
        self.streams = DirectStreams(self.exchange, faults=faults)
        self.keys = next(iter(self.exchange.config.keys.items()))
        self.store = Store.open(
            ledger, run_id="stepped", now_ns=begin_ns, live_start_ns=live_start(begin_ns), ledger_id="0123456789ab"
        )
        self.live_start_ns = self.store.facts(now_ns=begin_ns).live_start_ns
        self.system: SteppedSystem | None = None

    def parts(self, **changes: Any) -> Trader:
        """The tree's parts; `changes` replace ports, as tests do."""
        key, secret = self.keys
        faults = self.streams.faults
        ports: dict[str, Any] = {
            "broker": DirectBroker(self.exchange, key=key, secret=secret, faults=faults),
            "data": DirectBroker(self.exchange, key=key, secret=secret, faults=faults),
            "streams": self.streams,
            "keys": self.keys,
            "store": lambda: self.store,
        }
        return trader_parts(
            self.plan, self.config, ledger_id=self.store.ledger_id, live_start_ns=self.live_start_ns, **ports | changes
        )

    def run(
        self, *, seed: int | None = None, faults: Faults = NO_FAULTS, log: Sink | None = None, until_ns: int | None = None,
        should_stop: Callable[[], bool] = lambda: False, changes: dict[str, Any] | None = None,
    ) -> int:  # fmt: skip
        """A trader's process from its start to the end of the market (or `until_ns`, or `should_stop`): its exit code.

        Run again on the same object for the next process on the same account.
        """
        self.store.load()
        system = self.system = SteppedSystem(self.exchange.now_ns, seed=seed, faults=faults, log=log)
        system.start(tree(self.parts(**changes or {}), system))
        run_paced(
            system, DirectMarket(self.exchange, self.streams), system.clock, until_ns=until_ns, should_stop=should_stop
        )
        return system.stop(20.0)
