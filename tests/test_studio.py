"""The studio without a browser: what may be asked, what is answered, and what is kept out."""

import asyncio
import base64
import dataclasses
import json
import math
import socket
import time

import gradio as gr
import httpx
import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from helpers import TINY_ADM, TINY_DIFFIT, awake
from overtone.cli.app import main
from overtone.denoisers import EDMPreconditioning, OperatorPreconditioning
from overtone.errors import OvertoneError
from overtone.networks.dsno import temporalize
from overtone.pipelines import Pipeline
from overtone.pipelines.receipt_files import read_receipt
from overtone.pipelines.starts import RelayStart
from overtone.processes import RelayProcess
from overtone.samplers import OperatorSampler, Sampler
from overtone.studio.draw import attention, picture_of, spectra, timeline
from overtone.studio.limits import Limits
from overtone.studio.live import frames
from overtone.studio.pictures import first_image
from overtone.studio.receipts import replayed
from overtone.studio.scratch import BLOCK, Scratch
from overtone.studio.serve import BODY
from overtone.studio.shelf import Shelf, models_here
from overtone.studio.studio import Studio
from overtone.studio.telling import UNKNOWN, told
from overtone.studio.wish import Wish
from pipeline_kinds import kinds_of_pipelines
from served import served

LIMITS = Limits()
RELAY = "relay"
UPLOAD = 2**16


def a_relay():
    first = Pipeline(awake(dataclasses.replace(TINY_ADM, resolution=4).build()), Sampler(4))
    network = awake(TINY_ADM.build())
    sampler = Sampler(5, sigma_min=0.01, sigma_max=0.9, estimate="two_step")
    return Pipeline(network, sampler, process=RelayProcess(patch=2), start=RelayStart(first))


def an_operator():
    return Pipeline(
        awake(temporalize(TINY_DIFFIT.build())),
        OperatorSampler((80.0, 2.0, 0.5, 0.0)),
        preconditioning=OperatorPreconditioning(EDMPreconditioning()),
    )


@pytest.fixture(scope="module")
def pipes():
    torch.manual_seed(0)
    made = kinds_of_pipelines() | {RELAY: a_relay(), "operator": an_operator()}
    return {name.replace(" ", "-"): pipe for name, pipe in made.items()}


@pytest.fixture
def studio(pipes, tmp_path):
    return Studio(Shelf(list(pipes), pipes.__getitem__, 20), LIMITS, Scratch(tmp_path, 2**20))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": -1}, "whole number from 0"),
        ({"seed": 2**32 - 1}, "whole number from 0"),
        ({"seed": 1.5}, "whole number"),
        ({"seed": "seven"}, "seed is a number"),
        ({"seed": " "}, "whole number"),
        ({"seed": "nan"}, "seed is a number"),
        ({"seed": "1e400"}, "seed is a number"),
        ({"seed": None}, "whole number"),
        ({"seed": math.nan}, "seed is a number"),
        ({"seed": [0]}, "seed is a number"),
        ({"seed": True}, "seed is a number"),
        ({"count": 0}, "1 to 64"),
        ({"count": 65}, "1 to 64"),
        ({"count": 10**30}, "1 to 64"),
        ({"count": {}}, "images is a number"),
        ({"classes": ["nine"]}, "nine"),
        ({"classes": [7]}, "chosen from the list"),
        ({"classes": [["0"]]}, "chosen from the list"),
        ({"classes": {"a": 1}}, "chosen from the list"),
        ({"guidance_scale": "big"}, "guidance scale is a number"),
        ({"guidance_scale": math.inf}, "guidance scale is a number"),
        ({"high_scale": []}, "high frequencies is a number"),
        ({"guidance_low": "a"}, "lowest sigma"),
        ({"guidance_low": 2.0, "guidance_high": 1.0}, "interval"),
        ({"evaluations": 0}, "1 to 256"),
        ({"evaluations": 257}, "1 to 256"),
        ({"evaluations": 2.5}, "whole number"),
        ({"evaluations": "4; rm"}, "evaluations is a number"),
    ],
)  # fmt: skip
def test_what_no_visitor_can_ask(pipes, changes, words):
    pipe, wish = pipes["EDM"], Wish(**{"count": 2} | changes)
    with pytest.raises((OvertoneError, ValueError), match=words):
        list(frames(pipe, wish.request(pipe, LIMITS)))


