"""Write docs/cli.md: every command with the help it prints.

python tools/make_cli_docs.py [--check]
"""

import difflib
import sys
from pathlib import Path

import click

from algo_royale.app.cli import COMMANDS, PREFIX, command, root

TARGET = Path(__file__).parent.parent / "docs" / "cli.md"
INTRODUCTION = """# The command line

<!-- made by tools/make_cli_docs.py from the commands themselves; a test compares -->

One command, `algo-royale` (also `python -m algo_royale`); `run-backtest`, `run-trader` and `run-exchange` are installed under
their own names too. stdout is the result, progress and logs go to stderr, and `--json` makes the result one JSON document.
Global options may stand before or behind the command.

Exit codes: 0 stopped as asked; 1 bad configuration or failed start, or a run with failed units; 2 usage; 3 escalated; 4 shutdown
deadline passed; 5 halted for safety (do not restart automatically); 130 interrupted twice.
"""


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION, section("algo-royale", root, 2)]
    for name in COMMANDS:
        parts += sections(f"algo-royale {name}", command(name), 2)
    return "\n".join(parts)


def sections(name: str, found: click.Command, depth: int) -> list[str]:
    """A command and those below it."""
    inner = found.commands if isinstance(found, click.Group) else {}
    below = [part for child in sorted(inner) for part in sections(f"{name} {child}", inner[child], depth + 1)]
    return [section(name, found, depth), *below]


def section(name: str, found: click.Command, depth: int) -> str:
    words = name.split()[1:]
    prefix = "_".join([PREFIX, *words]).upper().replace("-", "_")
    context = click.Context(
        found, info_name=name, auto_envvar_prefix=prefix, help_option_names=["-h", "--help"], terminal_width=100
    )
    text = "\n".join(line.rstrip() for line in found.get_help(context).splitlines())
    return f"{'#' * depth} {name}\n\n```text\n{text}\n```\n"


if __name__ == "__main__":
    made = page()
    if "--check" in sys.argv[1:]:
        have = TARGET.read_text(encoding="utf-8") if TARGET.exists() else ""
        if have != made:
            lines = list(
                difflib.unified_diff(
                    have.splitlines(), made.splitlines(), "docs/cli.md", "the commands", lineterm="", n=0
                )
            )
            raise SystemExit(
                "docs/cli.md is not what the commands say; run tools/make_cli_docs.py\n" + "\n".join(lines[:20])
            )
    else:
        TARGET.write_text(made, encoding="utf-8")
        print(f"{TARGET}: {len(made)} characters")
