"""Zips such as torch.save writes, and others, damaged or made to hurt.

A table as in `hostile_programs`.
"""

import io
import struct
import tarfile
import zipfile

import torch

from hostile_programs import DAMAGED
from hostile_storages import LOAD, is_ramp
from pickle_parts import (
    FOLDER,
    NONE,
    NUMBERS,
    Loads,
    archive,
    call,
    changed,
    former,
    number,
    program,
    raw,
    storage,
    tensor,
    zipped,
)


def tar(_):
    """torch.save's first format of all."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as whole:
        for member in ("sys_info", "pickle", "tensors", "storages"):
            info = tarfile.TarInfo(member)
            info.size = 3
            whole.addfile(info, io.BytesIO(b"\x80\x02."))
    return content.getvalue()


def bomb(how):
    return lambda _: zipped(tensor(storage(number(10**7))), bytes(4 * 10**7), how=how)


def overlapping(_):
    """Fifield's: many entries of the directory, one after another of which is within all others."""
    whole = zipped(tensor(), NUMBERS)
    at = whole.rindex(b"PK\5\6")
    (start,) = struct.unpack("<I", whole[at + 16 : at + 20])
    entries = [whole[start:at]]
    large = bytes(10**7)
    first = (
        struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 0, 0, len(large), len(large), 1, 0) + b"a"
    )
    for i in range(1000):
        title = b"archive/data/b%d" % i
        entries.append(
            struct.pack(
                "<4s6H3L5H2L",
                b"PK\1\2",
                20,
                20,
                0,
                0,
                0,
                0,
                0,
                len(large),
                len(large),
                len(title),
                0,
                0,
                0,
                0,
                0,
                start,
            )
            + title
        )
    directory = b"".join(entries)
    end = struct.pack(
        "<4s4H2LH", b"PK\5\6", 0, 0, 1003, 1003, len(directory), start + len(first + large), 0
    )
    return whole[:start] + first + large + directory + end


def directory_of(count):
    """A zip whose directory names one member again and again."""

    def make(_):
        whole = archive({"data.pkl": program(NONE)})
        at = whole.rindex(b"PK\5\6")
        start = whole.index(b"PK\1\2")
        entries = whole[start:at] * count
        end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65535, 65535, len(entries), start, 0)
        return whole[:start] + entries + end

    return make


def vast_directory(_):
    """A zip of the longer form that says its directory has 2^62 bytes."""
    whole = zipped(tensor())
    at = whole.rindex(b"PK\5\6")
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 3, 3, 2**62, 0)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, at, 1)
    return whole[:at] + record + locator + whole[at:]


