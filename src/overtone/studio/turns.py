"""Who waits for an answer of the studio, and how much is kept of those who don't."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from gradio.queueing import Queue
from gradio.server_messages import ProcessCompletedMessage

from overtone.studio.limits import is_session

SESSIONS = 256
"""visitors whose last values are kept, the most recent ones"""
HEARD = 2_000
"""visitors whose messages are kept until they fetch them, the most recent ones"""
OF_ONE = 16
"""the most requests of one visitor that wait"""
PATIENCE = 15.0
"""seconds that a request waits for a visitor who does not listen for its answer"""


class Inboxes(dict[str, Any]):
    """The messages of sessions. If there are too many, the oldest session that waits for nothing is
    forgotten. What `noted` holds of a session is forgotten with it."""

    def __init__(self, most: int, waiting: Callable[[], set[str]], noted: dict[str, Any]) -> None:
        super().__init__()
        self._most, self._waiting, self._noted = most, waiting, noted

    def __setitem__(self, session: str, messages: Any) -> None:
        if session not in self and len(self) >= self._most:
            waiting = self._waiting()
            gone = next((name for name in self if name not in waiting), None)
            if gone is not None:
                del self[gone]
        super().__setitem__(session, messages)

    def __delitem__(self, session: str) -> None:
        super().__delitem__(session)
        self._noted.pop(session, None)


class Turns(Queue):
    """gradio's queue, for visitors who may be anybody.

    It refuses names of sessions that no page chooses and more than `OF_ONE` waiting requests of a
    session; a request whose visitor does not listen is left out; a session that is forgotten stops
    nobody else's answers; and no statistics of answers are computed.
    """

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        inboxes: Any = Inboxes(HEARD, self._sessions, self.pending_event_ids_session)
        self.pending_messages_per_session = inboxes
        self._listening: Counter[str] = Counter()
        self._looked = 0.0

    @contextlib.contextmanager
    def listens(self, session: str) -> Iterator[None]:
        """While a visitor is connected to hear of answers."""
        self._listening[session] += 1
        try:
            yield
        finally:
            self._listening[session] -= 1
            if not self._listening[session]:
                del self._listening[session]

    async def push(self, body: Any, request: Any, username: Any) -> Any:
        """A request takes its place in the queue, or is refused in a sentence."""
        if not is_session(body.session_hash):
            return False, "This is not the name of a session. Load the page again.", "error"
        waiting = sum(event.session_hash == body.session_hash for event in self._waiting())
        if waiting >= OF_ONE:
            return False, f"You have {waiting} requests that wait: {OF_ONE} may.", "queue_full"
        return await super().push(body, request, username)

    def send_message(self, event: Any, event_message: Any) -> None:
        with contextlib.suppress(KeyError):  # of a session that was forgotten meanwhile
            super().send_message(event, event_message)

    def get_events(self) -> Any:
        self._leave_out_absent()
        return super().get_events()

    def compute_analytics_summary(self, records: Any) -> Any:
        return self.cached_event_analytics_summary

    def _waiting(self) -> Iterator[Any]:
        for own in self.event_queue_per_concurrency_id.values():
            yield from own.queue

    def _sessions(self) -> set[str]:
        """The sessions that listen, or have a request that waits or is answered now."""
        events = [*self._waiting(), *(e for job in self.active_jobs for e in job or ())]
        return {event.session_hash for event in events} | set(self._listening)

    def _leave_out_absent(self) -> None:
        """Once a second, drop requests whose visitor has not listened for long."""
        now = time.time()
        if now - self._looked < 1:
            return
        self._looked = now
        for own in self.event_queue_per_concurrency_id.values():
            for event in tuple(own.queue):
                since: Any = self.event_analytics.get(event._id, {}).get("time", 0.0)
                if event.session_hash not in self._listening and now - since > PATIENCE:
                    own.queue.remove(event)
                    self.event_ids_to_events.pop(event._id, None)
                    output = {"error": "Nobody listened for this answer. Ask again."}
                    self.send_message(event, ProcessCompletedMessage(output=output, success=False))
