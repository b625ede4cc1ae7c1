"""What is written is whole: directories and files appear under their name complete, or not at all.

Everything goes to a temporary name beside the target, is flushed to the disk, then renamed; a kill
or a full disk leaves the former version as it was. Weights are safetensors and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from overtone.errors import OvertoneError
from overtone.filekind import kind_of
from overtone.leftovers import sweep_beside, temporary_name
from overtone.place import is_full
from overtone.regular import read_regular

if TYPE_CHECKING:
    from torch import Tensor


@contextlib.contextmanager
def new_directory(path: Path, known: Collection[str] = (), *, once: bool = False) -> Iterator[Path]:
    """Fill a temporary directory that becomes `path` when the block ends well.

    With `once`, a directory that another process made meanwhile stands, and this one is dropped.

    A directory that stood at `path` is replaced if it holds nothing but `known` names, and refused
    otherwise; whatever goes wrong in the block leaves it alone.
    """
    path = Path(path).expanduser()
    if path.is_symlink():  # which stays: what it points to is replaced
        path = path.resolve()
    standing = path.is_dir() and not once
    others = sorted(f.name for f in path.iterdir() if f.name not in known) if standing else []
    if others:
        raise OvertoneError(f"{path} holds other files ({', '.join(others[:3])}): choose another.")
    sweep_beside(path)
    temporary = path.parent / temporary_name(path.name)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for file in temporary.rglob("*"):
            _flush(file)
        _flush(temporary)
        if once and path.is_dir():
            shutil.rmtree(temporary)
        elif path.is_dir():
            _exchange(temporary, path)
            shutil.rmtree(temporary)
        else:
            try:
                temporary.rename(path)
            except OSError:
                if not (once and path.is_dir()):
                    raise
                shutil.rmtree(temporary)
        _flush(path.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        _explain(error, path)
        raise


def _exchange(new: Path, path: Path) -> None:
    """Give two directories each other's names, at once, so that a kill leaves one or the other.
    A directory can't be renamed over another one.

    Where the system has no such call, the former one steps aside first: a kill in the instant
    between leaves it as `path`.former, where `locate` finds it.
    """
    import ctypes

    library = None if os.name == "nt" else ctypes.CDLL(None, use_errno=True)
    if library is not None and hasattr(library, "renameat2"):
        here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        if not library.renameat2(here, os.fsencode(new), here, os.fsencode(path), exchange):
            return
    aside = _former(path)
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)
    try:
        new.rename(path)
    except OSError:
        aside.rename(path)
        raise
    aside.rename(new)


def _former(path: Path) -> Path:
    return path.with_name(f"{path.name}.former")


def remove_directory(path: Path) -> None:
    """Delete a directory. It is gone at once, not file by file: a kill leaves nothing half there
    under its name."""
    with explained(path):
        aside = path.with_name(temporary_name(path.name))
        path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Write to the temporary path given; it becomes `path` when the block ends well."""
    path = Path(path).expanduser()
    if path.exists() and not path.is_file():  # a device would be replaced
        kind = "a directory" if path.is_dir() else "a device or a pipe"
        raise OvertoneError(f"{path} is {kind}: choose another place.")
    temporary = path.with_name(temporary_name(path.name))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        _explain(error, path)
        raise


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """A write that fails within raises an `OvertoneError` that names the path."""
    try:
        yield
    except OSError as error:
        _explain(error, path)


def append_line(path: Path, line: str) -> None:
    """Add a line to a log."""
    with explained(path), path.open("a") as file:
        file.write(line + "\n")


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON, whole or not at all."""
    with new_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")


def write_json_once(path: Path, value: Any) -> bool:
    """Write readable JSON if no file is there; whether it was written. Of several processes that
    try at once one does."""
    temporary = path.with_name(temporary_name(path.name))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(value, indent=2) + "\n")
        _flush(temporary)
        try:
            os.link(temporary, path)  # which, unlike a renaming, never replaces
        except FileExistsError:
            return False
        except OSError:  # of a file system without hard links
            if path.exists():
                return False
            temporary.replace(path)
        _flush(path.parent)
    except OSError as error:
        _explain(error, path)
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return True


def read_json(path: Path, kind: type = object) -> Any:
    """Read JSON; a file that is missing, damaged or does not hold a `kind` is named."""
    try:
        value = json.loads(read_regular(Path(path)).decode())
        if not isinstance(value, kind):
            raise OvertoneError(f"{path} holds no JSON {kind.__name__}.")
        return value
    except FileNotFoundError:
        raise OvertoneError(f"{path} does not exist.") from None
    except OSError as error:
        raise OvertoneError(f"{path} can't be read ({error.strerror}).") from None
    except (ValueError, RecursionError) as error:  # too deep, or an integer of too many digits
        raise OvertoneError(f"{path} is not valid JSON ({error}).") from None


def as_ordinary(path: Path) -> None:
    """Give a file the permissions of an ordinary new one, as the user's umask has them:
    safetensors' own are for its owner alone."""
    beside = path.with_name(temporary_name("mode"))
    beside.touch()
    path.chmod(stat.S_IMODE(beside.stat().st_mode))
    beside.unlink()


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, str] | None = None
) -> None:
    """Write tensors, and facts about them, as safetensors. Call inside `new_directory`: this alone
    is not atomic."""
    from safetensors.torch import save_file

    whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    save_file(whole, path, dict(facts) if facts else None)
    as_ordinary(path)


SAVED_DTYPES = ("float32", "float16", "bfloat16")
"""the types that weights are saved in"""


