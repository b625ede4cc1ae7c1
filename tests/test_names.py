"""Names are text: of files, folders, classes and columns, whatever letters are in them."""

import json
import os
import zipfile

import pandas
import pytest
import torch
from PIL import Image

from helpers import tiny_vae
from overtone.cli.app import main
from overtone.data import ArrayData, held_out, open_data, public_name
from overtone.data.inspect import inspect_data
from overtone.data.latents import LatentData
from overtone.errors import OvertoneError
from overtone.training.material import _tell, images_of
from trees import png, write_folder, write_zip

NAMES = {
    "brackets": "[a]",
    "a star": "*",
    "a question mark": "a?b=c",
    "braces": "{a,b}",
    "a format": "%s%d{0}",
    "new lines": "new\nline\r\n",
    "a terminal's colours": "\x1b[31mred\x1b[2J",
    "control characters": "\x01\x08\x7f\x9b",
    "emoji": "🐈\u200d⬛",
    "right to left": "\u202egnp.exe",
    "long": "x" * 250,
    "bytes that are not UTF-8": os.fsdecode(b"caf\xe9\xff"),
    "blanks": "  a  b  ",
    "a dash": "--help",
    "markup": "[red]a[bold] :smile:",
    "quotes": "'\"`$(ls)",
    "colons": "a::b",
    "a backslash": "a\\b",
}


def shown(capsys):
    """What was printed, every line of it fit for a terminal."""
    captured = capsys.readouterr()
    for stream in captured:
        assert all(line.isprintable() for line in stream.split("\n")), stream
    return captured.out, captured.err


def plain_text(name):
    """The name as a class has it: bytes that are no text as escapes."""
    return name.encode(errors="backslashreplace").decode()


@pytest.fixture(params=NAMES)
def name(request):
    return NAMES[request.param]


def test_folders_and_classes_of_any_name(tmp_path, name, capsys):
    files = {f"{name}/{name[:100]}.png": png(1), "zzz/b.png": png(2)}
    root = str(write_folder(tmp_path / name, files))
    data, _ = images_of(root, 8, 1)
    assert sorted(data.class_names) == sorted((plain_text(name), "zzz"))
    assert data.fetch([0, 1])[1].tolist() == [0, 1]
    json.dumps(data.class_names, ensure_ascii=False).encode()
    assert held_out(root, 8, 1) is None
    public_name(root).encode()
    for before in ("", "hf:"):
        main(["data", "inspect", before + root, "--out", str(tmp_path / "sheet.png")])
    shown(capsys)
    with pytest.raises(SystemExit):
        main(["data", "inspect", root, "--resolution", "99", "--out", str(tmp_path / "sheet.png")])
    out, err = shown(capsys)
    assert out.count("refused: ") == 2
    assert len(err.splitlines()) == 1


def test_zips_of_any_name(tmp_path, name, capsys):
    written = name.encode(errors="replace").decode()  # zips have no bytes that are not UTF-8
    own = written.replace("\\", "/")
    files = {f"{written}/a.png": png(1), "zzz/b.png": png(2)}
    path = str(write_zip(tmp_path / f"{name[:200]}.zip", files, folders=[]))
    data = open_data(path, 8, 1)
    assert sorted(data.class_names) == sorted((own.partition("/")[0], "zzz"))
    main(["data", "inspect", path, "--out", str(tmp_path / "sheet.png")])
    shown(capsys)


def test_refusals_show_any_name_on_one_line(tmp_path, name):
    root = write_folder(tmp_path / name, {f"{name[:100]}.png": b"none"})
    places = [str(root), f"hf:{root}", f"{root}/gone", f"hf:{root}/gone.parquet"]
    for place in places:
        with pytest.raises(OvertoneError) as caught:
            open_data(place, 8, 1)
        message = str(caught.value)
        assert message.isprintable()
        assert plain_text(name)[:3].isprintable() is False or name[:3] in message


