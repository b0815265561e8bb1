"""How a store comes to be, and is found again. Nothing is ever deleted.

It begins as a ``zarr.json`` that says what it is to be, which only an empty folder gets. Then its
arrays are made, ``status`` last: a store that has it is whole. What a run leaves that is killed
before is completed by the next.
"""

from collections.abc import Mapping
from typing import Any

from igjax.dataset import _kvstore
from igjax.dataset._attributes import Attributes, fields_of, parsed
from igjax.dataset._format import BOOKKEEPING, GROUP, from_json, group, metadata
from igjax.dataset._store import Store

# What systems and their users put into folders that are empty otherwise.
_HIDDEN = {".DS_Store", ".directory", ".gitignore", ".gitkeep", ".keep", ".localized"}
_COMPARED = ("shape", "chunk_grid", "data_type")  # of an array: TensorStore puts the rest in order


def found(out: str) -> Attributes | None:
    """Reads the attributes of the store there, whole or only begun; None if there is none.

    Raises:
      FileExistsError: if something else has the name of its metadata, or that is damaged.
      OSError: if it can't be read.
    """
    with _kvstore.reading(out):
        read = _kvstore.kvstore(out).read(GROUP).result()
    return parsed(out, read.value) if read.state == "value" else None


def check_empty(out: str) -> None:
    """Checks that there is nothing where a store is to be.

    A few hidden files don't count: systems put them where they like, and nothing in a store has
    such a name. Nor does what a process leaves that is killed while it writes the metadata.

    Raises:
      FileExistsError: if there is something.
      OSError: if that can't be told.
    """
    names = {name for name in _kvstore.names_in(out) if name not in _HIDDEN}
    names -= {name for name in names if name.startswith(GROUP) and name.endswith(".__lock")}
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise FileExistsError(
            f"{out} is not empty, and no store that igjax has begun: it holds {min(names)}{more}, "
            f"and no {GROUP} of igjax. Give another out; or bring {GROUP} back from a copy, if "
            "these are results."
        )


def begin(out: str, attributes: Attributes) -> bool:
    """Writes there what the store is to be. Returns False if another run has done so before.

    Raises:
      OSError: if it can't be written.
    """
    return _kvstore.create(out, GROUP, group(attributes))


def complete(out: str, attributes: Attributes) -> Store:
    """Opens the store that has been begun, and makes those of its arrays that are not there yet.

    Raises:
      ValueError: if it has been damaged.
      OSError: if it can't be written.
    """
    return _opened(out, attributes, write=True, create=not _whole(out))


def open_existing(out: str, *, write: bool = True) -> Store | None:
    """Opens the store there; None if there is none, or none that is whole.

    Raises:
      FileExistsError: if there is something else.
      ValueError: if it has been damaged.
      OSError: if it can't be read.
    """
    attributes = found(out)
    if attributes is None or not _whole(out):
        return None
    return _opened(out, attributes, write=write, create=False)


def to_read(out: str) -> Store:
    """Opens the store there, of which nothing is to be changed.

    Raises:
      ValueError: if there is none, or it has been damaged.
      FileExistsError: if there is something else.
      OSError: if it can't be read.
    """
    store = open_existing(out, write=False)
    if store is None:
        raise ValueError(f"there is no store of attributions in {out}.")
    return store


def _whole(out: str) -> bool:
    with _kvstore.reading(out):
        last = _kvstore.kvstore(out).read(f"{[*BOOKKEEPING][-1]}/{GROUP}").result()
    return bool(last.state == "value")


def _opened(out: str, attributes: Attributes, *, write: bool, create: bool) -> Store:
    """Opens the arrays of a store, and makes, if that is to be, those that are not there."""
    length, block = attributes["length"], attributes["block"]
    files, arrays = _kvstore.kvstore(out), {}
    fields = fields_of(attributes)
    texts = {name: files.read(f"{name}/{GROUP}") for name in fields}
    for name, field in fields.items():
        like = metadata(name, field, length or 0, block)
        with _kvstore.reading(out):
            text = texts[name].result()
        if text.state == "value":
            there = from_json(text.value)
            _check_array(out, name, there, like, growing=length is None)
        elif create:
            there = like
            with _kvstore.writing(out):
                _array(out, name, metadata=there, open=True, create=True).result()
        else:
            raise _damaged(out, f"{name}/{GROUP} is not there")
        how: dict[str, Any] = {"open": True, "read": True, "write": write}
        if length is not None:
            # With room for all of the last chunk: TensorStore reads a chunk of which it writes a
            # part, and can't where that is damaged.
            room = [-(-length // block) * block, *field.shape]
            how |= {"metadata": {**there, "shape": room}, "assume_metadata": True}
        try:
            arrays[name] = _array(out, name, **how).result()
        except ValueError as error:
            raise _damaged(out, _kvstore.short(error)) from error
    if length is None:  # what the arrays claim may be anything
        length = min(_written(out) * block, *(array.shape[0] for array in arrays.values()))
    return Store(out, attributes, arrays, length)


def _check_array(
    out: str, name: str, there: Any, like: Mapping[str, Any], *, growing: bool
) -> None:
    """Checks that an array is what it is to be, before it is opened.

    Raises:
      ValueError: if it is not.
    """
    if not isinstance(there, dict):
        raise _damaged(out, f"{name}/{GROUP} is no JSON object")
    for key in _COMPARED:
        found, expected = there.get(key), like[key]
        if key == "shape" and growing and isinstance(found, list):
            found, expected = found[1:], expected[1:]
        if found != expected:
            said = str(found)[:80]
            raise _damaged(out, f"{name}/{GROUP} has {key} {said}, where {expected} is to be")


def _damaged(out: str, what: str) -> ValueError:
    return ValueError(
        f"the store in {out} is damaged: {what}. Bring that back from a copy, or give another out."
    )


def _written(out: str) -> int:
    """Returns how many blocks there are up to the last that has been written."""
    folder = f"{[*BOOKKEEPING][-1]}/c/"
    names = _kvstore.names_below(out, folder)
    return 1 + max((int(name) for name in names if name.isdecimal()), default=-1)


def _array(out: str, name: str, *, metadata: Mapping[str, Any] | None = None, **how: bool) -> Any:
    """Begins to open an array. All that is done is written, and nothing else made up."""
    spec = {
        "driver": "zarr3",
        "kvstore": _kvstore.part(out, name),
        "store_data_equal_to_fill_value": True,
        "fill_missing_data_reads": False,
        **({} if metadata is None else {"metadata": dict(metadata)}),
    }
    return _kvstore.tensorstore().open(spec, context=_kvstore.context(), **how)