def converted(name: str, tensor: Tensor, dtype: Any) -> Tensor:
    """A tensor of floats in another type, one of `SAVED_DTYPES` by name or torch's; as it is where
    there is none. Raises `OvertoneError` for an unknown type, and for numbers that it can't
    hold."""
    import torch

    if dtype is None:
        return tensor
    word = str(dtype).removeprefix("torch.")
    if word not in SAVED_DTYPES:
        raise OvertoneError(f"weights are saved as {', '.join(SAVED_DTYPES)}, not as {dtype}.")
    if not tensor.is_floating_point():
        return tensor
    half = tensor.to(getattr(torch, word))
    if bool(torch.isfinite(tensor).all()) and not bool(torch.isfinite(half).all()):
        raise OvertoneError(
            f"'{name}' holds numbers up to {float(tensor.abs().max()):.3g}, which {word} can't:"
            " save it as bfloat16, or as float32."
        )
    return half


def below(folder: Path, name: str) -> Path:
    """The folder `name` in another. Raises `OvertoneError` where a link leads back to where one is
    already, which would be read for ever."""
    path = folder / name
    if Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(path)):
        raise OvertoneError(f"{path} leads back to {os.path.realpath(path)}.")
    return path


class Stored(NamedTuple):
    """What a file says of a tensor."""

    shape: tuple[int, ...]
    floating: bool
    """Whether the tensor's numbers are floats."""


def stored_tensors(path: Path) -> dict[str, Stored]:
    """What a file of safetensors says of its tensors, whose numbers are not read. Raises
    `OvertoneError` as `load_tensors` does."""
    with _safetensors(path, "numpy") as file:  # which needs no torch
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {
            name: Stored(tuple(one.get_shape()), one.get_dtype().startswith(("F", "BF")))
            for name, one in slices.items()
        }


@contextlib.contextmanager
def _safetensors(path: Path, framework: str) -> Iterator[Any]:
    """A file of safetensors, opened; what is wrong with it is an `OvertoneError` that names it."""
    from safetensors import SafetensorError, safe_open

    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would keep us waiting
            raise OvertoneError(f"{path} is not a regular file.")
        with path.open("rb") as opened:
            # safetensors takes names that are text alone.
            place = path if _is_text(path) else f"/dev/fd/{opened.fileno()}"
            with safe_open(place, framework) as file:
                yield file
    except FileNotFoundError:
        raise OvertoneError(f"{path} does not exist.") from None
    except OSError as error:
        raise OvertoneError(f"{path} can't be read ({error.strerror or error}).") from None
    except SafetensorError as error:
        kind = kind_of(path)
        if kind and not kind.endswith("safetensors"):
            raise OvertoneError(f"{path} holds no safetensors: it is {kind}.") from None
        raise OvertoneError(
            f"{path} is damaged or was cut short ({error}): copy or download it again."
        ) from None


def _is_text(path: Path) -> bool:
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read safetensors. Raises `OvertoneError`, naming it, for a file that is missing, cut short or
    damaged."""
    with _safetensors(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def locate(
    name: str | Path,
    revision: str | None = None,
    patterns: Sequence[str] = ("*.json", "*.safetensors", "*.md"),
) -> Path:
    """The local folder for `name`: a directory, or else a repository of the Hugging Face Hub.

    Only files that match the patterns are downloaded: JSON, safetensors and text, never a pickle.
    """
    if not str(name).strip():
        raise OvertoneError("the name of a directory or of a repository is needed, and is empty.")
    name = Path(name).expanduser() if str(name).startswith("~") else name
    if Path(name).is_dir():
        return Path(name)
    if not Path(name).exists() and _former(Path(name)).is_dir():
        return _former(Path(name))
    if Path(name).exists():
        raise OvertoneError(f"{name} is a file; a directory with a saved model is needed.")
    if Path(name).is_absolute() or str(name).startswith((".", "~")) or str(name).count("/") > 1:
        raise OvertoneError(f"{name} does not exist.")  # no repository is called so
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(name), revision=revision, allow_patterns=list(patterns)))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise OvertoneError(
            f"'{name}' was not found: there is no such directory, and the Hugging Face Hub did"
            f" not provide it ({reason}). Check the name, and the"
            " network for a repository of the Hub."
        ) from None


def cache_directory() -> Path:
    """Where what can be made again is kept: $OVERTONE_CACHE, or ~/.cache/overtone."""
    own = os.environ.get("OVERTONE_CACHE")
    return Path(own).expanduser() if own else Path.home() / ".cache" / "overtone"


def push(
    folder: Path,
    repo_id: str,
    *,
    replaced: Collection[str] = (),
    private: bool = False,
    token: str | None = None,
) -> str:
    """Upload a saved directory to the Hub; returns the URL of the commit. Of what is there, files
    and directories of the names in `replaced` go."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    # What a former model had there and this one lacks, a VAE say, would be loaded with it.
    old = [pattern for name in replaced for pattern in (name, f"{name}/**")]
    return str(api.upload_folder(repo_id=repo_id, folder_path=folder, delete_patterns=old))


def _flush(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # where a directory can't be opened
        return
    # Windows flushes only what is open for writing.
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explain(error: BaseException, path: Path) -> None:
    """Raise a failed write as an `OvertoneError` that names the path; return from anything else."""
    from safetensors import SafetensorError

    full = is_full(error) and not isinstance(error, OvertoneError)
    if full or isinstance(error, OSError | SafetensorError):
        reason = getattr(error, "strerror", None) or str(error).strip().split("\n")[0]
        advice = "free some space or choose another place" if full else "choose another place"
        raise OvertoneError(
            f"could not write {path}: {reason}. Nothing half-written was left behind; {advice},"
            " then run the same command again."
        ) from error
