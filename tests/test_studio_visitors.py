"""Visitors of the studio who mean no good: what they may take of its queue, its disk, its memory
and its connections."""

import asyncio
import contextlib
import os
import signal
import socket
import threading
import time
from types import SimpleNamespace

import httpx
import pytest
import uvicorn
from gradio.queueing import EventQueue

from helpers import TINY_DIFFIT, awake
from overtone.errors import OvertoneError
from overtone.pipelines import Pipeline
from overtone.samplers import Sampler
from overtone.samplers.schedulers import scheduler_sampler
from overtone.studio import connections, uploads
from overtone.studio.limits import is_session
from overtone.studio.receipts import paragraphs
from overtone.studio.turns import OF_ONE, PATIENCE, Inboxes, Turns
from overtone.studio.uploads import LEAST, Uploads
from served import served


def a_model():
    return Pipeline(awake(TINY_DIFFIT.build()), Sampler(4))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    with served(folder, {"model": a_model()}) as (process, address):
        yield process, address, next(folder.glob("overtone-studio-*"))


@pytest.fixture
def turns():
    async def made():
        given = {"live_updates": True, "concurrency_count": 2, "update_intervals": 1}
        return Turns(max_size=300, blocks=None, default_concurrency_limit=1, **given)

    found = asyncio.run(made())
    found.event_queue_per_concurrency_id["model"] = EventQueue("model", 1)
    return found


class Answer:
    """A function of the page."""

    batch = False


ANSWER = Answer()


def waits(turns, session, number, since=0.0):
    """A request that has waited since so many seconds."""
    event = SimpleNamespace(
        session_hash=session,
        _id=f"{session}{number}",
        alive=True,
        fn=ANSWER,
        concurrency_id="model",
    )
    turns.event_queue_per_concurrency_id["model"].queue.append(event)
    turns.event_analytics[event._id] = {"time": time.time() - since}
    turns.event_ids_to_events[event._id] = event
    return event


@pytest.mark.parametrize("name", ["", "a" * 65, "\ud800", "a<gradio-sep>b", "a b", "ä", None, 3])
def test_a_session_has_a_name_that_a_page_could_choose(name):
    assert not is_session(name)
    assert is_session("aB3_-")


def test_other_names_of_sessions_are_refused(server):
    _, address, _ = server
    with httpx.Client(base_url=address) as client:
        for name in ("a" * 65, "a<gradio-sep>b<gradio-sep>c", "\ud800"):
            text = '{"data": [], "fn_index": 0, "session_hash": "%s"}'
            body = (text % name.encode("unicode_escape").decode()).encode()
            headers = {"content-type": "application/json"}
            answer = client.post("/gradio_api/queue/join", content=body, headers=headers)
            assert answer.status_code == 400, name
            assert "name of a session" in answer.text
        for route in ("queue/data?session_hash=a%20b", "queue/data", "heartbeat/a%20b"):
            assert client.get(f"/gradio_api/{route}").status_code == 404, route


def test_requests_of_those_who_do_not_listen_are_left_out(turns):
    turns.active_jobs = [[waits(turns, "answered", 0)]]
    turns.event_queue_per_concurrency_id["model"].queue.clear()
    old, new, heard = (
        waits(turns, "old", 1, 2 * PATIENCE),
        waits(turns, "new", 1),
        waits(turns, "heard", 1, 2 * PATIENCE),
    )
    with turns.listens("heard"), turns.listens("heard"):
        turns.get_events()
        left = [*turns._waiting(), *(e for job in turns.active_jobs for e in job)]
        assert old not in left
        assert "old1" not in turns.event_ids_to_events
        turns._looked = 0.0
        turns._leave_out_absent()
        assert {new._id, heard._id} >= {event._id for event in turns._waiting()}
    assert not turns._listening


def test_a_visitor_has_few_requests_that_wait(turns):
    for number in range(OF_ONE):
        waits(turns, "greedy", number)
    body = SimpleNamespace(session_hash="greedy", fn_index=0)
    done, words, state = asyncio.run(turns.push(body, None, None))
    assert (done, state) == (False, "queue_full")
    assert f"{OF_ONE} requests that wait" in words


def test_a_session_that_waits_is_not_forgotten_for_others():
    noted = {name: {1} for name in ("first", "second", "third", "fifth")}
    inboxes = Inboxes(3, lambda: {"first"}, noted)
    for name in ("first", "second", "third", "fourth", "fifth"):
        inboxes[name] = name
    assert list(inboxes) == ["first", "fourth", "fifth"]
    assert set(noted) == {"first", "fifth"}
    inboxes["fifth"] = "again"
    assert len(inboxes) == 3


