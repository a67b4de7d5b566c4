"""`python -m algo_royale` is the command `algo-royale`."""

from algo_royale.app.cli import main

main()
