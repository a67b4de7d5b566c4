"""One instance per environment, and a log that never stands in the way."""

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from algo_royale.app.lock import holder, single_instance
from algo_royale.app.logs import fact, level_of, process_log, secrets_of
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

    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["level"], line["logger"], line["event"], line.get("pid")) for line in lines] == [
        ("info", "algo_royale", "started", 1),
        ("warning", "algo_royale", "lost", None),
    ]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"]) for line in lines)
    said = capsys.readouterr()
    assert said.err.split(" ", 1)[1] == "WARNING algo_royale lost\n"
    assert said.out == ""


def test_the_file_is_turned_over_when_it_is_full(tmp_path: Path) -> None:
    file = tmp_path / "trader.log"
    with process_log(file, verbosity=-3, file_mb=1, files=2) as log:
        for number in range(40):
            log.info(fact("long", number=number, text="x" * 100_000))

    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == ["trader.log", "trader.log.1", "trader.log.2"]
    assert all((tmp_path / name).stat().st_size <= 1_000_000 for name in kept)
    assert json.loads(file.read_text().splitlines()[-1])["number"] == 39


def test_what_is_known_to_be_secret_is_blotted_out_wherever_it_comes_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "trader.log"
    with process_log(file, secrets=("PKTEST123", "very/secret")) as log:
        log.info(fact("asked", url="https://x/?key=PKTEST123"))
        logging.getLogger("requests").error("header %s", {"APCA-API-SECRET-KEY": "very/secret"})
        try:
            raise ValueError("very/secret was refused")
        except ValueError:
            log.exception(fact("failed", status=401))
    said = file.read_text() + capsys.readouterr().err
    assert said.count("[secret]") >= 6 and "PKTEST123" not in said and "very/secret" not in said
    assert json.loads(file.read_text().splitlines()[-1])["status"] == 401


def test_a_log_file_that_cannot_be_written_stops_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    with process_log(tmp_path / "file" / "trader.log") as log:
        log.info("started")

    assert "no log file" in (said := capsys.readouterr().err)
    assert "started" in said


@pytest.mark.parametrize(
    ("url", "secrets"),
    [
        ("postgresql://me:p%40ss:word@host:5432/name", {"p%40ss:word", "p@ss:word"}),
        ("json://host/path", set()),
        ("", set()),
    ],
)
def test_an_address_is_a_secret_and_so_is_the_password_in_it(url: str, secrets: set[str]) -> None:
    assert set(secrets_of(url)) == secrets | ({url} if url else set())