def test_a_wish_becomes_a_request(pipes):
    wish = Wish(5, "3", ["2", "0"], " 1.0 ", 0.5, "", None, "4")
    request = wish.request(pipes["EDM"], LIMITS)
    assert list(request.seeds) == [5, 6, 7]
    assert list(request.class_labels) == [2, 0, 2]
    assert request.guidance_interval == (0.5, math.inf)
    few = dataclasses.replace(LIMITS, pixels=8 * 8 * 4)
    with pytest.raises(OvertoneError, match="4 at most"):
        Wish(0, 5).request(pipes["EDM"], few)
    slow = dataclasses.replace(LIMITS, evaluations=8)
    with pytest.raises(
        OvertoneError, match="17 function evaluations per image, and 8 are the most"
    ):
        Wish(0, 1).request(pipes["EDM"], slow)


def test_the_last_frame_is_what_the_pipeline_makes(studio):
    for name in studio.shelf.names:
        pipe, request = studio.asked(name, Wish(3, 2))
        found = list(frames(pipe, request))
        batch = next(pipe.stream(request))
        assert torch.equal(found[-1].images, batch.images), name
        assert torch.equal(found[-1].batch.images, batch.images)
        assert found[-1].sigma == 0
        assert [frame.step for frame in found] == list(range(1, len(found) + 1))
        assert all(frame.batch is None for frame in found[:-1])
        sigmas = [frame.sigma for frame in found]
        assert sigmas == sorted(sigmas, reverse=True)
        if name == "experts":
            levels = [pipe.sampler.sigma_start, *sigmas[:-1]]
            assert [frame.expert for frame in found] == [2 if s > 1 else 1 for s in levels]
        assert timeline(pipe, request, found[0]).startswith(("<figure", "<p>"))


def test_every_answer_is_limited_in_time(pipes):
    pipe, short = pipes["EDM"], dataclasses.replace(LIMITS, seconds=1e-9)

    def answers():
        yield from frames(pipe, Wish(0, 1).request(pipe, LIMITS))

    with pytest.raises(gr.Error, match="longer than the 1e-09 seconds"):
        list(told(answers, short)())
    picture = Image.new("L", (8, 8))
    for answer in (
        lambda: pipe.edit(picture, 0.5, None, 0, [0]),
        lambda: attention(pipes["EDM"], Wish(0, 1).request(pipe, LIMITS)),
        lambda: pipes["latents"](seeds=[0], class_labels=0),
    ):
        with pytest.raises(gr.Error, match="longer than the 1e-09 seconds"):
            told(answer, short)()
        told(answer, LIMITS)()
    abandoned = told(answers, short)()
    with pytest.raises(gr.Error):
        next(abandoned)
    lingering = told(answers, LIMITS)()
    next(lingering)
    assert len(told(lambda: pipe(seeds=[0, 1]), LIMITS)()) == 2
    lingering.close()
    pipe(seeds=[0])


def test_a_relay_shows_its_first_stage_beside_its_image(studio):
    pipe, request = studio.asked(RELAY, Wish(3, 1))
    small = first_image(pipe, request)
    first = pipe.start.pipeline
    (made,) = first(seeds=[3], class_labels=pipe.labels(request) if first.num_classes else None)
    assert np.array_equal(np.asarray(small), np.asarray(made))


def test_a_timeline_names_each_expert(pipes):
    pipe = pipes["experts"]
    drawn = timeline(pipe, Wish(0, 1).request(pipe, LIMITS))
    assert "expert 2 from sigma inf to 1" in drawn
    assert drawn.count("<rect") == 2
    operator = pipes["operator"]
    assert "One evaluation" in timeline(operator, Wish(0, 1).request(operator, LIMITS))


