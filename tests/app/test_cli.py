"""The command line's root: fast, honest about what exists, and one line for every error."""

import json
import os
import re
import shlex
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from algo_royale.app.cli import COMMANDS, Settings, command, config_directory, root
from algo_royale.errors import BadConfiguration, LedgerError
from conftest import ROOT


def leaves(name: str, found: click.Command) -> list[tuple[str, click.Command]]:
    """A command and everything below it, by full name."""
    inner = found.commands.items() if isinstance(found, click.Group) else []
    return [(name, found), *(leaf for child, c in inner for leaf in leaves(f"{name} {child}", c))]


ALL = [pytest.param(name, id=name) for name in COMMANDS]


def run(*args: str, env: dict[str, str] | None = None) -> "click.testing.Result":
    return CliRunner().invoke(root, list(args), env=env)


@pytest.mark.parametrize("name", ALL)
def test_every_registered_command_exists_and_says_what_help_says(name: str) -> None:
    found = command(name)

    assert found.name == name
    assert COMMANDS[name][1] == found.get_short_help_str(200)


@pytest.mark.parametrize("name", ALL)
def test_every_command_has_help_and_examples(name: str) -> None:
    for full, found in leaves(name, command(name)):
        text = found.get_help(click.Context(found, info_name=full))
        assert "Examples:" in text, full
        assert f"algo-royale {full}" in text or full in text, full
        for param in found.params:
            if isinstance(param, click.Option) and not param.hidden:
                assert param.help, f"{full} {param.name}"
                assert param.show_envvar, f"{full} {param.name}"


def test_help_imports_nothing_heavy() -> None:
    """What takes its time is loaded by the command that needs it."""
    code = (
        "import sys; from algo_royale.app.cli import root\n"
        "try: root.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'pandas', 'numba', 'pydantic', 'optuna', 'pyarrow', 'alpaca', 'rich', 'msgspec'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["confg"], 2, "did you mean 'config'"),
        (["--env", "prod", "doctor"], 2, "'prod_paper'"),
        (["config", "show", "--origin"], 2, "--origins"),
        (["config", "show", "reserch"], 1, "error: unknown section 'reserch'; did you mean 'research'?\n"),
    ],
)
def test_mistakes_have_an_exit_code_and_no_traceback(args: list[str], code: int, says: str) -> None:
    result = run(*args)

    assert result.exit_code == code
    assert says in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.output


def test_our_errors_are_one_line_and_bugs_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    @click.argument("how")
    def failing(how: str) -> None:
        if how == "ledger":
            raise LedgerError("the ledger\ncannot be written")
        if how == "interrupt":
            raise KeyboardInterrupt
        raise ZeroDivisionError

    monkeypatch.setitem(root.commands, "failing", failing)
    monkeypatch.setitem(COMMANDS, "failing", ("unused:unused", ""))  # type: ignore[index]  # a Mapping to everyone else
    monkeypatch.setattr("algo_royale.app.cli.command", lambda name: failing)

    assert (run("failing", "ledger").exit_code, run("failing", "ledger").stderr) == (
        5,
        "error: the ledger cannot be written\n",
    )
    assert run("failing", "interrupt").exit_code == 130
    assert isinstance(run("failing", "bug").exception, ZeroDivisionError)


def test_global_options_work_before_and_behind_the_command() -> None:
    before, behind = (
        run("--json", "--env", "prod_paper", "config", "show"),
        run("config", "show", "--env", "prod_paper", "--json"),
    )

    assert before.exit_code == behind.exit_code == 0
    assert before.stdout == behind.stdout
    assert json.loads(before.stdout)["environment"] == "prod_paper"


def test_layers_reach_the_command(tmp_path: Path) -> None:
    mine, later = tmp_path / "mine.toml", tmp_path / "later.toml"
    mine.write_text("[research]\ntrials = 5\nseed = 1\n")
    later.write_text("[research]\ntrials = 6\n")
    args = ["--config", str(mine), "--config", str(later), "config", "show", "research", "--origins"]
    result = run(*args, env={"ALGO_ROYALE__RESEARCH__WORKERS": "3"})

    assert f"research.trials = 6  # {later}" in result.stdout
    assert f"research.seed = 1  # {mine}" in result.stdout
    assert "research.workers = 3  # ALGO_ROYALE__RESEARCH__WORKERS" in result.stdout
    assert "research.test = 1  # base.toml" in result.stdout


def documented(page: str, language: str) -> list[str]:
    """Lines of the page's fenced blocks in that language."""
    blocks = re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("line", documented("docs/configuration.md", "sh"))
