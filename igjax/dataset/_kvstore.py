"""Where a store lies: a folder, or an address that TensorStore knows."""

import contextlib
import functools
import os
import pathlib
import re
import urllib.parse
import urllib.request
import uuid
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


def address(out: Any) -> str:
    """Returns ``out`` as a string.

    Raises:
      TypeError: if it is neither that nor a path.
      ValueError: if nothing can be called so.
    """
    try:
        name = os.fspath(out)
    except TypeError:
        name = out
    if not isinstance(name, str):
        raise TypeError(
            f"out must be a folder or an address, a string or a path; got {type(out).__name__}."
        )
    if not name or "\0" in name:
        raise ValueError(f"out must be the name of a folder, or an address; got {name!r}.")
    return name


def _is_address(out: str) -> bool:
    """Tells an address from a folder, in whose name there may be anything."""
    return re.match(r"[A-Za-z][\w+.-]*://", out) is not None


def create(out: str, name: str, value: bytes) -> bool:
    """Writes a file of a store. Returns False if it is there: of several processes one writes it.

    Raises:
      OSError: if it can't be written.
    """
    folder = _folder(out)
    with writing(out):
        if folder is not None:
            return _create_file(folder, name, value)
        files = kvstore(out)
        before = files.read(name).result()
        if before.state == "value":
            return False
        absent = before.stamp.generation
        return bool(files.write(name, value, if_equal=absent).result().generation)


def _create_file(folder: pathlib.Path, name: str, value: bytes) -> bool:
    """Writes a file on this machine, whole or not at all.

    TensorStore looks whether it is there, and then writes it: another process may come between.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partly = folder / f"{name}_{uuid.uuid4().hex}.__lock"  # as TensorStore calls what it writes
    try:
        with partly.open("xb") as file:
            file.write(value)
            file.flush()
            os.fsync(file.fileno())
        _link(partly, folder / name)
    except FileExistsError:
        return False
    finally:
        partly.unlink(missing_ok=True)
    return True


def _link(there: pathlib.Path, name: pathlib.Path) -> None:
    """Gives a file another name, unless that is taken.

    Raises:
      FileExistsError: if it is.
      OSError: if it can't be written.
    """
    try:
        os.link(there, name)
    except FileExistsError:
        raise
    except OSError:  # some file systems know one name for a file
        with name.open("xb") as file:
            try:
                file.write(there.read_bytes())
                file.flush()
            except OSError:
                name.unlink()  # our own, and not whole
                raise


def in_the_way(out: str, name: str) -> pathlib.Path | None:
    """Returns what lies on this machine where a file of a store can't be written because of it."""
    folder = _folder(out)
    if folder is None:
        return None
    file = folder / name
    above = file.parents[: len(file.parts) - len(folder.parts) - 1]
    files = [path for path in above if path.exists() and not path.is_dir()]
    return file if file.is_dir() else next(iter(files), None)


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
        links = [path for path in (folder, *folder.parents) if path.is_symlink()]
        if broken := [path for path in links if not path.exists()]:
            raise FileExistsError(
                f"{broken[0]} is a link to what is not there. Make that folder, or give another "
                "out."
            ) from None
        return []
    except NotADirectoryError as error:
        raise FileExistsError(
            f"{out} is a file, or in the place of a folder on the way to it is one. Give another "
            "out."
        ) from error


def names_below(out: str, folder: str) -> list[str]:
    """Lists the files of a store that begin with ``folder``, that ends in a slash, without that."""
    with reading(out):
        after = tensorstore().KvStore.KeyRange(folder, f"{folder[:-1]}0")  # 0 comes after /
        keys = kvstore(out).list(after).result()
    return [key.decode(errors="replace").removeprefix(folder) for key in keys]


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
    except (ValueError, OSError) as error:
        raise OSError(f"{what}: {short(error)}. The same call goes on when they can.") from error


def _folder(out: str) -> pathlib.Path | None:
    """Returns the path of a folder on this machine; None for addresses elsewhere."""
    if not _is_address(out):
        return pathlib.Path(out)
    url = urllib.parse.urlsplit(out)
    return pathlib.Path(urllib.request.url2pathname(url.path)) if url.scheme == "file" else None


def _url(out: str) -> str:
    """Returns the address of a store. What is none is a path."""
    base = out if _is_address(out) else pathlib.Path(out).absolute().as_uri()
    return base if base.endswith("/") else f"{base}/"
