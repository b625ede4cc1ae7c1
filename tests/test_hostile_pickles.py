"""Checkpoints that were damaged, or made to hurt: each is refused in a line, or is what it says.

Tables of files, each read, or converted, as a user's. Nothing may take more memory than 256 MB
beyond the file's own size, nothing may run for long, and nothing is executed.
"""

import io
import os
import pickle
import re
import socket
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hostile import MOST_BYTES, check_plain, circle, device, folder, gone, pipe, sparing
from hostile_archives import ARCHIVES
from hostile_calls import REQUESTS
from hostile_conversions import CONVERSIONS, yaml
from hostile_programs import DAMAGED, HONEST, PROGRAMS
from hostile_storages import STORED
from overtone.cli.app import main
from overtone.convert.unpickle import read_checkpoint
from overtone.errors import OvertoneError
from pickle_parts import Loads, dict_of, former, record, tensor, zipped

# What is not a file, or a strange one.


def silent(file):
    file.symlink_to("/dev/null")


def listening(file):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(file.name)


def forbidden(file):
    file.symlink_to("/proc/self/mem")


def sparse(begin, end=b"", size=2**40):
    """A terabyte, of which next to nothing is on the disk."""

    def make(file):
        with file.open("wb") as whole:
            whole.write(begin)
            whole.truncate(size)
            whole.seek(0, io.SEEK_END)
            whole.write(end)

    return make


FILES = {
    "no file": (gone, "No such file"),
    "a folder": (folder, "not a regular file|Is a directory"),
    "a pipe": (pipe, "not a regular file"),
    "a link to itself": (circle, "Too many levels"),
    "a device that never ends": (device, "not a regular file"),
    "a device that is empty": (silent, "not a regular file"),
    "a socket": (listening, "can't be read"),
    "a process's memory": (forbidden, DAMAGED + "|can't be read"),
    "a terabyte of nothing": (sparse(b""), DAMAGED),
    "a terabyte of bytes": (sparse(b"\x80\x04\x8e" + (2**40 - 20).to_bytes(8, "little")), DAMAGED),
    "a terabyte of text": (sparse(b"\x80\x04V"), "cut short, or too long"),
    "a terabyte of a zip": (sparse(b"PK\3\4", b"PK\5\6" + bytes(18)), DAMAGED),
}
TABLES = (FILES, PROGRAMS, REQUESTS, STORED, ARCHIVES)
READ = {name: case for table in TABLES for name, case in table.items()}
CASES = {**{("read", key): case for key, case in READ.items()}, **CONVERSIONS}


def opened(kind, beside):
    if kind == "read":
        return read_checkpoint("x.pkl")
    name = beside if isinstance(beside, str) else "own.yaml"
    told = ["--settings", name] if kind == "dsno" else []
    return main(["convert", kind, "x.pkl", "out", *told])


def check(answer, kind, beside):
    if isinstance(answer, Loads):
        assert answer.check(opened(kind, beside))
        return
    with pytest.raises(OvertoneError) as refused:
        opened(kind, beside)
    check_plain(refused.value)
    assert re.search(answer, str(refused.value))


def files_of(make):
    """What the files of a case hold, or what makes them."""
    return make if isinstance(make, list) else [make]


def write(content, file):
    """A file that holds these bytes, or is made by a function, or holds what that returns."""
    content = content(file) if callable(content) else content
    if content is not None:
        file.write_bytes(content)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder to work in, with a module that leaves a trace where it is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("OVERTONE_DEBUG", "1")  # errors come as they are, not as an exit
    (tmp_path / "canary.py").write_text("open('executed', 'w').close()\nsing = Bird = print\n")
    return tmp_path


@pytest.mark.usefixtures("no_hanging")
@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_it_is_refused_in_a_line_or_is_what_it_says(workplace, note, request, case):
    make, answer, *more = CASES[case]
    beside = more[0] if more else yaml()
    if not isinstance(beside, str):
        write(beside, workplace / "own.yaml")
    file, *others = files_of(make)
    before = set(sys.modules)
    write(file, workplace / "x.pkl")
    del file
    size = os.stat("x.pkl").st_size if os.path.isfile("x.pkl") else 0
    with sparing(note, request.node.name, MOST_BYTES + size):
        check(answer, case[0], beside)
        for other in others:
            write(other, workplace / "x.pkl")
            check(answer, case[0], beside)
    assert not (workplace / "executed").exists()
    gained = {module.partition(".")[0] for module in set(sys.modules) - before}
    assert gained.isdisjoint({"canary", "torch_utils", "dnnlib", "subprocess"})


def test_the_tables_are_long():
    assert len(CASES) >= 420
    assert len(READ) == sum(map(len, TABLES))  # no name is there twice


# Checkpoints that load, to be changed at random.
STATE = {"ema": torch.arange(12.0).view(3, 4)[:, 1:], "step": 3, "who": [None, ("a", b"b"), {1.5}]}
PROGRAM = dict_of({"ema": tensor(), "net": record(dict_of({"weight": tensor()}))})


def saved(form):
    content = io.BytesIO()
    torch.save(STATE, content, _use_new_zipfile_serialization=form == "zip")
    return content.getvalue()


WHOLE = [pickle.dumps(STATE), saved("zip"), saved("former"), pickle.dumps(HONEST, 2)]
CHANGE = st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 40), st.binary(max_size=12))


def altered(content, changes):
    """Some bytes from a place on, a share of the whole, replaced by others."""
    for share, count, others in changes:
        at = int(share * len(content))
        content = content[:at] + others + content[at + count :]
    return content


def alone(value):
    return value


WRAPPED = st.sampled_from([alone, former, zipped])


@settings(max_examples=200, derandomize=True, deadline=None, database=None)
@given(st.binary(max_size=200), WRAPPED)
def test_noise_is_refused_or_is_a_value(tmp_path_factory, content, wrapped):
    answered(tmp_path_factory, wrapped(content))


@settings(max_examples=200, derandomize=True, deadline=None, database=None)
@given(st.sampled_from(WHOLE), st.lists(CHANGE, min_size=1, max_size=4))
def test_a_changed_checkpoint_is_refused_or_is_a_value(tmp_path_factory, content, changes):
    answered(tmp_path_factory, altered(content, changes))


@settings(max_examples=200, derandomize=True, deadline=None, database=None)
@given(st.lists(CHANGE, min_size=1, max_size=3), st.sampled_from([former, zipped]))
def test_a_changed_program_is_refused_or_is_a_value(tmp_path_factory, changes, wrapped):
    answered(tmp_path_factory, wrapped(altered(PROGRAM, changes)))


def answered(factory, content):
    """The file is read, or refused as every other."""
    file = factory.getbasetemp() / "random.pkl"
    file.write_bytes(content)
    try:
        read_checkpoint(file)
    except OvertoneError as error:
        check_plain(error)
