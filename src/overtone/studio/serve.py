"""The studio's server: what it answers, to whom, and how much it takes in."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from anyio import to_thread

from overtone.errors import OvertoneError, first_line
from overtone.studio.limits import KEPT, Limits
from overtone.studio.scratch import Scratch
from overtone.studio.shelf import Shelf

BODY = 2**20
"""bytes that a request may have beside an uploaded file"""
MADE = "made"
"""the folder of the pictures that were made here"""
LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")


PAGES = ("/", "/config", "/theme.css", "/favicon.ico", "/manifest.json")
FILES = ("/assets/", "/static/", "/gradio_api/file=/", "/gradio_api/heartbeat/")
CALLS = (
    "app_id", "cancel", "info", "login_check", "queue/data", "queue/join", "reset",
    "startup-events", "upload", "upload_progress",
)  # fmt: skip
"""What the page asks of gradio's server. All else, which may go round the queue or fetch what a
visitor names, is not there."""


class Answering:
    """An ASGI application that answers what the page asks for and nothing else, and whose failures
    are one line of the log."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        if not _is_asked(scope["path"]):
            await _drained(receive, BODY)
            await _refused(send, 404, "This is not a page of the studio.")
            return
        begun = False

        async def sending(message: Any) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, sending)
        except Exception as error:
            print(f"overtone: {scope['path'][:80]!r}: {first_line(error)}", file=sys.stderr)
            if not begun:
                await _refused(send, 500, "The studio can't answer that.")


def _is_asked(path: str) -> bool:
    name = path.removeprefix("/gradio_api/").removesuffix("/")
    return path in PAGES or path.startswith(FILES) or (path != name and name in CALLS)


class Bounded:
    """An ASGI application that reads no more of a request than is allowed, and takes no upload
    where the disk that is set aside is full."""

    def __init__(self, app: Any, limits: Limits, folder: Path) -> None:
        self.app, self.limits, self.folder = app, limits, folder

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
        if uploads and await to_thread.run_sync(_uploaded, self.folder) > self.limits.disk:
            await _drained(receive, most)
            await _refused(send, 507, "There is no more room for pictures: try in ten minutes.")
            return
        taken = 0

        async def bounded() -> Any:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > most:  # of a request that does not say how long it is
                return {"type": "http.disconnect"}
            return message

        await self.app(scope, bounded, send)


class SameOrigin:
    """An ASGI application that answers no form which a page of another address sends."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD"):
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
    while more and taken < most:
        message = await receive()
        taken += len(message.get("body", b""))
        more = message.get("more_body", False)


async def _refused(send: Any, status: int, words: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": words.encode()})


def _uploaded(folder: Path) -> int:
    """The bytes of the files that visitors gave. Folders whose file is gone are removed."""
    sizes, old = 0, time.time() - KEPT
    for place in folder.iterdir():
        if place.name == MADE or not place.is_dir():
            continue
        with contextlib.suppress(OSError):  # removed meanwhile
            sizes += sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
            if place.stat().st_mtime < old:
                place.rmdir()  # an error, unless it is empty
    return sizes


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
    return Bounded(Answering(app), limits, folder)


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
        config = uvicorn.Config(app, log_level="warning", timeout_keep_alive=30)
        uvicorn.Server(config).run(sockets=[listening])
