"""Everything that a run writes or says is searched for what it must not hold: keys, the secret, passwords in addresses."""

import json
from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import requests

from actors.trading import Trader
from algo_royale.app.control import ask
from algo_royale.app.trader import Endpoints
from live_traders import ended, prepared, running, spawn, twin, wait
from traders import BUSY, last_session

PASSWORD, TOKEN = "hunter2-in-an-address", "token-of-the-heartbeat"
FOUND_AT_ALL = ("messages.db", "ledger.db", "trader.log", "run_manifest.json")


@pytest.fixture(autouse=True)
def _addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Services that take nothing, so that every failure is logged and recorded."""
    monkeypatch.setenv("ALGO_ROYALE__NOTIFY__URLS", f"json://me:{PASSWORD}@127.0.0.1:9/{PASSWORD}?cto=1")
    monkeypatch.setenv("ALGO_ROYALE__NOTIFY__HEARTBEAT_URL", f"http://127.0.0.1:9/{TOKEN}")
    monkeypatch.setenv("ALGO_ROYALE__NOTIFY__EVENTS", '["start", "stop", "state", "rejected", "fill", "restart"]')
    monkeypatch.setenv("ALGO_ROYALE__LOG__LEVEL", "debug")


def leaks(home: Path, secrets: Iterable[str], *said: str) -> list[str]:
    """Every place that holds a secret, among all files below `home` and what was said."""
    written = {path.relative_to(home).as_posix(): path.read_bytes() for path in home.rglob("*") if path.is_file()}
    assert all(any(name.endswith(known) for name in written) for known in FOUND_AT_ALL), sorted(written)
    places = written | {f"said {number}": text.encode() for number, text in enumerate(said)}
    return [
        f"{where} holds {secret}"
        for where, content in places.items()
        for secret in secrets
        if secret.encode() in content
    ]


def make_trouble(endpoints: Endpoints) -> None:
    """Errors, refusals, lost answers and cut connections, right away."""
    trouble = {
        "requests": [{"kind": kind, "count": 2} for kind in ("error", "unauthorized", "lost_answer", "reset_before")],
        "frames": [{"endpoint": "trading", "kind": "garbage"}, {"endpoint": "data", "kind": "unknown"}],
    }
    assert requests.post(f"{endpoints.trading_url}/sim/faults", json=trouble, timeout=10).status_code == 200


def test_a_run_with_faults_writes_no_secret(tmp_path: Path) -> None:
    prepared(tmp_path, BUSY)
    with twin(BUSY, 3) as endpoints:
        make_trouble(endpoints)
        with running(spawn(tmp_path, endpoints, "-vv", "--until", str(last_session(BUSY, 3)))) as life:
            code, out, err = ended(life)
        happened = requests.get(f"{endpoints.trading_url}/sim/truth", timeout=10).json()["fills"]

    assert code == 0, err
    assert happened and json.loads(out)["fills"] > 0
    assert leaks(tmp_path, (*endpoints.keys, PASSWORD, TOKEN), out, err) == []
    log = [json.loads(line) for line in (tmp_path / "dev_integration" / "logs" / "trader.log").read_text().splitlines()]
    assert {"started", "ended", "notification not delivered"} <= {line["event"] for line in log}


def test_a_run_that_is_not_let_in_writes_no_secret(tmp_path: Path) -> None:
    directory = prepared(tmp_path, BUSY)
    keys = ("PKNOTLETINATALL", "SecretNobodyShouldEverSee/+=")
    with twin(BUSY, 2, speed="1") as endpoints:
        refused = replace(endpoints, keys=keys)
        with running(spawn(tmp_path, refused, "-vv", "--speed", "1")) as life:
            wait(life, lambda: (directory / "control.sock").exists())
            wait(life, lambda: set(ask(directory, "status")["connections"].values()) == {"fatal"})
            said = [json.dumps(ask(directory, what)) for what in ("status", "top", "stop")]
            _, out, err = ended(life)

    assert leaks(tmp_path, (*keys, PASSWORD, TOKEN), out, err, *said) == []


@pytest.mark.parametrize("kind", [Endpoints, Trader])
def test_who_holds_keys_does_not_show_them(kind: Any) -> None:
    """A repr stands in tracebacks and failed assertions."""
    holder = kind(
        **dict.fromkeys(field.name for field in fields(kind)) | {"keys": ("PKSHOWN", "SecretNobodyShouldEverSee")}
    )

    assert "PKSHOWN" not in repr(holder)
    assert "Secret" not in repr(holder)


def test_the_search_would_find_them(tmp_path: Path) -> None:
    """In a database, in a log, in an answer."""
    directory = prepared(tmp_path, BUSY)
    for name in FOUND_AT_ALL:
        (directory / name).write_bytes(b"\x00..." + PASSWORD.encode() + b"\xff")
    assert len(leaks(tmp_path, (PASSWORD,), f"x {PASSWORD}")) == len(FOUND_AT_ALL) + 1
