"""The works of benchmarks/ in small: what is compared is equal, and the harness compares."""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from conftest import ROOT


@pytest.fixture(scope="module")
def crosses() -> Iterator[ModuleType]:
    """benchmarks/crosses.py as its own command sees it."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import crosses  # type: ignore[import-not-found]

    yield crosses
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def accounts(crosses: ModuleType) -> ModuleType:
    """benchmarks/accounts.py, beside the other."""
    import accounts  # type: ignore[import-not-found]

    return accounts  # type: ignore[no-any-return]


def test_one_cross_has_the_trades_the_equity_and_the_drawdown_of_a_plain_loop(crosses: ModuleType) -> None:
    """To the last bit, over several blocks of the compiled machine."""
    a = crosses.arrays(9_000)

    ours, loop = crosses.load_ours()(a), crosses.load_loop()(a)

    assert ours == loop and loop["trades"] > 50


def test_a_grid_of_crosses_has_the_trades_and_the_final_equity_of_a_plain_loop(crosses: ModuleType) -> None:
    a = crosses.arrays(5_000, 4, 5)

    ours, loop, tiled = (load(a) for load in (crosses.load_our_grid(), crosses.load_grid(1), crosses.load_grid(2)))

    for name in ("trades", "final_equity"):
        np.testing.assert_array_equal(ours[name], loop[name])
        np.testing.assert_array_equal(tiled[name], loop[name])
    assert len(set(ours["trades"])) > 5


def test_the_decision_core_has_the_trades_and_the_equity_of_a_plain_loop(accounts: ModuleType) -> None:
    """Called once per bar, in exact decimals: nothing may differ but the last digits of the loop's floating-point sums."""
    a = accounts.arrays(5_000)

    ours, loop = accounts.load_simulation()(a), accounts.load_python_loop()(a)

    assert ours["trades"] == loop["trades"] > 30
    for name in ("final_equity", "mean_equity"):
        assert ours[name] == pytest.approx(loop[name], rel=1e-11)


def test_an_order_on_every_bar_is_counted_for_its_cost(accounts: ModuleType) -> None:
    """What `flatness` times is what it says: as many orders as it names."""
    assert len(accounts.load_orders(500)().orders) == 500


def test_the_harness_measures_in_turns_and_refuses_unequal_results(crosses: ModuleType, capfd) -> None:  # type: ignore[no-untyped-def]
    """Both engines in this environment, so that nothing is installed."""
    import _harness  # type: ignore[import-not-found]

    engines = [dataclasses.replace(e, env=_harness.OURS) for e in crosses.W1.engines[:2]]
    work = dataclasses.replace(crosses.W1, engines=engines)

    found = _harness.measure(work, str(Path(crosses.__file__)), "quick", 2)

    assert [len(m.seconds) for m in found.values()] == [2, 2]
    assert all(m.peak_mb > 10 for m in found.values())
    assert "| AlgoRoyale | " in "\n".join(_harness.table(work, found, "quick"))
    found["AlgoRoyale"].check["final_equity"] += 1.0
    with pytest.raises(SystemExit, match="AlgoRoyale gives final_equity"):
        _harness._compare(work, engines[1], found, "quick")