def test_attention_is_that_of_every_place(pipes):
    pipe = pipes["EDM"]
    found = json.loads(attention(pipe, Wish(0, 1).request(pipe, LIMITS)))
    assert (found["rows"], found["columns"], len(found["levels"])) == (8, 8, 5)
    for level in found["levels"]:
        assert level["picture"].startswith("data:image/png;base64,")
        for layer in level["layers"].values():
            weights = base64.b64decode(layer["weights"])
            places = math.prod(layer["shape"])
            assert len(weights) == 64 * places
            rows = [weights[i : i + places] for i in range(0, len(weights), places)]
            assert all(max(row) == 255 for row in rows)  # each query's largest weight
            assert len(set(rows)) > 1
    with pytest.raises(OvertoneError, match="one evaluation"):
        attention(pipes["operator"], Wish(0, 1).request(pipes["operator"], LIMITS))


def test_pictures_and_spectra(pipes):
    images = next(pipes["EDM"].stream(range(4))).images
    assert picture_of(images).width >= 500
    assert spectra({"a": images, "b": images}).width > 300


def test_files_carry_receipts_and_are_replayed(studio):
    pipe, request = studio.asked("EDM", Wish(3, 2))
    batch = next(pipe.stream(request))
    whole, singles = studio.files("EDM", pipe, request, batch)
    assert read_receipt(whole).seeds == "3-4"
    assert [caption for _, caption in singles] == ["seed 3, 0", "seed 4, 1"]
    before = pipe.sampler, pipe.guidance
    images, words = replayed(studio, singles[1][0])
    assert torch.equal(images[0], batch.images[1])
    assert "1 of 1 images are the very same" in words[0]
    assert (pipe.sampler, pipe.guidance) == before
    relay, asked = studio.asked(RELAY, Wish(0, 2))
    whole, _ = studio.files(RELAY, relay, asked, next(relay.stream(asked)))
    assert "2 of 2 images" in replayed(studio, whole)[1][0]


def test_a_receipt_that_asks_for_much_is_refused(studio, tmp_path):
    pipe, request = studio.asked("EDM", Wish(3, 2))
    _, singles = studio.files("EDM", pipe, request, next(pipe.stream(request)))
    receipt = read_receipt(singles[0][0]).as_json()
    file = tmp_path / "receipt.json"
    many = json.loads(json.dumps(receipt))
    many["sampler"]["num_steps"] = 9_000
    file.write_text(json.dumps(many))
    with pytest.raises(OvertoneError, match="256 are the most"):
        replayed(studio, str(file))
    config = {"solver_order": 10**9}
    many["sampler"] = {"kind": "UniPCMultistepScheduler", "config": config, "num_steps": 4}
    file.write_text(json.dumps(many))
    with pytest.raises(OvertoneError, match=r"UniPC.* number beyond"):
        replayed(studio, str(file))
    long = receipt | {"seeds": ",".join(map(str, range(100_000)))}
    file.write_text(json.dumps(long))
    with pytest.raises(OvertoneError, match="more seeds"):
        replayed(studio, str(file))
    many = receipt | {"seeds": "0-999999", "seed": 3, "batch_size": 1_000_000, "class_labels": []}
    file.write_text(json.dumps(many))
    with pytest.raises(OvertoneError):
        replayed(studio, str(file))
    for text in ("", "{}", "[1]", "\x89PNG\r\n\x1a\n", '{"receipt": 1}'):
        file.write_bytes(text.encode("latin-1"))
        with pytest.raises(OvertoneError, match="the file"):
            replayed(studio, str(file))
    other = receipt | {"weights": "0" * 16}
    file.write_text(json.dumps(other))
    with pytest.raises(OvertoneError, match="None of the models"):
        replayed(studio, str(file))


