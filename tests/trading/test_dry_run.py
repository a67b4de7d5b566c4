"""A dry run decides, records and explains everything, and sends nothing."""

import inspect
import json
from pathlib import Path

import pytest
import requests
from click.testing import CliRunner

from algo_royale.app.cli import root
from algo_royale.broker.dry import NOT_SENT, DryBroker
from algo_royale.broker.port import BrokerPort
from algo_royale.errors import BrokerRejected
from db.store import Reader
from live_traders import LEDGER_ID, new_home, trade
from traders import BUSY, simulated


def test_the_twin_sees_no_order_request_and_the_real_ledger_is_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every request is watched on its way out; what would have been sent is what research decides first."""
    home = new_home(tmp_path / "dev_integration", BUSY)
    before = (home / "ledger.db").read_bytes()
    asked: set[tuple[str, str]] = set()
    send = requests.Session.send

    def watched(self: requests.Session, request: requests.PreparedRequest, **options: object) -> requests.Response:
        asked.add((str(request.method), str(request.path_url).partition("?")[0]))
        return send(self, request, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(requests.Session, "send", watched)
    summary = trade(home, start=BUSY, sessions=3, run_id="dry-run-1", dry_run=True)

    assert ("GET", "/v2/orders") in asked  # it did look
    assert {method for method, _ in asked} == {"GET"}
    assert summary["dry_run"] is True and summary["fills"] == 0 and summary["exit_code"] == 0
    assert summary["orders"]["submitted"] == summary["orders"]["rejected"] == 0 < summary["orders"]["not_sent"]
    assert (home / "ledger.db").read_bytes() == before
    with Reader(home / "dry-run" / "dry-run-1.db") as reader:
        orders = reader.orders()
        assert reader.summary().ledger_id != LEDGER_ID
    assert {order["status"] for order in orders} == {"rejected"}
    assert all(NOT_SENT in order["detail"] for order in orders)
    expected = simulated(3, start=BUSY).orders[0]
    first = orders[0]
    assert (first["symbol"], first["side"], first["quantity"]) == (expected.symbol, expected.side, expected.quantity)

    def ask(*words: str) -> list[dict[str, object]]:
        done = CliRunner().invoke(root, ["--home", str(tmp_path), "--json", *words])
        assert done.exit_code == 0, done.output
        found: list[dict[str, object]] = json.loads(done.stdout)
        return found

    assert ask("orders") == []
    assert [order["client_order_id"] for order in ask("orders", "--dry-run")] == [o["client_order_id"] for o in orders]
    story = ask("explain", str(first["client_order_id"]), "--dry-run")
    assert NOT_SENT in json.dumps(story)
    replayed = CliRunner().invoke(root, ["--home", str(tmp_path), "replay", "dry-run-1"])
    assert replayed.exit_code == 0, replayed.output


def test_every_call_of_the_port_is_decided_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new call of the port needs a word on what a dry run does; the two that change something at the broker never reach it."""
    calls = {name for name, thing in vars(BrokerPort).items() if inspect.isfunction(thing) and not name.startswith("_")}
    assert calls - set(vars(DryBroker)) == set()

    class Forbidden:
        def __getattr__(self, name: str) -> object:
            raise AssertionError(f"{name} reached the broker")

    broker = DryBroker(Forbidden())  # type: ignore[arg-type]
    assert broker.order_by_client_id("ar-1") is None
    with pytest.raises(BrokerRejected, match=NOT_SENT):
        broker.cancel("b-1")
    with pytest.raises(BrokerRejected, match=NOT_SENT):
        broker.submit(client_order_id="ar-1", symbol="IBM", side="buy", quantity=1)  # type: ignore[arg-type]
