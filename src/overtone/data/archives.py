"""Zips of images, whatever tool wrote them, read in place: nothing is unpacked or written."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections import Counter
from functools import partial
from pathlib import Path

from overtone.data.files import LARGEST_FILE, file_key
from overtone.data.labels import cleaned
from overtone.data.layout import DEEPEST, File, Layout
from overtone.errors import OvertoneError

DENSE = 2**26
"""bytes that a member may grow to however it is packed; above them, `RATIO` times what it has"""
RATIO = 100
ENCRYPTED = 1
"""the bit of a member's flags"""


def zip_layout(file: Path) -> Layout:
    """The files in a zip. Raises `OvertoneError` for what is none, or holds a name twice."""
    try:
        identity = file_key(file)
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except Exception as error:  # damaged archives make zipfile raise almost anything
        raise OvertoneError(f"{file} can't be read as a zip ({error}): {_instead(file)}.") from None
    files, folders = [], set()
    for entry in entries:
        name = cleaned(entry.filename)
        if name.count("/") > DEEPEST:
            raise OvertoneError(
                f"{file} has folders that are more than {DEEPEST} deep ({name}): pack it again."
            )
        folders |= {name[:at] for at, letter in enumerate(name) if letter == "/"}
        if entry.filename.endswith(("/", "\\")):
            folders.add(name)
        else:
            stamp = f"{entry.file_size} {entry.CRC}"
            files.append(File(name, partial(_read, file, entry), stamp, entry.file_size))
    (name, count), *_ = Counter(f.name for f in files).most_common(1) or [("", 0)]
    if count > 1:
        raise OvertoneError(f"{file} holds {count} files called {name}: pack it again with one.")
    return Layout(str(file), files, folders, identity)


def _instead(file: Path) -> str:
    if file.suffix.lower() in (".parquet", ".arrow", ".tar"):
        return f"tables and webdataset's archives are read by hf:{file}"
    return "unpack any other archive to a folder, and a damaged one has to be copied again"


def _read(file: Path, entry: zipfile.ZipInfo) -> bytes:
    """The bytes of a member. Raises `ValueError` or `OSError` for one that can't be read.

    `zipfile` takes memory for all that a member becomes, whatever it says of itself; and an open
    archive would have to be shared by all that read.
    """
    size, packed = entry.file_size, entry.compress_size
    if entry.flag_bits & ENCRYPTED:
        raise ValueError("it is encrypted: unpack the archive to a folder")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        way = entry.compress_type
        raise ValueError(f"it is packed in the way {way}, not 0 or 8: unpack it to a folder")
    if size > LARGEST_FILE or size > max(DENSE, RATIO * packed):
        raise ValueError(f"it has {packed:,} bytes, and would become {size:,}")
    with open(file, "rb") as archive:
        archive.seek(entry.header_offset)
        head = archive.read(30)  # which ends with the lengths of what is before the contents
        if len(head) == 30 and packed <= os.fstat(archive.fileno()).st_size:
            archive.seek(sum(struct.unpack("<26xHH", head)), os.SEEK_CUR)
            content = archive.read(packed)
            if entry.compress_type == zipfile.ZIP_DEFLATED and size:
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size)
            if len(content) == size and zlib.crc32(content) == entry.CRC:
                return content
    raise ValueError("it is damaged: copy the archive again")
