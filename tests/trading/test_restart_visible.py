"""A failing actor does not stop the trader, and the record shows what happened."""

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from actors.kernel import Crash, Faults
from actors.kernel.journal import MessageLog, RunInfo
from actors.messages import BarClosed
from algo_royale.app.cli import root
from traders import BUSY, ledger_of, trader


class FailTwice(Faults):
    """IBM's signal actor fails on its second and third bar."""

    def __init__(self) -> None:
        self.bars = 0

    def before(self, index: int, path: str, message: Any) -> BaseException | None:
        if path.endswith("signal:IBM") and isinstance(message, BarClosed):
            self.bars += 1
            if self.bars in (2, 3):
                return Crash("a bug in a strategy")
        return None


def test_a_signal_actor_that_fails_twice_is_restarted_and_trading_goes_on(tmp_path: Path) -> None:
    """The ledger is that of an undisturbed run; `actors tree` and `messages` show failures, restarts, dead letters."""
    undisturbed = trader(6, start=BUSY)
    undisturbed.run()
    home = tmp_path / "dev_integration"
    log = MessageLog(home / "runs" / "trader-1" / "messages.db", RunInfo(id="trader-1", kind="trader", started_ns=1))

    account = trader(6, start=BUSY)
    exit_code = account.run(faults=FailTwice(), log=log)

    assert exit_code == 0
    assert ledger_of(account) == ledger_of(undisturbed)
    tree = {row["path"]: row for row in _json(tmp_path, "actors", "tree")["actors"]}
    signal = tree["root/trading/signals/signal:IBM"]
    assert (signal["restarts"], signal["failures"]) == (2, 2)
    assert "a bug in a strategy" in signal["last_error"]
    dead = _json(tmp_path, "messages", "dead")["messages"]
    assert [(row["type"], row["outcome"]) for row in dead] == [("BarClosed", "failed")] * 2
    traced = CliRunner().invoke(root, ["--home", str(tmp_path), "messages", "trace", str(dead[0]["id"])])
    assert traced.exit_code == 0, traced.output
    assert "BarClosed" in traced.output and "a bug in a strategy" in traced.output


def _json(home: Path, *command: str) -> Any:
    result = CliRunner().invoke(root, ["--home", str(home), "--json", *command])
    assert result.exit_code == 0, result.output
    return json.loads(result.output)
