"""Configuration: what may be set, where a value came from, and one clear line when it cannot be.

Layers, later ones win: config/base.toml, config/<environment>.toml, --config files, ALGO_ROYALE__SECTION__KEY variables, flags.
This module is given texts and mappings; reading files and the environment is the command line's business.
"""

import difflib
import math
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, model_validator

from algo_royale.errors import BadConfiguration

if TYPE_CHECKING:
    from algo_royale.broker.staleness import Patience
    from algo_royale.costs import CostRules
    from algo_royale.holds import HoldRules
    from algo_royale.market import Timeframe
    from algo_royale.portfolio.sizing import AccountRules, OrderPolicy
    from algo_royale.portfolio.weights import WeightConfig
    from algo_royale.research.optimise import Search as SearchRules
    from algo_royale.research.viability import ViabilityConfig
    from algo_royale.research.windows import WindowConfig
    from algo_royale.risk import RiskLimits

ENVIRONMENTS = ("dev_integration", "prod_paper", "prod_live")
VARIABLE_PREFIX = "ALGO_ROYALE__"
KEY_ID_VARIABLES = ("APCA_API_KEY_ID", "ALPACA_API_KEY", "ALPACA_API_KEY_ID")
SECRET_KEY_VARIABLES = ("APCA_API_SECRET_KEY", "ALPACA_SECRET_KEY", "ALPACA_API_SECRET_KEY")


def _decimal(value: object) -> object:
    """Money and rates: an integer, a decimal fraction or its text; never a yes/no, never infinite."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise ValueError("must be a number")
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        raise ValueError(f"must be a number, not {value!r}") from None
    if not number.is_finite():
        raise ValueError("must be finite")
    return number


def _several(value: object) -> object:
    """One name, or several by comma, as a list."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _off(value: object) -> object:
    return None if value == "off" else value


def _speed(value: object) -> object:
    if value == "max" or (isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf):
        return value if value == "max" else float(value)
    raise ValueError("must be 'max' or a number above 0, virtual seconds per second")


