"""Configuration: later layers win, every mistake is one line that says where and what is allowed, keys stay secret."""

import ast
from datetime import date
from decimal import Decimal

import pytest

from algo_royale.config import (
    ENVIRONMENTS,
    Config,
    broker_keys,
    environment_layers,
    keys,
    load,
    plain,
    toml_layer,
)
from algo_royale.errors import BadConfiguration
from algo_royale.research.viability import ViabilityConfig
from conftest import ROOT

FILES = {
    name: toml_layer(f"{name}.toml", (ROOT / "config" / f"{name}.toml").read_text()) for name in ("base", *ENVIRONMENTS)
}


def configured(environment: str = "dev_integration", text: str = "", environ: dict[str, str] | None = None) -> Config:
    layers = [FILES["base"], FILES[environment], toml_layer("mine.toml", text), *environment_layers(environ or {})]
    return load(environment, layers).config


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_shipped_environment_is_valid(environment: str) -> None:
    assert configured(environment).environment == environment


def test_defaults_have_one_owner() -> None:
    """config/base.toml spells them out; without it every key is missing, and only what may be absent has a default."""
    with pytest.raises(BadConfiguration, match=r"research\.trials is missing"):
        load("dev_integration", [toml_layer("t", "[research]\nseed = 1")])


def test_later_layers_win() -> None:
    variable = {"ALGO_ROYALE__RESEARCH__TRIALS": "7", "ALGO_ROYALE__RISK__RESTRICTED": '["IBM"]'}

    assert configured().research.trials == 40
    assert configured(text="[research]\ntrials = 9").research.trials == 9
    assert configured(text="[research]\ntrials = 9", environ=variable).research.trials == 7
    assert configured(environ=variable).risk.restricted == ("IBM",)


