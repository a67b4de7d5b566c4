"""Development, paper and live are one program: what differs is configuration, and money is asked for by name."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import algo_royale.app.trader
from actors.kernel import ChildSpec, Supervisor
from actors.trading import factories, tree
from algo_royale.app.cli import ENVIRONMENTS, Settings, root
from algo_royale.app.trader import trader_parts
from live_traders import write_artifacts
from traders import plan


class Nowhere:
    """Addresses without a system."""

    def ref(self, path: str) -> str:
        return path


def shape(spec: ChildSpec) -> Any:
    """A tree as nested names with what makes each actor and how it is restarted."""
    made = spec.factory
    if isinstance(made, partial):
        what: Any = made.func
    else:
        supervisor = made()
        assert isinstance(supervisor, Supervisor)
        what = [shape(child) for child in supervisor._specs]
    return spec.id, spec.restart, spec.mailbox, spec.on_poison, what


def test_the_trees_of_the_three_environments_are_the_same() -> None:
    """Same actors, same order, same supervision; only values that configuration gives may differ."""
    shapes, arguments = [], []
    for env in ENVIRONMENTS:
        config = Settings(env=env).config
        parts = trader_parts(
            plan(), config, ledger_id="0123456789ab", live_start_ns=0, broker=None, data=None, streams=None,
            keys=("", ""), store=None,
        )  # fmt: skip
        shapes.append(shape(tree(parts, Nowhere())))  # type: ignore[arg-type]
        made = factories(parts, Nowhere())  # type: ignore[arg-type]
        arguments.append(
            {path: (make.func, sorted(make.keywords)) for path, make in made.items() if isinstance(make, partial)}
        )
    assert shapes[0] == shapes[1] == shapes[2]
    assert arguments[0] == arguments[1] == arguments[2]
    assert len(arguments[0]) > 8


NUMBER = "123456789"


class FakeAlpaca:
    """Answers for one account."""

    status = "ACTIVE"
    trading_blocked = False

    def __init__(self, **_: object) -> None: ...

    def account(self) -> Mapping[str, object]:
        return {
            "account_number": NUMBER, "status": self.status, "equity": "25000.5", "cash": "1000", "buying_power": "50000",
            "trading_blocked": self.trading_blocked,
        }  # fmt: skip

    def close(self) -> None: ...


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What would have begun to trade; and keys, and research that is not too old."""
    runs: list[dict[str, Any]] = []

    def run_trader(*_: object, **options: Any) -> dict[str, Any]:
        runs.append(options)
        raise SystemExit(0)

    monkeypatch.setattr(algo_royale.app.trader, "AlpacaRest", FakeAlpaca)
    monkeypatch.setattr(algo_royale.app.trader, "run_trader", run_trader)
    monkeypatch.setenv("APCA_API_KEY_ID", "AKTEST")
    monkeypatch.setenv("APCA_API_SECRET_KEY", "very secret")
    monkeypatch.setenv("ALGO_ROYALE__TRADER__RESEARCH_AGE_DAYS_MAX", "off")
    return runs


def run(home: Path, env: str, *words: str) -> Result:
    write_artifacts(home / env / "artifacts", plan())
    return CliRunner().invoke(root, ["--home", str(home), "--env", env, "run-trader", *words])


def test_money_is_traded_only_in_the_account_that_was_named(tmp_path: Path, begun: list[dict[str, Any]]) -> None:
    wrong = run(tmp_path, "prod_live", "--live-account", "987654321")
    assert (wrong.exit_code, wrong.stdout) == (1, "")
    assert (
        wrong.stderr.splitlines()[-1]
        == "error: --live-account 987654321 is not the account of these keys, which ends in 6789"
    )
    assert begun == [] and not (tmp_path / "prod_live" / "ledger.db").exists()

    right = run(tmp_path, "prod_live", "--live-account", NUMBER)
    assert len(begun) == 1 and begun[0]["dry_run"] is False
    assert f"account {NUMBER} with real money: equity 25000.5 USD, cash 1000 USD" in right.stderr
    assert "prod_live: trading AAPL, GOOG, IBM, MSFT" in right.stderr
    assert "order_notional_usd 10000" in right.stderr and "daily_loss_fraction 0.03" in right.stderr
    assert "secret" not in right.output + wrong.output


@pytest.mark.parametrize(
    ("what", "value", "why"),
    [
        ("status", "ACCOUNT_CLOSED", "is not active: ACCOUNT_CLOSED"),
        ("trading_blocked", True, "is blocked from trading"),
    ],
)
@pytest.mark.parametrize("words", [("prod_live", "--live-account", NUMBER), ("prod_paper",)])
def test_an_account_that_may_not_trade_is_refused(
    tmp_path: Path, begun: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], what: str,
    value: object, why: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(FakeAlpaca, what, value)
    assert why in run(tmp_path, *words).stderr
    assert begun == []


def test_paper_says_the_same_and_needs_no_number(tmp_path: Path, begun: list[dict[str, Any]]) -> None:
    done = run(tmp_path, "prod_paper", "--dry-run")
    assert f"account {NUMBER} with play money" in done.stderr
    assert len(begun) == 1 and begun[0]["dry_run"] is True


@pytest.mark.parametrize("name", ["DATA_URL", "DATA_STREAM_URL"])
def test_money_is_not_traded_on_the_prices_of_the_twin(
    tmp_path: Path, begun: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(
        f"ALGO_ROYALE__BROKER__{name}", "wss://127.0.0.1/v2" if "STREAM" in name else "https://127.0.0.1"
    )
    done = run(tmp_path, "prod_live", "--live-account", NUMBER)
    said = f"prod_live trades with real money, but broker.{name.lower()} is the address of the twin"
    assert done.exit_code == 1 and said in done.stderr
    assert begun == []


@pytest.mark.parametrize("host", ["https://paper-api.example", "https://127.0.0.1"])
def test_money_is_not_traded_at_an_address_of_play(
    tmp_path: Path, begun: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    for name in ("TRADING_URL", "TRADING_STREAM_URL"):
        monkeypatch.setenv(f"ALGO_ROYALE__BROKER__{name}", host.replace("https", "wss") if "STREAM" in name else host)
    done = run(tmp_path, "prod_live", "--live-account", NUMBER)
    assert (
        done.exit_code == 1
        and "prod_live trades with real money, but broker.trading_url is the address of" in done.stderr
    )
    assert begun == []
