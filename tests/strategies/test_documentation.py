"""The page on strategies says what the tables of the program say. Run as a script it prints the tables of the page."""

import re
from pathlib import Path

from algo_royale.market import ENTER, EXIT, Timeframe
from algo_royale.research import checks
from algo_royale.strategies import CONDITIONS, LOGICS, STRATEGIES, ParamSpec, loading, required_history, space
from algo_royale.strategies.own import window

PAGE = Path(__file__).parents[2] / "docs" / "strategies.md"
DAY, HOUR = Timeframe.DAY_1, Timeframe.HOUR_1


def values(d: ParamSpec, scaled: bool) -> str:
    if d.kind == "categorical":
        return ", ".join(map(str, d.choices))
    return f"{d.low:g} to {d.high:g}{', logarithmic' if d.log else ''}{' κ' if scaled else ''}"


def tables() -> str:
    out = []
    for name, row in STRATEGIES.items():
        out += [f"\n### {name}\n"]
        out += [
            f"{slot.capitalize()}: {', '.join(f'`{c}`' for c in getattr(row, slot))}."
            for slot in ("entry", "exit", "trend")
            if getattr(row, slot)
        ]
        out += [
            f"Logic: `{row.logic}`." if row.logic else "",
            "" if row.supports(DAY) else "Not for daily bars.",
            f"Needs {required_history(name, DAY)} bars of history.\n",
        ]
        out += ["| dimension | values | default |", "| --- | --- | --- |"]
        for d, hourly in zip(space(name, DAY), space(name, HOUR), strict=True):
            out.append(f"| `{d.name}` | {values(d, d != hourly)} | {d.default} |")
    return "\n".join(line for line in out if line)


def test_the_page_lists_every_strategy_with_its_space() -> None:
    assert tables().strip() in PAGE.read_text()


def test_the_page_names_every_condition_and_logic() -> None:
    page = PAGE.read_text()

    assert [name for name in (*CONDITIONS, *LOGICS) if f"`{name}`" not in page.split("<!-- tables")[0]] == []


def test_the_example_of_ones_own_strategy_runs_and_is_honest(tmp_path: Path) -> None:
    """As it stands on the page: three strategies that trade and pass the proofs; what is said of tests is true too."""
    (code,) = re.findall(r"<!-- example: [^>]*-->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    file = tmp_path / "example.py"
    file.write_text(code)
    try:
        assert set(loading.load([str(file)])) == {"CalmDip", "StretchedDip", "WeekAfterALow"}
        for name in loading.versions():
            bars = checks.rough_bars(1, required_history(name, DAY) + 400, DAY)
            signal = checks.factory(name, next(checks.points(space(name, DAY), 1, 1)), DAY)().run(bars).signal
            assert (signal == ENTER).any() and (signal == EXIT).any()
            assert checks.forgetting(name, DAY, seed=1, point_count=1, origins=3, room=200).finding is None
        checks.refuse_leaks(loading.versions(), DAY)
        (new_high,) = [f for f in loading.functions("StretchedDip") if f.name == "new_high"]
        assert new_high(window(close=[1, 2, 3]), days=2) and not new_high(window(close=[1, 2, 2]), days=2)
    finally:
        loading.forget()


if __name__ == "__main__":
    print(tables())