def test_pictures_of_visitors(studio, tmp_path):
    with pytest.raises(OvertoneError, match="Choose a picture"):
        studio.picture(None)
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"):
        file = tmp_path / f"{mode.replace(';', '')}.{'tif' if mode in ('CMYK', 'I;16') else 'png'}"
        Image.new(mode, (20, 30)).save(file)
        assert studio.picture(str(file)).size == (20, 30)
    bomb = tmp_path / "bomb.png"
    Image.new("L", (3_000, 3_000)).save(bomb)
    with pytest.raises(OvertoneError, match=r"the picture can't be read .*most"):
        studio.picture(str(bomb))
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(bomb.read_bytes()[:500])
    text = tmp_path / "text.png"
    text.write_text("<svg/>")
    for file in (damaged, text):
        with pytest.raises(OvertoneError, match="the picture can't be read"):
            studio.picture(str(file))
    large = Studio(studio.shelf, dataclasses.replace(LIMITS, upload=100), studio.scratch)
    with pytest.raises(OvertoneError, match="100 bytes"):
        large.picture(str(bomb))


def test_a_shelf_opens_what_it_names_and_keeps_few():
    opened = []

    def open_model(name):
        opened.append(name)
        return object()

    shelf = Shelf(["a", "b", "a", "c"], open_model, 2)
    assert shelf.names == ["a", "b", "c"]
    assert shelf["a"] is shelf["a"]
    shelf["b"], shelf["c"], shelf["a"]
    assert opened == ["a", "b", "c", "a"]
    for name in ("d", "", "../a", None, 3, ["a"]):
        with pytest.raises(OvertoneError, match="does not show"):
            shelf[name]
    with pytest.raises(OvertoneError, match="no model to show"):
        Shelf([], open_model)


def test_visitors_see_no_directory_of_the_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = []
    for place in ("here/a", "models/digits", "../a", "elsewhere/a"):
        (tmp_path / place).mkdir(parents=True)
        names.append(str(tmp_path / place) if place.startswith("e") else place)
    shelf = Shelf([*names, "you/cats", "~/b"], lambda name: name)
    assert shelf.names == ["here/a", "models/digits", "a", "a (2)", "you/cats", "~/b"]
    assert [shelf[name] for name in shelf.names] == [*names, "you/cats", "~/b"]


def test_a_damaged_model_that_nobody_named_is_left_out():
    def open_model(name):
        if name != "good":
            raise OvertoneError("its weights are damaged.")
        return object()

    heard = []
    shelf = Shelf(["bad", "good", "worse"], open_model)
    shelf.leave_out(heard.append)
    assert shelf.names == ["good"]
    assert heard == [f"{name} is left out: its weights are damaged." for name in ("bad", "worse")]
    with pytest.raises(OvertoneError, match="none of these"):
        Shelf(["bad"], open_model).leave_out(heard.append)


def test_a_port_that_is_taken_is_said(pipes, tmp_path, capsys):
    pipes["EDM"].save_pretrained(tmp_path / "digits")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as ended:
            main(["studio", str(tmp_path / "digits"), "--port", str(port)])
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert f"port {port}" in said
    assert "--port" in said
    assert "Traceback" not in said


def test_models_here_are_saved_ones_and_runs(pipes, tmp_path):
    pipes["EDM"].save_pretrained(tmp_path / "models" / "digits")
    (tmp_path / "models" / "none").mkdir()
    (tmp_path / "runs" / "none").mkdir(parents=True)
    assert models_here(tmp_path) == [str(tmp_path / "models" / "digits")]


def test_scratch_does_not_grow(tmp_path):
    scratch = Scratch(tmp_path, most=7 * BLOCK, spared=2)  # a folder and a small file are 2 blocks
    files = [scratch.write("a.bin", lambda file: file.write_bytes(bytes(300))) for _ in range(10)]
    assert len(set(files)) == 10
    assert len(list(tmp_path.iterdir())) == 3
    large = [scratch.write("a.bin", lambda file: file.write_bytes(bytes(9 * BLOCK))) for _ in "abc"]
    assert sorted(map(str, tmp_path.rglob("*.bin"))) == sorted(large[1:])  # the spared ones


