"""Small trees of images as text, written as folders and as zips."""

import json
import zipfile
from io import BytesIO
from pathlib import Path

from PIL import Image


def png(shade=0, size=(8, 8)):
    """The bytes of a grey picture."""
    content = BytesIO()
    Image.new("L", size, shade).save(content, "png")
    return content.getvalue()


def parsed(text):
    """Names to their contents, None for an empty folder: `a/0.png a/b/ x/dataset.json{0.png:3}`."""
    found = {}
    for word in text.split():
        name, brace, labels = word.partition("{")
        if brace:
            pairs = [pair.rsplit(":", 1) for pair in labels.rstrip("}").split(",") if pair]
            content = {"labels": [[image, int(label)] for image, label in pairs] or None}
            found[name] = json.dumps(content).encode()
        elif name.endswith("/"):
            found[name.rstrip("/")] = None
        else:
            found[name] = png(len(found) % 256)
    return found


def write_folder(root, files):
    root.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = root / name
        if content is None:
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return root


def folders_of(files):
    """Every folder that the names are in, and the empty ones."""
    folders = {name for name, content in files.items() if content is None}
    for name in files:
        folders |= {str(parent) for parent in Path(name).parents}
    return sorted(folders - {"."})


def write_zip(path, files, rename=str, folders=None):
    """`rename` is how a tool writes the names; `folders` are those that it writes entries of."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in folders_of(files) if folders is None else folders:
            archive.writestr(rename(f"{name}/"), b"")
        for name, content in files.items():
            if content is not None:
                archive.writestr(rename(name), content)
    return path
