"""How a store comes to be, and is found again. Nothing is ever deleted.

It begins as a ``zarr.json`` that says what it is to be, which only an empty folder gets. Then its
arrays are made, ``status`` last: a store that has it is whole. What a run leaves that is killed
before is completed by the next.
"""

import json
from collections.abc import Mapping
from typing import Any

from igjax.dataset import _kvstore
from igjax.dataset._format import BOOKKEEPING, GROUP, Field, group, metadata
from igjax.dataset._store import Store

MADE_BY = "igjax"
_NEEDED = {"block", "fields", "length"}  # attributes that a store can't be opened without


def found(out: str) -> dict[str, Any] | None:
    """Reads the attributes of the store there, whole or only begun; None if there is none.

    Raises:
      FileExistsError: if something else has the name of its metadata.
      OSError: if it can't be read.
    """
    with _kvstore.reading(out):
        read = _kvstore.kvstore(out).read(GROUP).result()
    if read.state != "value":
        return None
    try:
        written = json.loads(read.value)
    except ValueError:
        written = None
    attributes = written.get("attributes", {}) if isinstance(written, dict) else None
    if isinstance(attributes, dict) and attributes.get("made_by") != MADE_BY:
        raise FileExistsError(
            f"{out} is a Zarr group or array, but none that igjax has made. Give another out."
        )
    if not isinstance(attributes, dict) or not attributes.keys() >= _NEEDED:
        raise FileExistsError(
            f"{out} holds a {GROUP} that is damaged. Bring it back from a copy, if there are "
            "results beside it; or give another out."
        )
    return attributes


def check_empty(out: str) -> None:
    """Checks that there is nothing where a store is to be.

    Hidden files don't count: systems put them where they like, and nothing in a store has such a
    name. Nor does what a process leaves that is killed while it writes the metadata.

    Raises:
      FileExistsError: if there is something.
      OSError: if that can't be told.
    """
    names = {name for name in _kvstore.names_in(out) if not name.startswith(".")}
    names -= {name for name in names if name.startswith(GROUP) and name.endswith(".__lock")}
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise FileExistsError(
            f"{out} is not empty, and no store that igjax has begun: it holds {min(names)}{more}, "
            f"and no {GROUP} of igjax. Give another out; or bring {GROUP} back from a copy, if "
            "these are results."
        )


def begin(out: str, attributes: Mapping[str, Any]) -> bool:
    """Writes there what the store is to be. Returns False if another run has done so before.

    Raises:
      OSError: if it can't be written.
    """
    with _kvstore.writing(out):
        files = _kvstore.kvstore(out)
        before = files.read(GROUP).result()
        if before.state == "value":
            return False
        absent = before.stamp.generation
        written = files.write(GROUP, group(attributes), if_equal=absent).result()
    return bool(written.generation)


def complete(out: str, fields: Mapping[str, Field], attributes: dict[str, Any]) -> Store:
    """Opens the store that has been begun, and makes those of its arrays that are not there yet.

    Raises:
      ValueError: if it has been damaged.
      OSError: if it can't be written.
    """
    if _whole(out):
        return _opened(out, attributes, write=True)
    length, block = attributes["length"] or 0, int(attributes["block"])
    arrays = {}
    with _kvstore.writing(out):
        for name, field in {**fields, **BOOKKEEPING}.items():
            like = metadata(name, field, length, block)
            arrays[name] = _array(out, name, {"metadata": like}, open=True, create=True).result()
    return Store(out, attributes, arrays)


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
    return _opened(out, attributes, write=write)


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


def _opened(out: str, attributes: dict[str, Any], *, write: bool) -> Store:
    names = [*attributes["fields"], *BOOKKEEPING]
    opening = {name: _array(out, name, {}, open=True, read=True, write=write) for name in names}
    try:
        arrays = {name: array.result() for name, array in opening.items()}
    except ValueError as error:
        raise ValueError(
            f"the store in {out} is damaged: {_kvstore.short(error)}. Bring that back from a copy, "
            "or give another out."
        ) from error
    return Store(out, attributes, arrays)


def _array(out: str, name: str, more: Mapping[str, Any], **how: Any) -> Any:
    """Begins to open an array. All that is done is written, and nothing else made up."""
    spec = {
        "driver": "zarr3",
        "kvstore": _kvstore.part(out, name),
        "store_data_equal_to_fill_value": True,
        "fill_missing_data_reads": False,
        **more,
    }
    return _kvstore.tensorstore().open(spec, context=_kvstore.context(), **how)
