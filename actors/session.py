"""The session actor: where the exchange's day stands, told at every change of phase."""

from collections.abc import Sequence

from actors.kernel import Actor, Ref
from actors.messages import SessionMessage, SessionPhaseChanged, TimerFired
from algo_royale.sessions import Calendar

SECOND_NS = 1_000_000_000


class SessionActor(Actor[SessionMessage]):
    """Announces pre_market, open and closed from the exchange calendar.

    It keeps no state of its own: the phase is a function of the calendar and the clock, so a restart announces the
    current phase again. Listeners take a repeated phase as no change.
    """

    def __init__(
        self, calendar: Calendar, listeners: Sequence[Ref[SessionPhaseChanged]], *, pre_market_s: int = 1800
    ) -> None:
        self._calendar, self._listeners = calendar, listeners
        self._pre_market_ns = pre_market_s * SECOND_NS

    def started(self) -> None:
        self._announce()

    def receive(self, message: SessionMessage) -> None:
        self._announce()

    def _announce(self) -> None:
        session = self._calendar.session_at(self.now_ns)
        if session is not None:
            phase, until_ns = "open", session.close_ns
        else:
            session = self._calendar.next_session(self.now_ns)
            if self.now_ns >= session.open_ns - self._pre_market_ns:
                phase, until_ns = "pre_market", session.open_ns
            else:
                phase, until_ns = "closed", session.open_ns - self._pre_market_ns
                session = self._calendar.previous_session(self.now_ns)
        for listener in self._listeners:
            self.tell(
                listener,
                SessionPhaseChanged(
                    at_ns=self.now_ns,
                    session_date=session.date.isoformat(),
                    phase=phase,
                    open_ns=session.open_ns,
                    close_ns=session.close_ns,
                ),
            )
        self.at(until_ns, TimerFired(at_ns=until_ns, name="phase"), key="phase")