def test_classes_of_any_name_in_a_table(tmp_path, name, capsys):
    text = name.encode(errors="replace").decode()
    cells = {"image": [png(1), png(2)], text: [text, "zzz"]}
    pandas.DataFrame(cells).to_parquet(tmp_path / "a.parquet")
    path = f"hf:{tmp_path / 'a.parquet'}"
    main(["data", "inspect", path, "--out", str(tmp_path / "sheet.png")])
    out, _ = shown(capsys)
    assert "no classes are read: ?label=" in out
    pandas.DataFrame({"image": [png(1), png(2)], "kind": [text, "zzz"]}).to_parquet(
        tmp_path / "b.parquet"
    )
    data = open_data(f"hf:{tmp_path / 'b.parquet'}?label=kind", 8, 1)
    assert sorted(data.class_names) == sorted((text, "zzz"))


def test_labels_of_images_of_any_name(tmp_path, name):
    root = write_folder(tmp_path / "it", {f"{name[:100]}.png": png(1)})
    pairs = {"labels": [[f"{name[:100]}.png", 1]]}
    (root / "dataset.json").write_text(json.dumps(pairs))
    if name == NAMES["a backslash"]:  # which is how some tools part folders
        with pytest.raises(OvertoneError, match="no label for"):
            open_data(str(root), 8, 1)
    else:
        assert open_data(str(root), 8, 1).fetch([0])[1].tolist() == [1]


def test_latents_of_classes_of_any_name(tmp_path, capsys):
    (tmp_path / "vae").mkdir()
    torch.manual_seed(0)
    tiny_vae().write_into(tmp_path / "vae")
    root = tmp_path / NAMES["bytes that are not UTF-8"]
    for name in NAMES.values():
        (root / name).mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(root / name / "a.png")
    out = tmp_path / NAMES["a terminal's colours"]
    arguments = ["data", "encode", str(root), "--vae", str(tmp_path / "vae"), "--resolution", "16"]
    for _ in range(2):  # again into what is there
        main([*arguments, "--out", str(out)])
    data = LatentData(out)
    assert list(data.class_names) == [plain_text(name) for name in sorted(NAMES.values())]
    assert data.class_counts() == [1] * len(NAMES)
    shown(capsys)


def test_long_lists_of_classes_are_told_in_part(tmp_path, capsys):
    names = [f"class {number} {'x' * 200}\x1b" for number in range(300)]
    files = {f"{name}/a.txt": b"" for name in names} | {f"{names[0]}/a.png": png()}
    images_of(str(write_folder(tmp_path / "it", files)), 8, 1)
    _, err = shown(capsys)
    assert "299 of 300 classes have no images" in err
    assert "300 classes: class 0" in err
    assert max(map(len, err.splitlines())) < 1100
    found = inspect_data(str(tmp_path / "it"))
    assert sum("299 of 300 classes" in note for note in found.notes) == 1


NO_NAMES = [
    *("x" * 5000, "./" + "a/" * 3000, "hf:" + "x" * 5000, "hf:" + "?" * 3000),
    *("~nobody-is-called-so/a", "hf:~nobody/x", "a\0b", "\0", "hf:a\0b"),
    *("\udcff", "hf:\udcff/x", "\ud800"),
]


@pytest.mark.parametrize("name", NO_NAMES, ids=range(len(NO_NAMES)))
def test_names_that_no_file_can_have_are_refused(name):
    with pytest.raises(OvertoneError) as caught:
        open_data(name, 8, 1)
    assert str(caught.value).isprintable()
    public_name(name)


def test_what_a_terminal_cannot_write_is_escaped(tmp_path, monkeypatch):
    """As where a name goes through a pipe of another encoding."""
    import io
    import sys

    root = str(write_folder(tmp_path / "it", {"🐈/a.png": png(), "é/b.png": png()}))
    for encoding in ("ascii", "latin-1"):
        content = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(content, encoding))
        main(["data", "inspect", root, "--out", str(tmp_path / "sheet.png")])
        sys.stdout.flush()
        assert rb"\U0001f408" in content.getvalue()


def test_a_zips_name_that_is_not_utf8_but_says_so_is_one_line(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("é.png", png())
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xff\xfe"))
    with pytest.raises(OvertoneError, match="can't be read as a zip") as caught:
        open_data(str(path), 8, 1)
    assert str(caught.value).isprintable()


def test_names_of_data_in_memory_are_told_plainly(capsys):
    data = ArrayData("\x1b[31m", torch.zeros(2, 1, 8, 8, dtype=torch.uint8).numpy(), notes=["\n"])
    _tell(data, None)
    assert shown(capsys)[1].splitlines() == [r"\x1b[31m: \n", r"\x1b[31m: 2 images, no classes"]
