"""One instance per environment, and a log that never stands in the way."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from algo_royale.app.lock import holder, single_instance
from algo_royale.app.logs import fact, level_of, process_log
from algo_royale.errors import AlreadyRunning, BadInput


def test_a_second_instance_is_told_who_the_first_is(tmp_path: Path) -> None:
    other = (
        "import sys; from pathlib import Path; from algo_royale.app.lock import single_instance\n"
        "with single_instance(Path(sys.argv[1]), 'trader'):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", other, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdin is not None
        assert first.stdout.readline() == "held\n"
        assert holder(tmp_path, "trader") == first.pid
        with pytest.raises(AlreadyRunning, match=f"trader is already running in .*process {first.pid}"):
            single_instance(tmp_path, "trader").__enter__()
        first.kill()  # no clean-up of its own: the operating system drops the lock
        first.wait()
        first.stdin.close()
    with single_instance(tmp_path, "trader"):
        assert holder(tmp_path, "trader") == os.getpid()
    assert holder(tmp_path, "trader") is None


def test_environments_do_not_lock_each_other_out(tmp_path: Path) -> None:
    with single_instance(tmp_path / "a", "trader"), single_instance(tmp_path / "b", "trader"):
        assert holder(tmp_path / "a", "trader") == holder(tmp_path / "b", "trader") == os.getpid()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="choose another --home"):
        single_instance(tmp_path / "file" / "home", "trader").__enter__()


def test_a_fact_is_key_value() -> None:
    assert (
        fact("connected", endpoint="data", after_s=1.5, why="timed out")
        == "connected endpoint=data after_s=1.5 why='timed out'"
    )


@pytest.mark.parametrize(
    ("name", "verbosity", "level"),
    [("info", 0, logging.INFO), ("info", 1, logging.DEBUG), ("info", -2, logging.ERROR), ("error", -9, logging.ERROR)],
)
def test_verbosity_moves_the_level(name: str, verbosity: int, level: int) -> None:
    assert level_of(name, verbosity) == level


def test_the_log_goes_to_stderr_and_to_a_file_that_rotates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "logs" / "trader.log"
    with process_log(file, verbosity=-1, files=2) as log:
        log.info(fact("started", pid=1))
        log.warning(fact("lost"))

    assert [line.split(" ", 1)[1] for line in file.read_text().splitlines()] == [
        "INFO algo_royale started pid=1",
        "WARNING algo_royale lost",
    ]
    assert "lost" in capsys.readouterr().err
    assert capsys.readouterr().out == ""


def test_a_log_file_that_cannot_be_written_stops_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    with process_log(tmp_path / "file" / "trader.log") as log:
        log.info("started")

    assert "no log file" in (said := capsys.readouterr().err)
    assert "started" in said
