"""Ids are functions of what they stand for."""

import re

from hypothesis import given
from hypothesis import strategies as st

from algo_royale.ids import ID_LENGTH_MAX, client_order_id, decision_id

symbols = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)


@given(st.text(max_size=30), st.integers(0, 2**62), symbols, st.integers(0, 99))
def test_an_order_id_is_short_plain_and_the_same_each_time(ledger: str, end_ns: int, symbol: str, n: int) -> None:
    order_id = client_order_id(ledger, end_ns, symbol, n)

    assert re.fullmatch(r"[A-Za-z0-9_.-]+", order_id) and len(order_id) <= ID_LENGTH_MAX
    assert order_id == client_order_id(ledger, end_ns, symbol, n)


def test_ids_differ_in_ledger_bar_symbol_and_number() -> None:
    bar = 1_356_123_600_000_000_000
    ids = {
        client_order_id("paper", bar, "AAPL", 0),
        client_order_id("live", bar, "AAPL", 0),
        client_order_id("paper", bar + 60_000_000_000, "AAPL", 0),
        client_order_id("paper", bar, "AAPL", 1),
        client_order_id("paper", bar, "BRK.B", 0),
        client_order_id("paper", bar, "BRK/B", 0),
        client_order_id("paper", bar, "BRK_B", 0),
    }

    assert len(ids) == 7
    assert len({decision_id("paper", bar), decision_id("live", bar), decision_id("paper", bar + 1)}) == 3
