"""The page on portfolio strategies says what their table says. Run as a script it writes the table into the page."""

from pathlib import Path

from algo_royale.market import Timeframe
from algo_royale.portfolio.weights import PORTFOLIOS, space
from algo_royale.strategies import ParamSpec

PAGE = Path(__file__).parents[2] / "docs" / "portfolios.md"
BEGIN, END = "<!-- tables -->\n", "\n<!-- /tables -->"
INTRADAY = Timeframe.HOUR_1.bars_per_year


def values(d: ParamSpec) -> str:
    if d.kind == "categorical":
        return ", ".join(map(str, d.choices))
    return f"{d.low:g} to {d.high:g}{', logarithmic' if d.log else ''}"


def row(name: str) -> str:
    """A strategy's rule as its row documents it, and the space that is searched."""
    spec = PORTFOLIOS[name]
    searched = [f"`{d.name}` {values(d)} ({d.default})" for d in space(name, INTRADAY)]
    rule = " ".join((spec.raw.__doc__ or "").split()).removesuffix(".")
    return f"| {name.removesuffix('PortfolioStrategy')} | {rule} | {'; '.join(searched) or 'none'} |"


def table() -> str:
    head = ["| strategy (+ `PortfolioStrategy`) | raw weights | searched (default) |", "| --- | --- | --- |"]
    return "\n".join([*head, *(row(name) for name in PORTFOLIOS)]) + "\n"


def test_the_page_has_the_table_of_the_program() -> None:
    page = PAGE.read_text()

    assert page[page.index(BEGIN) + len(BEGIN) : page.index(END)].strip() == table().strip()


def test_the_page_is_linked_and_counts_right() -> None:
    assert "(portfolios.md)" in (PAGE.parent / "index.md").read_text()
    assert "## The twelve" in PAGE.read_text() and len(PORTFOLIOS) == 12


if __name__ == "__main__":
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + "\n" + table() + rest[rest.index(END) :])