def vast_member(_):
    """A member whose extra field says that it has 2^62 bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as whole:
        whole.writestr(FOLDER + "data.pkl", program(tensor()))
        whole.writestr(FOLDER + "data/0", NUMBERS)
        last = whole.infolist()[-1]
        last.file_size = last.compress_size = 2**62
    return content.getvalue()


def in_directory(offset, form, value, which=b"data/0"):
    """A zip in whose directory one field of a member is another."""

    def make(_):
        whole = bytearray(zipped(tensor()))
        at = whole.rindex(b"PK\1\2", 0, whole.rindex(which))
        struct.pack_into(form, whole, at + offset, value)
        return bytes(whole)

    return make


def twice(member):
    """A zip with two members of one name, the second of which says something else."""

    def make(_):
        whole = archive(
            {
                "data.pkl": program(tensor()),
                "data/0": NUMBERS,
                "data.pkX": program(NONE),
                "data/X": bytes(16),
            }
        )
        return whole.replace(member.replace(b"0", b"X").replace(b"l", b"X"), member)

    return make


BOTH_PROGRAMS = {"data.pkl": program(tensor()), "more/data.pkl": program(NONE), "data/0": NUMBERS}
ARCHIVES = {
    "torch's first format": (tar, DAMAGED),
    "a zip of nothing": (archive({}), DAMAGED),
    "a zip without a program": (archive({"data/0": NUMBERS}), "0 members called data.pkl"),
    "a zip of two programs": (archive(BOTH_PROGRAMS), "2 members called data.pkl"),
    "a zip in a zip": (archive({"data.pkl": zipped(tensor())}), "PERSID"),
    "a zip in a pickle": (program(call(LOAD, raw(zipped(tensor())))), "PERSID"),
    "a bomb": (bomb(zipfile.ZIP_DEFLATED), "members are compressed"),
    "a bomb of another kind": (bomb(zipfile.ZIP_BZIP2), "members are compressed"),
    "a program that unfolds": (
        lambda _: archive({"data.pkl": program(raw(bytes(10**6)))}, zipfile.ZIP_LZMA),
        "members are compressed",
    ),
    "members within members": (overlapping, "larger than the file itself"),
    "a directory of a million": (directory_of(10**6), "more members than any checkpoint"),
    "a directory of 60,000": (directory_of(60_000), "two members of one name"),
    "a directory of 2^62 bytes": (vast_directory, DAMAGED + "|more members"),
    "a member of 2^62 bytes": (vast_member, "larger than the file itself"),
    "two programs of one name": (twice(b"data.pkl"), "two members of one name"),
    "two storages of one name": (twice(b"data/0"), "two members of one name"),
    "a member that is encrypted": (in_directory(8, "<H", 1), "encrypted"),
    "a member that is a patch": (in_directory(8, "<H", 0x20), DAMAGED),
    "a member that is strongly encrypted": (in_directory(8, "<H", 0x41), DAMAGED),
    "a member of version 25.5": (in_directory(6, "<H", 255), "zip file version"),
    "a member of unknown compression": (in_directory(10, "<H", 77), "members are compressed"),
    "a member of another sum": (in_directory(16, "<I", 0), "Bad CRC-32"),
    "a member that is longer": (in_directory(24, "<I", 20), DAMAGED),
    "a member that is shorter": (in_directory(24, "<I", 12), DAMAGED),
    "a member stored in less": (in_directory(20, "<I", 3), DAMAGED),
    "a member elsewhere": (in_directory(42, "<I", 7), DAMAGED),
    "a member behind the end": (in_directory(42, "<I", 2**31), DAMAGED),
    "a member with two names": (
        lambda _: changed(zipped(tensor()), b"archive/data/0", b"archive/data/1"),
        "differ",
    ),
    "a member of no UTF-8": (
        lambda _: changed(in_directory(8, "<H", 0x800)(_), b"data/0", b"data/\xff", 2),
        DAMAGED,
    ),
    "a program cut short": (in_directory(24, "<I", 9, b"data.pkl"), DAMAGED),
    "a zip cut short": (
        [zipped(tensor())[:n] for n in range(2, len(zipped(tensor())), 7)],
        DAMAGED,
    ),
    "a zip behind something": (b"#!/bin/sh\ntouch executed\n" + zipped(tensor()), DAMAGED),
    "a zip and a remark": (
        lambda _: zipped(tensor())[:-2] + struct.pack("<H", 65535) + b"\x1b" * 65535,
        Loads(is_ramp),
    ),
    "a zip that leads outside": (
        archive({"data.pkl": program(tensor()), "data/0": NUMBERS}, folder="../../../"),
        Loads(is_ramp),
    ),
    "a zip from the root": (
        archive({"data.pkl": program(tensor()), "data/0": NUMBERS}, folder="/etc/"),
        Loads(is_ramp),
    ),
    "a zip of a big-endian machine": (
        archive({"data.pkl": program(tensor()), "data/0": NUMBERS, "byteorder": b"big"}),
        "big-endian",
    ),
    "an order of 10 MB": (
        lambda _: archive({"data.pkl": program(tensor()), "byteorder": b"little" * 10**6}),
        "big-endian",
    ),
    "a version of 10 MB": (
        lambda _: archive(
            {"data.pkl": program(tensor()), "data/0": NUMBERS, "version": b"9" * 10**7}
        ),
        Loads(is_ramp),
    ),
    "a program of 70 MB": (
        lambda _: archive({"data.pkl": program(raw(bytes(70 * 2**20)))}),
        "or a very large one",
    ),
    "a zip that torch wrote": (
        lambda file: torch.save([torch.arange(3)], file),
        Loads(lambda v: v[0].tolist() == [0, 1, 2]),
    ),
    "a storage of 100 MB, cut": (
        lambda _: former(
            tensor(storage(number(25 * 10**6))),
            data=struct.pack("<q", 25 * 10**6) + bytes(99_999_999),
        ),
        "ends within the numbers",
    ),
    "a storage of 100 MB, of another sum": (
        lambda _: changed(
            zipped(tensor(storage(number(25 * 10**6))), bytes(10**8)), bytes(9), b"a" * 9
        ),
        "Bad CRC-32",
    ),
    "a storage of 100 MB in a pickle, cut": (
        lambda _: program(
            call(
                LOAD,
                raw(
                    former(
                        tensor(storage(number(25 * 10**6))),
                        data=struct.pack("<q", 25 * 10**6) + bytes(10**8 - 1),
                    )
                ),
            )
        ),
        "ends within the numbers",
    ),
}