def test_what_the_guide_types_works(line: str) -> None:
    words = shlex.split(line)
    variables = dict(word.split("=", 1) for word in words[: words.index("algo-royale")])
    result = run(*words[words.index("algo-royale") + 1 :], env=variables)

    assert (result.exit_code, result.stderr) == (0, "")


def test_the_guides_mistakes_are_answered_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = []
    for text, env in (
        ("[research]\ntrails = 3", {}),
        ("", {"ALGO_ROYALE__LOG__LEVEL": "loud"}),
        ("[broker]\ntrading_url = 'https://a.example'", {}),
    ):
        Path("mine.toml").write_text(text)
        result = run("--config", "mine.toml", "config", "validate", env=env)
        assert result.exit_code == 1
        made.append(result.stderr.strip())

    assert made == documented("docs/configuration.md", "text")


def test_a_lifted_limit_is_shown_as_it_is_set(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[risk]\norders_per_minute = 'off'\ndaily_loss_fraction = 'off'\n")
    shown = run("--config", str(file), "config", "show", "risk", "--json")

    assert 'risk.orders_per_minute = "off"\n' in run("--config", str(file), "config", "show", "risk").stdout
    assert json.loads(shown.stdout)["risk"]["daily_loss_fraction"] == "off"


def test_a_value_where_a_section_belongs_blames_whoever_gave_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty.toml").write_text("")
    monkeypatch.setenv("ALGO_ROYALE__LOG", "3")
    assert run("--config", str(tmp_path / "empty.toml"), "config", "show").stderr == (
        "error: ALGO_ROYALE__LOG: log is a section and holds level, file_mb, files; it is no value\n"
    )


def test_the_scripts_offer_no_variable_that_nobody_meant() -> None:
    """NO_COLOR is the variable everybody knows; options of the group keep their one name wherever they stand."""
    for script in ("run-backtest", "run-trader", "run-exchange"):
        shown = subprocess.run(
            [Path(sys.executable).with_name(script), "--help"], capture_output=True, text=True, check=True
        )
        own = script.upper().replace("-", "_")
        assert not re.findall(rf"ALGO_ROYALE_{own}_(?:NO_COLOR|HOME|ENV|JSON|CONFIG|VERBOSE|QUIET)", shown.stdout)
        assert "ALGO_ROYALE_HOME" in shown.stdout and "NO_COLOR" in shown.stdout


def test_flags_win_over_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALGO_ROYALE__RESEARCH__TRIALS", "3")
    flags = {"research": {"trials": 2, "seed": None}}

    assert Settings().with_flags(flags).research.trials == 2
    assert Settings().with_flags(flags).research.seed == 20240501
    with pytest.raises(BadConfiguration, match="command line: research.trials"):
        Settings().with_flags({"research": {"trials": 0}})


def test_a_keys_file_that_others_can_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys"
    file.write_text("APCA_API_KEY_ID=key\nAPCA_API_SECRET_KEY=secret\n")
    file.chmod(0o644)
    config = tmp_path / "mine.toml"
    config.write_text(f"[broker]\nkeys_file = '{file}'\n")
    settings = Settings(config_files=(config,))

    with pytest.raises(BadConfiguration, match="chmod 600"):
        settings.keys()
    file.chmod(0o600)
    keys = settings.keys()
    assert keys is not None
    assert keys.pair() == ("key", "secret")


def test_doctor_passes_here_and_says_what_is_missing(tmp_path: Path) -> None:
    fine = run("--home", str(tmp_path), "--json", "doctor")
    paper = run("--home", str(tmp_path), "--env", "prod_paper", "doctor")

    assert json.loads(fine.stdout)["ok"] is True
    assert (fine.exit_code, paper.exit_code) == (0, 1)
    assert "FAIL  broker keys     no keys: set APCA_API_KEY_ID" in paper.stdout


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_doctor_notices_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "cannot write" in run("--home", str(tmp_path / "var"), "doctor").stdout


def test_the_shipped_files_are_found_wherever_the_command_runs(tmp_path: Path) -> None:
    assert (config_directory() / "base.toml").is_file()
    assert files("algo_royale.data").joinpath("bundled.parquet").is_file()
    done = subprocess.run(
        [sys.executable, "-m", "algo_royale", "--version"], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode, done.stdout.split()[0]) == (0, "algo-royale")


def test_a_reader_that_leaves_is_no_failure(tmp_path: Path) -> None:
    """`config show | head -1`, as a shell with pipefail sees it."""
    command = [sys.executable, "-m", "algo_royale", "config", "show"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read(), process.wait(60)) == (b"", 0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no device that is always full")
def test_a_full_disk_is_said_in_one_line() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "algo_royale", "config", "show"],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    assert (done.stderr, done.returncode) == (b"error: No space left on device\n", 1)
