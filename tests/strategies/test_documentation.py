"""The page on strategies says what the tables of the program say. Run as a script it prints the tables of the page."""

from pathlib import Path

from algo_royale.market import Timeframe
from algo_royale.strategies import CONDITIONS, LOGICS, STRATEGIES, ParamSpec, required_history, space

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


if __name__ == "__main__":
    print(tables())