def test_errors_are_text_and_tell_no_secrets(capsys):
    def answer(error):
        raise error

    def answers(error):
        yield 1
        raise error

    for made in (told(answer, LIMITS), lambda error: list(told(answers, LIMITS)(error))):
        with pytest.raises(gr.Error) as raised:
            made(OvertoneError("no <script>alert(1)</script> class"))
        assert "<script>" not in raised.value.message
        with pytest.raises(gr.Error) as raised:
            made(RuntimeError("/root/secret"))
        assert raised.value.message == UNKNOWN
    assert "/root/secret" in capsys.readouterr().err


@pytest.fixture(scope="module")
def server(pipes, tmp_path_factory):
    """The command, with two models: the process, its address and the directory that it serves."""
    folder = tmp_path_factory.mktemp("served")
    chosen = {name: pipes[name] for name in ("EDM", RELAY)}
    limits = ["--limit.upload", str(UPLOAD), "--limit.waiting", "300"]
    with served(folder, chosen, limits) as (process, address):
        yield process, address, next(folder.glob("overtone-studio-*"))


def test_no_file_is_served_but_those_made_here(server, tmp_path):
    _, address, folder = server
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    (folder / "link.txt").symlink_to(secret)
    (folder / "made" / "link.txt").symlink_to(secret)
    (folder / "made" / "up").symlink_to("/etc")
    paths = [
        "/etc/passwd", str(secret), f"{folder}/link.txt", f"{folder}/made/link.txt",
        f"{folder}/made/up/passwd", f"{folder}/made/../../../../../../etc/passwd",
        "../../../../etc/passwd", "..%2f..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd",
        "pyproject.toml", ".git/config", "file:///etc/passwd", "//etc/passwd", "~/.ssh/id_rsa",
        "/proc/self/environ", "/dev/zero", "http://127.0.0.1:1/", "\\\\host\\share", "%00", "",
    ]  # fmt: skip
    with httpx.Client(base_url=address) as client:
        for path in paths:
            for route in (
                "/gradio_api/file=",
                "/file=",
                "/gradio_api/file/",
                "/static/",
                "/assets/",
            ):
                answer = client.get(route + path)
                assert answer.status_code != 200 or "<!doctype html>" in answer.text, (route, path)
                assert "root:" not in answer.text
                assert "secret" not in answer.text.replace(path, "")
        made = folder / "made" / "a.txt"
        made.write_text("mine")
        assert client.get(f"/gradio_api/file={made}").text == "mine"


def test_requests_are_bounded(server):
    _, address, _ = server
    with httpx.Client(base_url=address) as client:
        assert client.get("/", headers={"host": "evil.example"}).status_code == 400
        long = b"x" * (BODY + 1)
        assert client.post("/gradio_api/queue/join", content=long).status_code == 413
        scheme = address.rstrip("/").replace("http://", "evil://")
        for origin in (
            "http://evil.example",
            "null",
            address.replace("http", "https") + "0",
            scheme,
        ):
            for route in ("queue/join", "upload", "reset"):
                answer = client.post(f"/gradio_api/{route}", headers={"origin": origin})
                assert answer.status_code == 403, (origin, route)
        own = {"origin": address.rstrip("/")}
        assert client.post("/gradio_api/queue/join", headers=own).status_code == 422
        large = {"files": ("a.png", b"x" * (UPLOAD + 1))}
        assert client.post("/gradio_api/upload", files=large).status_code >= 400
        parts = iter([b"x" * BODY, b"x" * BODY])  # no word of the length
        assert client.post("/gradio_api/queue/join", content=parts).status_code >= 400
        for body in (b"", b"{", b"[]", b'{"fn_index": 99}', b'{"data": null, "fn_index": "a"}'):
            answer = client.post(
                "/gradio_api/queue/join", content=body, headers={"content-type": "application/json"}
            )
            assert 400 <= answer.status_code < 600
            assert "Traceback" not in answer.text
        assert client.get("/").status_code == 200