def test_a_message_for_a_forgotten_session_stops_nobody(turns):
    turns.send_message(waits(turns, "gone", 1), SimpleNamespace(event_id=None))
    turns.broadcast_estimations("model")
    assert turns._sessions() == {"gone"}


def test_uploads_count_until_they_are_gone(tmp_path, monkeypatch):
    """Every file counts, those of failed uploads and empty ones too, and old ones of these go."""
    for name in ("made", "one", "empty", "old"):
        (tmp_path / name).mkdir()
    (tmp_path / "made" / "a.png").write_bytes(bytes(10 * LEAST))
    (tmp_path / "one" / "a.png").write_bytes(bytes(3 * LEAST))
    (tmp_path / "one" / "b.png").write_bytes(b"")
    (tmp_path / "tmp1").write_bytes(bytes(2 * LEAST))
    (tmp_path / "tmp2").write_bytes(b"")
    for name in ("old", "tmp2"):
        os.utime(tmp_path / name, (1, 1))
    own = Uploads(tmp_path, 8 * LEAST, "made")
    assert own.takes(LEAST)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "made", "one", "tmp1"]
    assert own.takes(LEAST)  # 3 + 1 + 2 and two more
    assert own.takes(LEAST)
    assert not own.takes(1)
    (tmp_path / "one" / "a.png").unlink()
    assert not own.takes(1)
    monkeypatch.setattr(uploads, "FRESH", 0.0)
    assert own.takes(1)


def test_failed_uploads_take_no_room_for_ever(server):
    _, address, folder = server
    before = Uploads(folder, 2**30, "made")._count()
    with httpx.Client(base_url=address) as client:
        content = bytes(3 * LEAST)
        client.post("/gradio_api/upload", files={"x": ("a.png", content)})
        client.post("/gradio_api/upload", files={"files": ("..", content)})
    assert Uploads(folder, 2**30, "made")._count() >= before + 6 * LEAST


def test_words_of_a_receipt_are_text():
    said = paragraphs(["<img src=http://a/b> ![x](http://a/b) [y](http://c)" + "z" * 5_000])
    assert said.startswith("<p>&lt;img src=http://a/b&gt; ![x]")
    assert len(said) < 600


@pytest.mark.parametrize(
    "config",
    [
        {"solver_order": 30_000_000},
        {"num_train_timesteps": 10**9},
        {"num_train_timesteps": True},
        {"steps_offset": 10**12},
        {"final_sigmas": {"a": [10**12]}},
    ],
)
def test_a_scheduler_of_a_receipt_costs_little(config):
    for name in ("UniPCMultistepScheduler", "DPMSolverMultistepScheduler", "DDIMScheduler"):
        with pytest.raises(OvertoneError, match=f"{name}.*(beyond|at most)"):
            scheduler_sampler({"kind": name, "config": config, "num_steps": 4})


@pytest.fixture
def guarded(monkeypatch):
    """A server of few connections that may be silent for half a second, whose page takes one."""
    monkeypatch.setattr(connections, "SILENT", 0.5)
    monkeypatch.setattr(connections, "MOST", 4)

    async def page(scope, receive, send):
        await asyncio.sleep(1.5)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a page"})

    config = uvicorn.Config(page, http=connections.Connection, port=0, lifespan="off")
    server = uvicorn.Server(config)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield listening.getsockname()
        server.should_exit = True
        thread.join(30)


def test_a_connection_that_says_nothing_is_closed(guarded):
    for sent in (b"", b"GET / HTTP/1.1\r\nx-a: "):
        with socket.create_connection(guarded, timeout=10) as connection:
            connection.sendall(sent)
            assert connection.recv(100) == b""
    answer = httpx.get("http://{}:{}/".format(*guarded))  # which takes longer than that
    assert answer.text == "a page"


def test_connections_beyond_the_most_are_refused(guarded):
    kept = [socket.create_connection(guarded, timeout=10) for _ in range(4)]
    one_more = socket.create_connection(guarded, timeout=10)
    with one_more, contextlib.suppress(ConnectionResetError):
        assert one_more.recv(100) == b""
    for connection in kept:
        connection.close()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "ended"), [(signal.SIGTERM, (143,)), (signal.SIGINT, (0, 130))])
def test_a_studio_that_is_ended_leaves_nothing(tmp_path, number, ended):
    with served(tmp_path, {"model": a_model()}, ended=ended) as (process, address):
        httpx.post(f"{address}/gradio_api/upload", files={"files": ("a.png", b"x")})
        assert list(tmp_path.glob("overtone-studio-*"))
        process.send_signal(number)
        assert process.wait(30) in ended
        assert not list(tmp_path.glob("overtone-studio-*"))
