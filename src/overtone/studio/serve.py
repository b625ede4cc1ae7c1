"""The studio's server: what it answers, to whom, and how much it takes in."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from anyio import move_on_after, to_thread

from overtone.errors import OvertoneError, first_line
from overtone.studio.limits import Limits, is_session
from overtone.studio.scratch import Scratch
from overtone.studio.shelf import Shelf
from overtone.studio.uploads import Uploads

if TYPE_CHECKING:
    from overtone.studio.turns import Turns

BODY = 2**20
"""bytes that a request may have beside an uploaded file"""
SLOWEST = 60.0
"""seconds in which a request's body has to come"""
MADE = "made"
"""the folder of the pictures that were made here"""
LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")


PAGES = ("/", "/config", "/theme.css", "/favicon.ico", "/manifest.json")
FILES = ("/assets/", "/static/", "/gradio_api/file=/", "/gradio_api/heartbeat/")
CALLS = (
    "app_id", "info", "login_check", "queue/data", "queue/join", "reset",
    "startup-events", "upload", "upload_progress",
)  # fmt: skip
"""What the page asks of gradio's server. All else, which may go round the queue or fetch what a
visitor names, is not there. Nor is "cancel", which gives the turn to the next while the thread
computes on."""


class Answering:
    """An ASGI application that answers what the page asks for and nothing else, and whose failures
    are one line of the log. `turns` is told who listens for answers."""

    def __init__(self, app: Any, turns: Turns) -> None:
        self.app, self.turns = app, turns

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        session = _session_of(scope)
        if not _is_asked(scope["path"]) or (session is not None and not is_session(session)):
            await _drained(receive, BODY)
            await _refused(send, 404, "This is not a page of the studio.")
            return
        begun = False

        async def sending(message: Any) -> None:
            nonlocal begun
            begun = True
            await send(message)

        listens = self.turns.listens(session) if session else contextlib.nullcontext()
        try:
            with listens:
                await self.app(scope, receive, sending)
        except Exception as error:
            print(f"overtone: {scope['path'][:80]!r}: {first_line(error)}", file=sys.stderr)
            if not begun:
                await _refused(send, 500, "The studio can't answer that.")


def _is_asked(path: str) -> bool:
    name = path.removeprefix("/gradio_api/").removesuffix("/")
    return path in PAGES or path.startswith(FILES) or (path != name and name in CALLS)


def _session_of(scope: Any) -> str | None:
    """The name of the session that a request listens for; None for a request of another kind."""
    path: str = scope["path"].rstrip("/")
    if path.startswith("/gradio_api/heartbeat/"):
        return path.rpartition("/")[2]
    if path != "/gradio_api/queue/data":
        return None
    asked = parse_qs(scope["query_string"].decode("latin-1"))
    return asked.get("session_hash", [""])[0]


class Bounded:
    """An ASGI application that reads no more of a request than is allowed, in no more seconds, and
    takes no upload where the disk that is set aside is full."""

    def __init__(self, app: Any, limits: Limits, uploads: Uploads) -> None:
        self.app, self.limits, self.uploads = app, limits, uploads

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        uploads = scope["path"].endswith("/upload")
        most = BODY + (self.limits.upload if uploads else 0)
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > most:
            await _drained(receive, 8 * most)
            await _refused(send, 413, f"A request has at most {most:,} bytes here.")
            return
        if uploads and not await to_thread.run_sync(self.uploads.takes, int(length)):
            await _drained(receive, most)
            await _refused(send, 507, "There is no more room for pictures: try in ten minutes.")
            return
        taken, more, until = 0, True, time.monotonic() + SLOWEST

        async def bounded() -> Any:
            nonlocal taken, more
            if not more:  # who listens for answers may stay
                return await receive()
            with move_on_after(until - time.monotonic()):
                message = await receive()
                taken, more = taken + len(message.get("body", b"")), message.get("more_body", False)
                if taken <= most:  # a request need not say how long it is
                    return message
            more = False
            return {"type": "http.disconnect"}

        await self.app(scope, bounded, send)


class SameOrigin:
    """An ASGI application that answers no form which a page of another address sends."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            origin = headers.get(b"origin")
            host = headers.get(b"host", b"")
            if origin is not None and origin not in (b"http://" + host, b"https://" + host):
                await _drained(receive, BODY)
                await _refused(send, 403, "This request comes from a page of another address.")
                return
        await self.app(scope, receive, send)


async def _drained(receive: Any, most: int) -> None:
    """Read on, and keep nothing: who is still sending does not hear an answer."""
    taken, more = 0, True
    with move_on_after(SLOWEST):
        while more and taken < most:
            message = await receive()
            taken += len(message.get("body", b""))
            more = message.get("more_body", False)


async def _refused(send: Any, status: int, words: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": words.encode()})


def application(shelf: Shelf, limits: Limits, folder: Path, hosts: Iterable[str]) -> Any:
    """The ASGI application. `folder` is the only one whose files are served; `hosts` are the names
    that a browser may know it by, so that no other page can talk to it in a visitor's name; "*" is
    any, for what others can reach."""
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio as gr
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from overtone.studio.page import MENDED, STYLE, page_of, theme
    from overtone.studio.studio import Studio

    page = page_of(Studio(shelf, limits, Scratch(folder / MADE, limits.disk)))
    turns: Any = page._queue
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app = gr.mount_gradio_app(
        app,
        page,
        path="/",
        allowed_paths=[str(folder / MADE)],
        show_error=False,
        max_file_size=limits.upload,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        theme=theme(),
        css=STYLE,
        head=MENDED,
    )
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    if "*" not in hosts:  # a server that stands before this one may call it by another name
        app.add_middleware(SameOrigin)
    return Bounded(Answering(app, turns), limits, Uploads(folder, limits.disk, MADE))


def serve(shelf: Shelf, limits: Limits, host: str, port: int, opened: Any = print) -> None:
    """Answer until Ctrl-C. `opened` is told the address."""
    try:
        import gradio  # noqa: F401
        import uvicorn
    except ImportError:
        raise OvertoneError(
            "the studio needs gradio: pip install -c constraints.txt '.[studio]'"
        ) from None
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with (
        socket.socket(family) as listening,
        tempfile.TemporaryDirectory(prefix="overtone-studio-") as folder,
    ):
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except OSError as error:
            raise OvertoneError(
                f"{host}, port {port}: {error.strerror or error}. Another program may have it:"
                " choose another --port, or 0 for any that is free."
            ) from None
        hosts = ["*"] if host not in LOOPBACK else LOOPBACK
        app = application(shelf, limits, Path(folder), hosts)
        shown = f"[{host}]" if ":" in host else host
        opened(f"http://{shown}:{listening.getsockname()[1]}")
        from overtone.studio.connections import Connection

        # uvicorn ends, and then sends itself the signal again: the folder is to be removed first.
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        config = uvicorn.Config(app, http=Connection, log_level="warning", timeout_keep_alive=30)
        uvicorn.Server(config).run(sockets=[listening])
