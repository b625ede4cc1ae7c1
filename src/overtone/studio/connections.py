"""Connections of the studio's server: how many there are, and how long one may say nothing."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

MOST = 512
"""connections at a time"""
SILENT = 20.0
"""seconds in which a connection has to send a whole request's headers"""

Protocol: Any = AutoHTTPProtocol


class Connection(Protocol):
    """uvicorn's connection, which is closed where there are too many, and where no request comes of
    it in time."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._seen = self.cycle
        if len(self.connections) > MOST:
            transport.abort()
            return
        self.loop.call_later(SILENT, self._look)

    def _look(self) -> None:
        if self.transport.is_closing():
            return
        answering = self.cycle is not None and not self.cycle.response_complete
        if not answering and self.cycle is self._seen:
            self.transport.close()
            return
        self._seen = self.cycle
        self.loop.call_later(SILENT, self._look)