def test_a_value_remembers_where_it_came_from() -> None:
    layers = [FILES["base"], FILES["dev_integration"], *environment_layers({"ALGO_ROYALE__LOG__LEVEL": "debug"})]
    origins = load("dev_integration", layers).origins

    assert origins["log.level"] == "ALGO_ROYALE__LOG__LEVEL"
    assert origins["viability.checks.num_trades.threshold"] == "dev_integration.toml"
    assert origins["viability.checks.num_trades.op"] == "base.toml"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[research]\ntrails = 3", "mine.toml: unknown key research.trails; did you mean trials?"),
        ("[reserach]\ntrials = 3", "mine.toml: unknown key reserach; did you mean research?"),
        ("[log]\nqqq = 3", "mine.toml: unknown key log.qqq; known: file_mb, files, level"),
        ("[research]\ntrials = true", "mine.toml: research.trials: should be a valid integer (it is True)"),
        ("[research]\ntrials = '3'", "mine.toml: research.trials: should be a valid integer (it is '3')"),
        ("[research]\ntrials = 0", "mine.toml: research.trials: should be greater than or equal to 1 (it is 0)"),
        ("[log]\nlevel = 'loud'", "mine.toml: log.level: should be 'debug', 'info', 'warning' or 'error' (it is 'loud')"),
        ("[trader]\nspeed = 'fast'", "mine.toml: trader.speed: must be 'max' or a number above 0"),
        ("[research]\nsymbols = ['aapl']", "mine.toml: research.symbols: must be a ticker in capitals"),
        ("[costs]\nslippage_bps = nan", "mine.toml: costs.slippage_bps: must be finite"),
        ("[account]\ncash = true", "mine.toml: account.cash: must be a number"),
        ("[viability.checks.sharpe_ratio]\nthresold = 1", "unknown key viability.checks.sharpe_ratio.thresold; did you mean threshold?"),
        ("[viability]\nhard_checks = ['luck']", "mine.toml: viability: hard_checks names 'luck'"),
        ("[research]\nstart = 2012-01-01\nend = 2011-01-01", "mine.toml: research: start 2012-01-01 is not before end"),
        ("[research]\nstep = 1\ntest = 2", "mine.toml: research: step 1 is shorter than test 2"),
        ("[broker]\ntrading_url = 'https://a'", "mine.toml: broker: trading_url is set but data_url is not"),
        ("[broker]\nreal_money = true", "mine.toml: broker: real_money needs the broker's addresses"),
        ("environment = 'prod_live'", "mine.toml: environment is chosen by --env"),
        ("[research", "mine.toml: not TOML"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_that_says_where_and_what(text: str, says: str) -> None:
    with pytest.raises(BadConfiguration) as caught:
        configured(text=text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_several_mistakes_are_all_named() -> None:
    with pytest.raises(BadConfiguration, match=r"research\.trials.*; .*log\.files"):
        configured(text="[research]\ntrials = 0\n[log]\nfiles = 0")


def test_a_bad_variable_is_named_as_it_is_written() -> None:
    with pytest.raises(BadConfiguration, match="ALGO_ROYALE__RESEARCH__TRAILS: unknown key"):
        configured(environ={"ALGO_ROYALE__RESEARCH__TRAILS": "3"})


ADDRESSES = """[broker]
trading_url = "{0}://{1}"
data_url = "{0}://{1}"
trading_stream_url = "{2}://{1}/stream"
data_stream_url = "{2}://{1}/v2/iex"
"""


@pytest.mark.parametrize(
    ("environment", "text", "says"),
    [
        ("prod_paper", "[broker]\nreal_money = true", "prod_paper must not have broker.real_money"),
        ("prod_live", "[broker]\nreal_money = false", "prod_live must say broker.real_money = true"),
        ("prod_paper", "[broker]\ntrading_url = ''\ndata_url = ''\ntrading_stream_url = ''\ndata_stream_url = ''", "needs the broker's"),
        ("prod_paper", "[broker]\ndata_url = 'http://data.example'", "data_url must start with https://"),
        ("prod_paper", "[broker]\ndata_url = 'http://127.0.0.1.example.com'", "data_url must start with https://"),
        ("prod_paper", "[broker]\ndata_url = 'https://me:secret@data.example'", "data_url must have no user or password"),
        ("prod_live", ADDRESSES.format("https", "127.0.0.1", "wss"), "prod_live trades with real money, but .* of the twin"),
        ("prod_live", ADDRESSES.format("https", "paper-api.example", "wss"), "but broker.trading_url is the address of play money"),
        ("prod_paper", ADDRESSES.format("https", "api.example", "wss"), "prod_paper trades with play money, but .* of real money"),
        ("prod_paper", ADDRESSES.format("http", "127.0.0.1:4711", "ws"), "prod_paper trades with play money, but .* of the twin"),
        ("dev_integration", ADDRESSES.format("https", "api.example", "wss"), "dev_integration trades with the twin, but .* of real money"),
        ("dev_integration", ADDRESSES.format("https", "paper-api.example", "wss"), "but .* of play money"),
        ("prod_live", "[broker]\ntrading_stream_url = 'wss://paper-api.example/stream'", "trading_stream_url play money: orders and"),
        ("prod_paper", "[broker]\ndata_url = 'https://data.example/v2'", "without a path"),
    ],
)  # fmt: skip
def test_money_and_addresses_cannot_be_mixed_up(environment: str, text: str, says: str) -> None:
    with pytest.raises(BadConfiguration, match=says):
        configured(environment, text)


def test_only_production_knows_alpacas_addresses() -> None:
    assert configured().broker.is_twin
    for name in ("base", "dev_integration"):
        assert "alpaca.markets" not in (ROOT / "config" / f"{name}.toml").read_text()


def test_sections_become_the_cores_own_types() -> None:
    config = configured(text="[costs]\nslippage_bps = 7.5\n[risk]\norders_per_minute = 'off'")

    assert config.costs.rules().slippage_bps == Decimal("7.5")
    assert config.trader_rules().costs.price_tick == Decimal("0.0001")
    assert (config.trader_rules().lot, config.trader_rules().shortfall) == (Decimal(1), "borrow")
    assert (config.research_rules().lot, config.research_rules().shortfall) == (Decimal("0.000001"), "scale")
    assert config.risk.limits().orders_per_minute is None
    assert config.risk.limits().order_notional_usd == Decimal(50_000)
    assert config.research.window_config().embargo == 5
    assert {c.name: c.threshold for c in config.viability.rules().checks}["num_trades"] == 5
    assert config.account.weights().max_weight == 0.35


def test_milder_thresholds_say_so_and_production_has_the_strict_ones() -> None:
    """The strict thresholds are the catalogue's six, which make the score, and the passport's, which weigh nothing and must
    pass; the core's own defaults are the same."""
    strict = configured("prod_paper").viability

    assert configured().viability.note
    assert strict.note == ""
    assert strict.rules() == ViabilityConfig()
    assert {name: (c.op, c.threshold) for name, c in strict.checks.items() if c.weight} == {
        "total_return": (">", 0.0), "sharpe_ratio": (">=", 0.5), "win_rate": (">=", 0.45), "max_drawdown": ("<=", 0.35),
        "deflated_sharpe": (">=", 0.5), "num_trades": (">=", 20.0),
    }  # fmt: skip
    assert {name for name, c in strict.checks.items() if not c.weight} == set(strict.hard_checks) - {"num_trades"}


def test_a_configuration_is_plain_json() -> None:
    shown = plain(configured(text="[research]\nstart = 2010-01-04"))

    assert shown["research"]["start"] == date(2010, 1, 4).isoformat()
    assert shown["account"]["cash"] == "100000"
    assert shown["viability"]["checks"]["num_trades"]["threshold"] == 5


def test_keys_that_may_stand_under_a_path() -> None:
    assert "trials" in keys(["research"])
    assert "environment" not in keys([])
    assert keys(["viability", "checks", "sharpe_ratio"]) == ["op", "threshold", "weight"]


# --- the broker's keys -------------------------------------------------------------------------------------------------

PAIR = ("PKTEST0123456789", "s3cr3t-abcdefghij")


@pytest.mark.parametrize(
    ("environ", "text"),
    [
        ({"APCA_API_KEY_ID": PAIR[0], "APCA_API_SECRET_KEY": PAIR[1]}, None),
        (
            {"ALPACA_API_KEY": PAIR[0], "ALPACA_SECRET_KEY": PAIR[1]},
            "APCA_API_KEY_ID=other\nAPCA_API_SECRET_KEY=other\n",
        ),
        ({}, f"# mine\nexport APCA_API_KEY_ID={PAIR[0]}\nAPCA_API_SECRET_KEY = '{PAIR[1]}'\n"),
    ],
)
def test_keys_come_from_the_environment_or_a_file_and_show_themselves_to_nobody(
    environ: dict[str, str], text: str | None
) -> None:
    found = broker_keys(environ, text)

    assert found is not None
    assert found.pair() == PAIR
    for shown in (repr(found), str(found), found.model_dump_json(), repr(found.model_dump()), f"{found}"):
        assert PAIR[0] not in shown
        assert PAIR[1] not in shown


def test_half_a_pair_of_keys_is_refused_without_showing_it() -> None:
    with pytest.raises(BadConfiguration, match="APCA_API_SECRET_KEY is missing") as caught:
        broker_keys({"APCA_API_KEY_ID": PAIR[0]})
    assert PAIR[0] not in str(caught.value)
    assert broker_keys({}) is None


def test_every_key_is_read_by_somebody() -> None:
    """A key that nothing reads is a promise that nobody keeps. [costs] and [risk] are handed on whole."""
    trees = [
        ast.parse(path.read_text())
        for folder in ("algo_royale", "actors", "db")
        for path in (ROOT / folder).rglob("*.py")
    ]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    read = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}
    sections = {
        name: field.annotation
        for name, field in Config.model_fields.items()
        if name not in ("costs", "risk", "environment")
    }
    idle = [f"{name}.{key}" for name, section in sections.items() for key in section.model_fields if key not in read]  # type: ignore[union-attr]

    assert idle == []
