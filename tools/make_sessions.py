"""Write algo_royale/xnys.txt: the days on which New York's exchange does not keep its ordinary hours.

    python tools/make_sessions.py [--check]

Importing exchange_calendars takes seconds, and every command would pay them; its answer for 1998 to 2035 fits in a few kilobytes.
"""

import sys
from datetime import date, timedelta
from pathlib import Path

FIRST, LAST = date(1998, 1, 1), date(2035, 12, 31)
TARGET = Path(__file__).parent.parent / "algo_royale" / "xnys.txt"


def table() -> str:
    """The table's text. Raises SystemExit where the compact form cannot say what exchange_calendars says."""
    import exchange_calendars

    schedule = exchange_calendars.get_calendar("XNYS", start=FIRST.isoformat(), end=LAST.isoformat()).schedule
    hours = {
        index.date(): (row.open.tz_convert("America/New_York").time(), row.close.tz_convert("America/New_York").time())
        for index, row in schedule.iterrows()
    }
    lines = [
        f"# XNYS from exchange_calendars {exchange_calendars.__version__}, made by tools/make_sessions.py. Do not edit.",
        "# Weekdays 09:30-16:00 New York, but for: closed DATE, early DATE CLOSE.",
        f"range {FIRST} {LAST}",
    ]
    day = FIRST
    while day <= LAST:
        if day.weekday() < 5 and day not in hours:
            lines.append(f"closed {day}")
        elif day in hours:
            opens, closes = hours[day]
            if day.weekday() > 4 or f"{opens:%H:%M:%S}" != "09:30:00":
                raise SystemExit(f"{day} opens at {opens}: the table cannot say that")
            if f"{closes:%H:%M:%S}" != "16:00:00":
                lines.append(f"early {day} {closes:%H:%M}")
        day += timedelta(days=1)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    text = table()
    if "--check" in sys.argv[1:]:
        if TARGET.read_text() != text:
            raise SystemExit(f"{TARGET} differs from exchange_calendars; run tools/make_sessions.py")
    else:
        TARGET.write_text(text)
        print(f"{TARGET}: {len(text)} bytes")