def _symbol(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(r"[A-Z][A-Z0-9.\-]{0,15}", value):
        return value
    raise ValueError("must be a ticker in capitals, such as AAPL or BRK.B")


Count = Annotated[int, Field(strict=True, ge=0)]
Positive = Annotated[int, Field(strict=True, ge=1)]
Flag = Annotated[bool, Field(strict=True)]
PositiveSeconds = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Fraction = Annotated[float, Field(strict=True, ge=0, le=1)]
Money = Annotated[Decimal, BeforeValidator(_decimal), Field(ge=0)]
Limit = Annotated[Money | None, BeforeValidator(_off)]
CountLimit = Annotated[Positive | None, BeforeValidator(_off)]
Symbol = Annotated[str, BeforeValidator(_symbol)]
Speed = Annotated[float | Literal["max"], BeforeValidator(_speed)]
TimeframeName = Literal["1Min", "5Min", "15Min", "1Hour", "1Day"]
Objective = Literal["total_return", "sharpe_ratio", "sortino_ratio", "calmar_ratio"]
Chosen = Literal[
    "total_return", "sharpe_ratio", "sortino_ratio", "calmar_ratio", "cagr", "max_drawdown", "win_rate", "num_trades",
    "exposure",
]  # fmt: skip


class Section(BaseModel):
    """Frozen; an unknown key is an error, and so is a missing one: config/base.toml owns the defaults, this file the rules."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Constraint(Section):
    """[research.search.constraints] <metric>: what a metric of the train range must reach for a trial to be chosen."""

    op: Literal[">", ">=", "<", "<="]
    threshold: Number


class Search(Section):
    """[research.search]: how parameters are searched."""

    sampler: Literal["tpe", "qmc", "random", "grid"]
    folds: Annotated[int, Field(strict=True, ge=1, le=20)]
    fold_score: Literal["mean", "min"]
    pruner: Literal["none", "median", "hyperband"]
    storage: Literal["memory", "journal", "sqlite"]
    constraints: dict[Chosen, Constraint]

    @model_validator(mode="after")
    def _possible(self) -> "Search":
        if self.pruner != "none" and self.folds < 2:
            raise ValueError(f"the {self.pruner} pruner compares parts of the train range: folds must be 2 or more")
        return self


class Research(Section):
    """[research]: what run-backtest tries. Empty lists mean everything there is."""

    symbols: tuple[Symbol, ...]
    strategies: tuple[str, ...]
    strategy_path: tuple[str, ...] = ()
    unproven: bool = False
    portfolios: tuple[str, ...]
    data: str
    timeframe: TimeframeName
    start: date | None = None
    end: date | None = None
    mode: Literal["rolling", "anchored"]
    unit: Literal["bars", "sessions", "months", "years"]
    train: Positive
    test: Positive
    step: Positive | None = None
    embargo: Count
    holdout: Count
    windows: Positive | None = None
    trials: Positive
    portfolio_trials: Positive
    min_trades: Count
    rf: Annotated[float, Field(strict=True, ge=0, lt=1, allow_inf_nan=False)]
    objective: Annotated[tuple[Objective, ...], BeforeValidator(_several), Field(min_length=1)]
    seed: Count
    engine: Literal["processes", "ray"]
    cluster: str = ""
    workers: Count
    search: Search

    @model_validator(mode="after")
    def _possible(self) -> "Research":
        if len(set(self.objective)) < len(self.objective):
            raise ValueError(f"objective names one twice: {', '.join(self.objective)}")
        if len(self.objective) > 1 and self.search.pruner != "none":
            raise ValueError(f"the {self.search.pruner} pruner can compare trials by one objective, not by several")
        if self.start and self.end and self.start >= self.end:
            raise ValueError(f"start {self.start} is not before end {self.end}")
        if self.step is not None and self.step < self.test:
            raise ValueError(f"step {self.step} is shorter than test {self.test}: out-of-sample ranges would overlap")
        return self

    def search_rules(self) -> "SearchRules":
        from algo_royale.research.optimise import Search as SearchRules
        from algo_royale.research.viability import Check as Rule

        found = self.search
        rules = tuple(Rule(name=n, op=c.op, threshold=c.threshold) for n, c in sorted(found.constraints.items()))
        return SearchRules(
            sampler=found.sampler, folds=found.folds, fold_score=found.fold_score, pruner=found.pruner,
            storage=found.storage, constraints=rules,
        )  # fmt: skip

    def window_config(self) -> "WindowConfig":
        from algo_royale.research.windows import WindowConfig

        return WindowConfig(
            mode=self.mode, unit=self.unit, train=self.train, test=self.test, step=self.step,
            embargo=self.embargo, holdout=self.holdout, count=self.windows,
        )  # fmt: skip


class Check(Section):
    """[viability.checks.<metric>]: what an out-of-sample metric must reach, and what passing is worth."""

    op: Literal[">", ">=", "<", "<="]
    threshold: Number
    weight: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] = 1.0


class Viability(Section):
    """[viability]: when a strategy may be traded. A `note` is shown wherever the verdict is."""

    threshold: Fraction
    hard_checks: tuple[str, ...]
    checks: dict[str, Check]
    note: str = ""

    @model_validator(mode="after")
    def _known_checks(self) -> "Viability":
        if unknown := [name for name in self.hard_checks if name not in self.checks]:
            raise ValueError(
                f"hard_checks names {unknown[0]!r}, which is none of the checks: {', '.join(sorted(self.checks))}"
            )
        if not any(check.weight for check in self.checks.values()):
            raise ValueError("the weights of the checks sum to zero")
        return self

    def rules(self) -> "ViabilityConfig":
        from algo_royale.research.viability import Check as Rule
        from algo_royale.research.viability import ViabilityConfig

        checks = tuple(Rule(name=n, op=c.op, threshold=c.threshold, weight=c.weight) for n, c in self.checks.items())
        return ViabilityConfig(checks=checks, threshold=self.threshold, hard_checks=self.hard_checks)


class Costs(Section):
    """[costs]: what executions cost, in research and at the exchange twin alike."""

    slippage_bps: Money
    commission_bps: Money
    commission_per_share: Money
    commission_min: Money
    sec_fee_per_million: Money
    taf_per_share: Money
    taf_cap: Money

    def rules(self, *, price_tick: Decimal | None = None) -> "CostRules":
        from algo_royale.costs import CostRules

        return CostRules(price_tick=price_tick, **self.model_dump())


class Account(Section):
    """[account]: starting cash, how weights become orders. Fractions are of equity."""

    cash: Annotated[Money, Field(gt=0)]
    kind: Literal["cash", "margin"]
    settlement_days: Count
    rebalance: Literal["on_signal_change", "every_bar"]
    cash_buffer: Annotated[float, Field(strict=True, ge=0, lt=1)]
    max_weight: Annotated[float, Field(strict=True, gt=0, le=1)]
    covariance: Literal["ledoit_wolf", "sample"]
    min_notional: Money
    drift_band: Money
    research_lot: Annotated[Money, Field(gt=0)]
    trader_lot: Annotated[Money, Field(gt=0)]
    price_tick: Annotated[Money, Field(gt=0)]

    def weights(self, *, bars_per_year: int = 252) -> "WeightConfig":
        from algo_royale.portfolio.weights import WeightConfig

        return WeightConfig(
            cash_buffer=self.cash_buffer,
            max_weight=self.max_weight,
            covariance=self.covariance,
            bars_per_year=bars_per_year,
        )


class Orders(Section):
    """[orders]: how orders are sent, and what a symbol is held back from for a while."""

    type: Literal["market", "marketable_limit", "opening_auction", "closing_auction"]
    collar_bps: Annotated[Money, Field(lt=10_000)]
    limit_rests: Flag
    flatten_at_close: Flag
    wait_for_sells: Flag
    one_way: Flag
    post_fill_delay_s: Annotated[int, Field(strict=True, ge=0, le=23_400)]
    settlement_hold: Literal["auto", "on", "off"]
    day_trades: Flag

    def policy(self, *, round_limits: bool) -> "OrderPolicy":
        from algo_royale.portfolio.sizing import OrderPolicy, OrderType

        return OrderPolicy(
            type=OrderType(self.type), collar_bps=self.collar_bps, flatten_at_close=self.flatten_at_close,
            round_limits=round_limits, limit_rests=self.limit_rests,
        )  # fmt: skip

    def holds(self, account: Account) -> "HoldRules":
        from algo_royale.holds import HoldRules

        settles = self.settlement_hold == "on" or (self.settlement_hold == "auto" and account.kind == "cash")
        return HoldRules(
            one_way=self.one_way, post_fill_delay_s=self.post_fill_delay_s, no_day_trades=not self.day_trades,
            settlement_days=account.settlement_days if settles else 0,
        )  # fmt: skip


class Risk(Section):
    """[risk]: limits of the trader; "off" lifts one. US dollars, or fractions of equity where the name says so."""

    order_quantity: Limit = None
    order_notional_usd: Limit = None
    position_notional_usd: Limit = None
    concentration_fraction: Limit = None
    gross_exposure_fraction: Limit = None
    net_exposure_fraction: Limit = None
    daily_loss_fraction: Limit = None
    drawdown_fraction: Limit = None
    orders_per_minute: CountLimit = None
    orders_per_day: CountLimit = None
    collar_fraction: Limit = None
    spread_fraction: Limit = None
    entry_after_open_s: CountLimit = None
    entry_before_close_s: CountLimit = None
    restricted: tuple[Symbol, ...]
    shortable: tuple[Symbol, ...]
    on_daily_loss: Literal["refuse", "reduce", "halt"]
    on_drawdown: Literal["refuse", "reduce", "halt"]
    on_halt: Literal["cancel", "keep"]

    def limits(self) -> "RiskLimits":
        from algo_royale.risk import OnBreach, RiskLimits

        return RiskLimits(
            **self.model_dump(exclude={"restricted", "shortable", "on_daily_loss", "on_drawdown", "on_halt"}),
            restricted=frozenset(self.restricted), shortable=frozenset(self.shortable),
            on_daily_loss=OnBreach(self.on_daily_loss), on_drawdown=OnBreach(self.on_drawdown),
        )  # fmt: skip


class Trader(Section):
    """[trader]: how run-trader runs. `speed` only matters at the exchange twin."""

    symbols: tuple[Symbol, ...]
    speed: Speed
    start: date | None = None
    until: date | None = None
    watermark_s: PositiveSeconds
    close_grace_s: Seconds
    feed_silent_s: Annotated[PositiveSeconds | None, BeforeValidator(_off)]
    symbol_silent_s: Annotated[PositiveSeconds | None, BeforeValidator(_off)]
    reconcile_every_s: Positive
    second_look_s: Seconds
    pre_market_s: Count
    after_close_s: PositiveSeconds
    research_age_days_max: Annotated[Positive | None, BeforeValidator(_off)]
    stop_deadline_s: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
    on_stop: Literal["keep", "cancel"]

    @model_validator(mode="after")
    def _possible(self) -> "Trader":
        if self.start and self.until and self.start > self.until:
            raise ValueError(f"start {self.start} is after until {self.until}")
        return self


class Broker(Section):
    """[broker]: where Alpaca is. Empty addresses: the twin, which the trader starts itself."""

    trading_url: str = ""
    data_url: str = ""
    trading_stream_url: str = ""
    data_stream_url: str = ""
    feed: Literal["iex", "sip"]
    keys_file: str = ""
    requests_per_minute: Annotated[Positive | None, BeforeValidator(_off)]
    connect_timeout_s: Annotated[float, Field(strict=True, gt=0, le=5)]  # a submit is three requests at the most, and
    read_timeout_s: Annotated[float, Field(strict=True, gt=0, le=15)]  # the broker's actor has a minute for it
    real_money: Flag

    @property
    def is_twin(self) -> bool:
        return not self.trading_url

    @property
    def timeouts_s(self) -> tuple[float, float]:
        """Of a request, as `requests` has them: to connect, and to wait for the answer."""
        return self.connect_timeout_s, self.read_timeout_s

    @model_validator(mode="after")
    def _possible(self) -> "Broker":
        urls = ("trading_url", "data_url", "trading_stream_url", "data_stream_url")
        given = [name for name in urls if getattr(self, name)]
        if given and len(given) < len(urls):
            missing = next(name for name in urls if name not in given)
            raise ValueError(f"{given[0]} is set but {missing} is not: all four addresses, or none for the twin")
        for name in given:
            scheme = "wss://" if "stream" in name else "https://"
            plain = scheme.replace("s:", ":") + LOOPBACK
            url = getattr(self, name)
            if "@" in url:
                raise ValueError(f"{name} must have no user or password in it: keys have a place of their own")
            if not url.startswith(scheme) and not (url.startswith(plain) and host_of(url) == LOOPBACK):
                raise ValueError(f"{name} must start with {scheme} (or {plain}: keys travel over it)")
            if name in ("trading_url", "data_url") and self._has_path(getattr(self, name)):
                raise ValueError(f"{name} must be scheme and host alone, without a path or trailing slash")
        if self.real_money and not given:
            raise ValueError("real_money needs the broker's addresses")
        if given and kind_of(self.trading_url) != kind_of(self.trading_stream_url):
            raise ValueError(
                f"trading_url is {kind_of(self.trading_url)} and trading_stream_url {kind_of(self.trading_stream_url)}: "
                "orders and what becomes of them must be in one place"
            )
        return self

    @staticmethod
    def _has_path(url: str) -> bool:
        return "/" in url.split("://", 1)[1]


LOOPBACK = "127.0.0.1"
KINDS = {"dev_integration": "the twin", "prod_paper": "play money", "prod_live": "real money"}


def host_of(url: str) -> str:
    """The host of an address, without port and path."""
    return re.split(r"[/:?#]", url.partition("://")[2], maxsplit=1)[0].lower()


def is_twins(url: str) -> bool:
    """Whether an address is this machine's, or not given."""
    return host_of(url) in (LOOPBACK, "localhost", "")


def kind_of(trading_url: str) -> str:
    """What is traded at an address of Alpaca's, told by its name: the twin, play money or real money."""
    if is_twins(trading_url):
        return "the twin"
    return "play money" if "paper" in host_of(trading_url) else "real money"


class Exchange(Section):
    """[exchange]: the Alpaca twin."""

    host: Literal["127.0.0.1", "localhost", "::1"]
    port: Annotated[int, Field(strict=True, ge=0, le=65535)]
    seed: Count
    multiplier: Literal[1, 2, 4]
    connections: Positive


class Log(Section):
    """[log]: the process's own log on stderr and in a file; messages have a log of their own."""

    level: Literal["debug", "info", "warning", "error"]
    file_mb: Positive
    files: Positive


class Notify(Section):
    """[notify]: who is told what. Addresses are apprise's; they are secrets like keys, and may stand in a file of their own."""

    urls: Annotated[tuple[SecretStr, ...], BeforeValidator(_several)]
    urls_file: str
    events: tuple[Literal["start", "stop", "state", "rejected", "fill", "disconnect", "job", "summary", "restart"], ...]
    disconnect_s: PositiveSeconds
    heartbeat_url: SecretStr
    heartbeat_minutes: Annotated[float, Field(strict=True, gt=0, le=1440, allow_inf_nan=False)]


class Database(Section):
    """[database]: where the ledger is kept. An empty url: a SQLite file in the environment's folder."""

    url: SecretStr = SecretStr("")  # it may hold a password, and shows itself to nobody


class Config(Section):
    """Everything that can be set. `environment` is chosen by --env, not by a file."""

    environment: Literal["dev_integration", "prod_paper", "prod_live"]
    research: Research
    viability: Viability
    costs: Costs
    account: Account
    orders: Orders
    risk: Risk
    trader: Trader
    broker: Broker
    exchange: Exchange
    log: Log
    notify: Notify
    database: Database = Database()

    def patience(self, timeframe: "Timeframe") -> "Patience":
        """How long an open exchange may be silent. A twin that replays sessions says nothing between the open and the close."""
        from algo_royale.broker.staleness import Patience
        from algo_royale.market import Timeframe

        if self.environment == "dev_integration" and timeframe is Timeframe.DAY_1:
            return Patience()
        return Patience(self.trader.feed_silent_s, self.trader.symbol_silent_s)

    @model_validator(mode="after")
    def _possible(self) -> "Config":
        self._check_orders()
        if self.environment != "dev_integration" and self.broker.is_twin:
            raise ValueError(f"{self.environment} needs the broker's addresses ([broker] trading_url and the others)")
        if self.environment == "dev_integration" and self.database.url.get_secret_value():
            raise ValueError(
                "database.url is for prod_paper and prod_live; in dev_integration each start has an account of its own, "
                "and so a ledger file of its own"
            )
        if self.environment != "prod_live" and self.broker.real_money:
            raise ValueError(f"{self.environment} must not have broker.real_money = true")
        if self.environment == "prod_live" and not self.broker.real_money:
            raise ValueError("prod_live must say broker.real_money = true")
        wanted, found = KINDS[self.environment], kind_of(self.broker.trading_url)
        if wanted != found:
            raise ValueError(
                f"{self.environment} trades with {wanted}, but broker.trading_url is the address of {found}"
            )
        for name in ("data_url", "data_stream_url"):
            if is_twins(getattr(self.broker, name)) != (wanted == "the twin"):
                raise ValueError(
                    f"{self.environment} trades with {wanted}, but broker.{name} is "
                    f"{'not ' if wanted == 'the twin' else ''}the address of the twin"
                )
        return self

    def _check_orders(self) -> None:
        """What the broker would refuse, or the length of the bars makes impossible."""
        is_daily, wished = self.research.timeframe == "1Day", self.orders.type
        if "auction" in wished and not is_daily:
            raise ValueError(
                f"orders.type {wished} needs research.timeframe 1Day: within a session the next bar decides anew"
            )
        if self.orders.flatten_at_close and is_daily:
            raise ValueError("orders.flatten_at_close needs bars within a session: a daily bar ends with it")
        if self.orders.wait_for_sells and "auction" in wished:
            raise ValueError(
                f"orders.wait_for_sells cannot be with orders.type {wished}: after its sales, an auction is over"
            )
        whole = "auction" in wished or (wished == "marketable_limit" and not is_daily)
        if whole and self.account.trader_lot % 1:
            raise ValueError(
                f"orders.type {wished} takes whole shares only: account.trader_lot is {self.account.trader_lot}"
            )

    def research_rules(self) -> "AccountRules":
        """Fractional quantities at unrounded, adjusted prices; cash is never negative."""
        return self._rules(self.account.research_lot, "scale", None)

    def trader_rules(self) -> "AccountRules":
        """Tradable lots at raw prices on the broker's tick; a whole order fills, on margin if it must."""
        return self._rules(self.account.trader_lot, "borrow", self.account.price_tick)

    def _rules(self, lot: Decimal, shortfall: str, price_tick: Decimal | None) -> "AccountRules":
        from algo_royale.portfolio.sizing import AccountRules

        account = self.account
        return AccountRules(
            lot=lot, min_notional=account.min_notional, drift_band=account.drift_band, account=account.kind,
            settlement_days=account.settlement_days, shortfall=shortfall, costs=self.costs.rules(price_tick=price_tick),
            holds=self.orders.holds(account), policy=self.orders.policy(round_limits=price_tick is not None),
        )  # fmt: skip


class BrokerKeys(BaseModel):
    """The broker's keys. They show themselves to nobody: not in repr, logs, messages or dumps."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key_id: SecretStr
    secret_key: SecretStr

    def pair(self) -> tuple[str, str]:
        """Key id and secret in clear, for the client that signs in."""
        return self.key_id.get_secret_value(), self.secret_key.get_secret_value()


# --- layers ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Layer:
    """Values from one place, as nested mappings; `name` is what an error calls it."""

    name: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration and where each of its set values came from (`research.trials` -> `base.toml`)."""

    config: Config
    origins: Mapping[str, str]


def toml_layer(name: str, text: str) -> Layer:
    """Raises BadConfiguration naming the file and line of a syntax error."""
    try:
        return Layer(name, tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise BadConfiguration(f"{name}: not TOML: {error}") from error


def environment_layers(environ: Mapping[str, str]) -> list[Layer]:
    """One layer per ALGO_ROYALE__SECTION__KEY variable. Values are TOML (`40`, `true`, `["AAPL"]`) or else plain text."""
    layers = []
    for name in sorted(environ):
        if not name.startswith(VARIABLE_PREFIX):
            continue
        values: Any = _value_of(environ[name])
        for part in reversed(name[len(VARIABLE_PREFIX) :].lower().split("__")):
            values = {part: values}
        layers.append(Layer(name, values))
    return layers


def load(environment: str, layers: Iterable[Layer]) -> Loaded:
    """Merge the layers, later ones win, and check the result.

    Raises BadConfiguration: one line that names the file or variable, the key, what is allowed, and the nearest known key.
    """
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        if "environment" in layer.values:
            raise BadConfiguration(f"{layer.name}: environment is chosen by --env, not by configuration")
        _merge(merged, layer.values, layer.name, (), origins)
    try:
        config = Config.model_validate({**merged, "environment": environment})
    except ValidationError as error:
        raise BadConfiguration("; ".join(_explain(error, origins))) from None
    return Loaded(config, origins)


def broker_keys(environ: Mapping[str, str], file_text: str | None = None) -> BrokerKeys | None:
    """Keys from the environment (APCA_API_KEY_ID and APCA_API_SECRET_KEY, or ALPACA_*), else from `NAME=value` lines.

    None when neither has them. Raises BadConfiguration when only one half is there; the values appear nowhere.
    """
    lines = [
        line.partition("=")
        for line in (file_text or "").splitlines()
        if "=" in line and not line.lstrip().startswith("#")
    ]
    from_file = {name.strip().removeprefix("export ").strip(): value.strip().strip("\"'") for name, _, value in lines}
    for place, values in (("the environment", environ), ("the keys file", from_file)):
        key_id = next((values[name] for name in KEY_ID_VARIABLES if values.get(name)), None)
        secret = next((values[name] for name in SECRET_KEY_VARIABLES if values.get(name)), None)
        if key_id and secret:
            return BrokerKeys(key_id=SecretStr(key_id), secret_key=SecretStr(secret))
        if key_id or secret:
            missing = SECRET_KEY_VARIABLES[0] if key_id else KEY_ID_VARIABLES[0]
            raise BadConfiguration(f"{place} has one half of the broker's keys; {missing} is missing")
    return None


def _value_of(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _merge(
    target: dict[str, Any], values: Mapping[str, Any], name: str, path: tuple[str, ...], origins: dict[str, str]
) -> None:
    for key, value in values.items():
        here = (*path, key)
        if isinstance(value, Mapping):
            inner = target.setdefault(key, {})
            if not isinstance(inner, dict):
                inner = target[key] = {}
            origins.setdefault(".".join(here), name)
            _merge(inner, value, name, here, origins)
        else:
            target[key] = value
            path_of = ".".join(here)
            for replaced in [k for k in origins if k == path_of or k.startswith(f"{path_of}.")]:
                del origins[replaced]  # the newest comes last, and what stood below it is gone
            origins[path_of] = name


def _explain(error: ValidationError, origins: Mapping[str, str]) -> list[str]:
    """One sentence per key that is wrong."""
    sentences: dict[str, str] = {}
    for item in error.errors(include_url=False):
        path = [str(part) for part in item["loc"]]
        while path and ".".join(path) not in origins and len(path) > 1 and item["type"] != "missing":
            path.pop()  # union branches and list positions are pydantic's, not the file's
        key = ".".join(path)
        inside = [origins[k] for k in origins if key == "" or k.startswith(f"{key}.")]
        origin = inside[-1] if inside else origins.get(key, "configuration")
        if item["type"] == "extra_forbidden":
            sentences[key] = f"{origin}: unknown key {key}{_nearest(path)}"
        elif item["type"] == "missing":
            sentences[key] = f"configuration: {key} is missing"
        elif item["type"] == "model_type":
            sentences[key] = f"{origin}: {key} is a section and holds {', '.join(keys(path))}; it is no value"
        else:
            said = item["msg"].removeprefix("Value error, ").removeprefix("Input ")
            hidden = isinstance(item["input"], Mapping | BaseModel) or path[:1] == [
                "database"
            ]  # it may hold a password
            given = "" if hidden else f" (it is {item['input']!r})"
            where = f"{origin}: {key}: " if key else f"{origin}: "
            sentences.setdefault(key, f"{where}{said}{given}")
    return list(sentences.values())


def _nearest(path: Sequence[str]) -> str:
    """The nearest known key, or all of them."""
    known = sorted(keys(path[:-1]))
    close = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(known)}" if known else ""


def keys(path: Sequence[str]) -> list[str]:
    """Names that may stand under `path` (empty: the sections)."""
    model: Any = Config
    for part in path:
        if part not in model.model_fields:
            return list(Check.model_fields) if model is Viability else []
        annotation = model.model_fields[part].annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
        elif get_args(annotation)[1:] == (Check,):
            return list(Check.model_fields) if path[-1] != part else []
        else:
            return []
    return [name for name in model.model_fields if not (model is Config and name == "environment")]


def plain(value: Any) -> Any:
    """A configuration value as JSON has it: money as text, dates ISO, a lifted limit "off", nothing non-finite."""
    if isinstance(value, BaseModel):
        lifted = {n for n, field in type(value).model_fields.items() if BeforeValidator(_off) in field.metadata}
        shown = ((name, getattr(value, name)) for name in type(value).model_fields)
        return {name: "off" if x is None and name in lifted else plain(x) for name, x in shown}
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, tuple | list):
        return [plain(inner) for inner in value]
    if isinstance(value, Decimal | date | SecretStr):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
