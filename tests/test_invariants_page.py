"""docs/invariants.md names tests that exist."""

import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "invariants.md"


def test_each_invariant_names_tests_that_exist() -> None:
    written = {name for file in TESTS.rglob("test_*.py") for name in re.findall(r"def (test_\w+)", file.read_text())}
    rows = re.findall(r"^\| (\d+) \|(.*)$", PAGE.read_text(), re.M)
    named = {number: re.findall(r"`(test_\w+)`", text) for number, text in rows}

    assert [int(number) for number in named] == list(range(1, 36))
    assert {number: sorted(set(names) - written) for number, names in named.items() if set(names) - written} == {}
    assert all(named.values())