def test_what_the_page_does_not_ask_for_is_not_there(server):
    """The routes of gradio that go round the queue, or that fetch or write what a visitor names."""
    _, address, _ = server
    with httpx.Client(base_url=address) as client:
        for route in (
            "gradio_api/run/make", "gradio_api/api/make", "gradio_api/call/make",
            "gradio_api/call/v2/make", "gradio_api/deep_link", "gradio_api/component_server",
            "gradio_api/process_recording", "gradio_api/proxy=http://127.0.0.1:1/",
            "gradio_api/file=http://127.0.0.1:1/", "gradio_api/file=https://example.org/",
            "gradio_api/custom_component/a/client/component/b", "gradio_api/dev/reload",
            "gradio_api/openapi.json", "gradio_api/monitoring", "monitoring", "docs",
            "openapi.json", "gradio_api/stream/a", "gradio_api/cancel", "run/make",
            "api/make", "queue/join", "login", "logout",
        ):  # fmt: skip
            for method in ("GET", "POST"):
                answer = client.request(method, f"/{route}", json={"data": []})
                assert answer.status_code == 404, (method, route)
        assert client.get("/?page=zzz").status_code in (200, 404, 500)
        for body in ({"data": [], "fn_index": 99}, {"data": [], "fn_index": 10**30}):
            answer = client.post("/gradio_api/queue/join", json=body | {"session_hash": "a"})
            assert 400 <= answer.status_code < 600
            assert "Traceback" not in answer.text
        assert client.get("/config").status_code == 200


def test_a_file_that_was_not_uploaded_is_not_read(server, tmp_path):
    """Neither a text, which would be copied to where files are served from, nor a picture."""
    _, address, folder = server
    picture = tmp_path / "mine.png"
    Image.new("RGB", (8, 8)).save(picture)
    with httpx.Client(base_url=address) as client:
        config = client.get("/config").json()
        up = client.post("/gradio_api/upload", files={"files": ("a.png", picture.read_bytes())})
        (uploaded,) = up.json()
    change, inputs = button_of(config, "Change")
    again, _ = button_of(config, "Make it again")
    assert inputs == 6

    def file(path, **more):
        return {"path": path, "meta": {"_type": "gradio.FileData"}, **more}

    wrong = [
        file("/etc/passwd"), file(str(picture)), file("docs/a.png"), file("../../etc/passwd"),
        file(f"{folder}/../{picture}"), file("~/.bashrc"), file("file:///etc/passwd"),
        file("http://127.0.0.1:1/a.png"), file("https://example.org/a.png"), file(3), file("a\0b"),
        {"path": str(picture)}, file(str(picture), is_stream=True), [[file(str(picture))]],
        {"a": {"b": file(str(picture))}}, "x" * 2_000,
    ]  # fmt: skip

    async def all_of_them():
        async with httpx.AsyncClient(base_url=address, timeout=60) as client:
            found = []
            for place, value in enumerate(wrong):
                data = ["EDM", value, "1", 0, 0, 1]
                found.append(await asked(client, change, data, f"thief{place}"))
                found.append(await asked(client, again, [value], f"reader{place}"))
            good = ["EDM", file(uploaded), "1", 0, 0, 1]
            return found, await asked(client, change, good, "honest")

    found, honest = asyncio.run(all_of_them())
    assert [message["success"] for message in found] == [False] * len(found)
    assert honest["success"], honest
    kept = [path for path in folder.rglob("*") if path.is_file() and "made" not in path.parts]
    assert {path.name for path in kept if not path.is_symlink()} == {"a.png"}
    with httpx.Client(base_url=address) as client:
        assert list(folder.rglob("passwd")) == []
        assert client.get(f"/gradio_api/file={picture}").status_code in (403, 404)


