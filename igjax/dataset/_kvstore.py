"""Where a store lies: a folder, or an address that TensorStore knows."""

import contextlib
import functools
import os
import pathlib
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

from igjax._extras import needs


def tensorstore() -> Any:
    """Imports the package, which not all have."""
    return needs("tensorstore", "dataset")


def kvstore(out: str) -> Any:
    """Opens the files of a store, by their names."""
    return tensorstore().KvStore.open(_url(out), context=context()).result()


def part(out: str, name: str) -> dict[str, Any]:
    """Specifies the folder of that name in a store."""
    # Not as an address: in one, a name's % would begin an escape.
    spec = dict(tensorstore().KvStore.Spec(_url(out)).to_json())
    return {**spec, "path": f"{spec.get('path', '')}{name}/"}


@functools.cache
def context() -> Any:
    """Returns how files are written: under a new name each, and then renamed.

    By default TensorStore writes them under one name, that of a lock. What a process that was
    killed has left there, it writes over: behind a shorter chunk the rest of that would stay.
    It is the same for all, since what is in ``memory://`` belongs to it.
    """
    return tensorstore().Context({"file_io_locking": {"mode": "none"}})


def names_in(out: str) -> list[str]:
    """Lists what a folder holds, empty folders and links too; nothing if it is not there.

    Raises:
      FileExistsError: if it is no folder.
      OSError: if it can't be looked at.
    """
    folder = _folder(out)
    if folder is None:  # elsewhere there are only files, whose names may have slashes
        with reading(out):
            keys = kvstore(out).list().result()
        return [key.decode(errors="replace").split("/")[0] for key in keys]
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
    except NotADirectoryError as error:
        raise FileExistsError(
            f"{out} is a file, or in the place of a folder on the way to it is one. Give another "
            "out."
        ) from error


def reading(out: str) -> contextlib.AbstractContextManager[None]:
    """Raises OSError for what TensorStore raises, which is the same whatever is wrong."""
    return _trouble(f"results can't be read from {out}")


def writing(out: str) -> contextlib.AbstractContextManager[None]:
    """Raises OSError likewise."""
    return _trouble(f"results can't be written to {out}")


def short(error: Exception) -> str:
    """Returns what TensorStore says, without the settings that it repeats."""
    return str(error).split(" [tensorstore_spec")[0]


@contextlib.contextmanager
def _trouble(what: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise OSError(f"{what}: {short(error)}. The same call goes on when they can.") from error


def _folder(out: str) -> pathlib.Path | None:
    """Returns the path of a folder on this machine; None for addresses elsewhere."""
    if "://" not in out:
        return pathlib.Path(out)
    url = urllib.parse.urlsplit(out)
    return pathlib.Path(urllib.request.url2pathname(url.path)) if url.scheme == "file" else None


def _url(out: str) -> str:
    """Returns the address of a store. What is none is a path."""
    base = out if "://" in out else pathlib.Path(out).absolute().as_uri()
    return base if base.endswith("/") else f"{base}/"