def test_answers_have_their_own_time():
    """One that begins later does not give another more."""
    network, limits = torch.nn.Identity(), dataclasses.replace(LIMITS, seconds=0.2)

    def long():
        for step in range(100):
            network(torch.zeros(1))
            time.sleep(0.01)
            yield step

    first = told(long, limits)()
    next(first)
    assert list(told(lambda: (network(torch.zeros(1)), 1)[1:], LIMITS)()) == [1]
    time.sleep(0.3)
    with pytest.raises(gr.Error, match=r"longer than the 0\.2 seconds"):
        list(first)
    network(torch.zeros(1))  # nothing is left behind


def test_a_large_picture_is_refused_by_its_header(studio, tmp_path):
    file = tmp_path / "large.png"
    Image.new("1", (6_000, 6_000)).save(file)
    assert file.stat().st_size < 100_000
    with pytest.raises(OvertoneError, match=r"at most .* pixels"):
        replayed(studio, str(file))
    with pytest.raises(OvertoneError, match="no longer here"):
        replayed(studio, str(tmp_path / "gone.png"))


def button_of(config, words):
    """The number of the function that a button's click calls, and how many inputs it has."""
    button = next(
        part["id"] for part in config["components"] if part["props"].get("value") == words
    )
    return next(
        (made["id"], len(made["inputs"]))
        for made in config["dependencies"]
        if [button, "click"] in [list(target) for target in made["targets"]]
    )


async def asked(client, number, data, session):
    """The last message of a request to the queue."""
    body = {"data": data, "fn_index": number, "session_hash": session}
    answer = await client.post("/gradio_api/queue/join", json=body)
    if answer.status_code != 200:
        return {"msg": "refused", "status": answer.status_code}
    url = f"/gradio_api/queue/data?session_hash={session}"
    async with client.stream("GET", url) as lines:
        async for line in lines.aiter_lines():
            if line.startswith("data:"):
                message = json.loads(line[5:])
                if message["msg"] in ("process_completed", "unexpected_error", "queue_full"):
                    return message
    return {"msg": "lost"}


MALFORMED = [
    ["../../etc/passwd", 0, 2, [], None, None, None, None, None],
    ["EDM", "x", 2, [], None, None, None, None, None],
    ["EDM", 0, 10**9, [], None, None, None, None, None],
    ["EDM", 0, 2, ["<img src=x onerror=alert(1)>"], None, None, None, None, None],
    ["EDM", 0, 2, [], {"a": 1}, None, None, None, None],
    ["EDM", 0, 2, [], None, None, None, None, 10**12],
    [None] * 9,
    [],
]


@pytest.mark.slow
def test_two_hundred_visitors_at_once_are_all_answered(server):
    """A fifth of them send what the form could not; each of the others gets the images of its own
    seed."""
    process, address, _ = server
    process = psutil.Process(process.pid)
    with httpx.Client(base_url=address) as client:
        config = client.get("/config").json()
    number, inputs = button_of(config, "Make images")
    assert inputs == 9

    async def all_of_them():
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=address, timeout=120, limits=limits) as client:
            wishes = []
            for visitor in range(200):
                good = ["EDM", visitor, 2, [], None, None, None, None, 2]
                data = MALFORMED[visitor // 5 % len(MALFORMED)] if visitor % 5 == 0 else good
                wishes.append(asked(client, number, data, f"visitor{visitor}"))
            return await asyncio.gather(*wishes)

    before = process.memory_info().rss
    answers = asyncio.run(all_of_them())
    grown = process.memory_info().rss - before
    pictures = set()
    for visitor, answer in enumerate(answers):
        assert answer["msg"] != "lost", visitor
        if visitor % 5 == 0:
            assert not answer.get("success"), visitor
            assert "Traceback" not in json.dumps(answer)
            assert "<img src=x" not in json.dumps(answer.get("output") or {})
            continue
        assert answer["success"], (visitor, answer)
        grid = answer["output"]["data"][3]["path"]
        receipt = read_receipt(grid)
        assert receipt.seeds == f"{visitor}-{visitor + 1}"
        pictures.add(grid)
    assert len(pictures) == 160
    assert grown < 300 * 2**20
