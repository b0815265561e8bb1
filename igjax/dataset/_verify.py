"""Some rows of a store, attributed again: whether they still come out as they are there."""

import os
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from numpy.typing import NDArray

from igjax._inputs import check_count
from igjax._trees import Tree
from igjax.dataset import _creation, _kvstore
from igjax.dataset._attribute import attribute_dataset
from igjax.dataset._layout import ATTRIBUTIONS, field_of
from igjax.dataset._ragged import Buckets
from igjax.dataset._source import Rows, Source, as_source
from igjax.dataset._store import DONE, Store

_AT_ONCE = 1024  # numbers of examples looked at at once


class Verification(NamedTuple):
    """How rows of a store compare with what their examples give now.

    Attributes:
      examples: their numbers, int64.
      distances: of the attributions, float64: the L1 norm of the difference, relative to that of
        what is in the store.
      allowed: what each distance may be.
      changed: what is not as it was when the store was made, by name: what is there and what is
        here, None if that is not known. Of the data, ``data``: the hash of the first of these
        examples that is another; of an attribution of igjax's own its
        ``name``, and fingerprints of ``function``, ``baseline`` and ``rule``, of the numbers in
        them, as in ``function_constants``, and of all of it, ``equations`` and ``constants``;
        versions, ``device`` and ``matmul_precision``. (What is attributed at a layer or at tokens
        has no baseline of its own here.)
    """

    examples: NDArray[np.int64]
    distances: NDArray[np.float64]
    allowed: NDArray[np.float64]
    changed: dict[str, tuple[Any, Any]]

    @property
    def agrees(self) -> bool:
        """Returns whether all the rows are what they were."""
        return bool(np.all(self.distances <= self.allowed))


def verify(
    attribution: Callable[..., Any],
    source: Any,
    *,
    out: str | os.PathLike[str],
    examples: int = 10,
    within: float = 1e-3,
    seed: int = 0,
    mesh: Mesh | None = None,
    buckets: Buckets = (),
    ragged: Tree = None,
) -> Verification:
    """Attributes some examples of a store again, and compares.

    It tells whether results are still those of the model, the data and the machine at hand: before
    others build on them, after an update, or on another kind of device.

    Args:
      attribution: as ``attribute_dataset`` was given it.
      source: likewise.
      out: where the store is. Nothing in it is changed.
      examples: how many, drawn from those that are done.
      within: the relative L1 distance that is allowed. Where an attribution took another number of
        gradients, as one to a tolerance may, both errors are allowed in addition, if they were
        stored, and both have converged.
      seed: of the draw.
      mesh: as for ``attribute_dataset``.
      buckets: as ``attribute_dataset`` was given them.
      ragged: likewise.

    Returns:
      A ``Verification``.

    Raises:
      ValueError: if there is no store, or none of it is done; if it has no attributions, or their
        shapes are others; if ``source`` lacks an example that is there; in one of several
        processes.
      TypeError: as ``attribute_dataset``.

    Example:
      >>> import tempfile
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> import igjax
      >>> from igjax.dataset import attribute_dataset, verify
      >>> xs = np.linspace(0, 1, 300, dtype=np.float32).reshape(100, 3)
      >>> out = tempfile.mkdtemp()
      >>> attribution = igjax.integrated_grad(lambda x: jnp.sum(x**2))
      >>> summary = attribute_dataset(attribution, xs, out=out, progress=False)
      >>> verify(attribution, xs, out=out).agrees
      True
      >>> found = verify(igjax.integrated_grad(lambda x: jnp.sum(x**3)), xs, out=out)
      >>> found.agrees, "function" in found.changed
      (False, True)
    """
    examples = check_count("examples", examples, least=1)
    if not within >= 0:
        raise ValueError(f"within must be at least 0; got {within}.")
    if jax.process_count() > 1:
        raise ValueError("verify works in one process: call it without jax.distributed.")
    out = _kvstore.address(out)
    store = _creation.to_read(out)
    names = [name for name in store.fields if field_of(name) == ATTRIBUTIONS]
    if not names:
        raise ValueError(f"the store in {out} has no attributions to compare with.")
    done = np.flatnonzero(store.whole("status") == DONE)
    if not done.size:
        raise ValueError(f"nothing in the store in {out} is done yet.")
    drawn = np.random.default_rng(seed).choice(done, min(examples, done.size), replace=False)
    drawn = np.sort(drawn).astype(np.int64)
    given = as_source(source)
    with tempfile.TemporaryDirectory() as folder:
        attribute_dataset(
            attribution,
            _rows(given, drawn),
            out=folder,
            batch_size=min(store.attributes["batch_size"], len(drawn)),
            mesh=mesh,
            progress=False,
            buckets=buckets,
            ragged=ragged,
        )
        again = _creation.to_read(folder)
        new = {name: again.whole(name) for name in again.fields}
    old = {name: store.whole(name)[drawn] for name in store.fields}
    _check_shapes(old, new, names)
    distances = _norm(new, names, minus=old) / np.maximum(_norm(old, names), np.finfo(float).tiny)
    distances[new["status"] != DONE] = np.inf
    changed = _changed(_told(store, old), _told(again, new)) | _changed_data(drawn, old, new)
    return Verification(drawn, distances, within + _of_errors(old, new), changed)


def _rows(source: Source, numbers: NDArray[np.int64]) -> list[Any]:
    """Returns the examples of these numbers."""
    found, refused = {}, dict[int, str]()
    for item in source.read(lambda some: np.isin(some, numbers), _AT_ONCE):
        if isinstance(item, Rows):
            for row, number in enumerate(item.numbers.tolist()):
                found[number] = jax.tree.map(lambda leaf, row=row: leaf[row], item.args)
        else:
            refused[item.number] = f" ({item.reason})"
        if len(found) == len(numbers):  # a stream may never end
            return [found[number] for number in numbers.tolist()]
    missing = next(number for number in numbers.tolist() if number not in found)
    why = refused.get(missing, "")
    raise ValueError(f"the store has example {missing}, which source does not give{why}.")


def _check_shapes(old: dict[str, Any], new: dict[str, Any], names: list[str]) -> None:
    there = {name: old[name].shape[1:] for name in names}
    here = {n: a.shape[1:] for n, a in new.items() if field_of(n) == ATTRIBUTIONS}
    if there != here:
        raise ValueError(
            f"the store's attributions have shapes {there}; now they have {here}. Call with the "
            "attribution, the data and the buckets that the store was made with."
        )


def _norm(
    rows: dict[str, Any], names: list[str], minus: dict[str, Any] | None = None
) -> NDArray[np.float64]:
    """Returns the L1 norm of the attributions, less others, of each example."""
    total = np.zeros(len(rows[names[0]]))
    for name in names:
        difference = rows[name].astype(np.float64) - (0.0 if minus is None else minus[name])
        total += np.abs(difference).reshape(len(total), -1).sum(axis=1)
    return total


def _of_errors(old: dict[str, Any], new: dict[str, Any]) -> NDArray[np.float64]:
    """Returns what is allowed because a tolerance was met otherwise: both errors, relative."""
    none = np.zeros(len(new["status"]))
    if not {"num_evals", "converged"} <= old.keys() & new.keys():
        return none
    otherwise = (old["num_evals"] != new["num_evals"]) & old["converged"] & new["converged"]
    return np.where(otherwise, _error(old) + _error(new), none)


def _error(rows: dict[str, Any]) -> NDArray[np.float64]:
    """Returns the largest error of all outputs of each example; 0 where none is known."""
    largest = np.zeros(len(rows["status"]))
    for name, error in rows.items():
        if field_of(name) == "error":
            of_each = error.reshape(len(largest), -1).astype(np.float64).max(axis=1, initial=0.0)
            largest = np.maximum(largest, np.where(np.isfinite(of_each), of_each, 0.0))
    return largest


def _changed(there: dict[str, Any], here: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = [*there, *(name for name in here if name not in there)]
    return {
        name: (there.get(name), here.get(name))
        for name in names
        if there.get(name) != here.get(name)
    }


def _changed_data(
    numbers: NDArray[np.int64], old: dict[str, Any], new: dict[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Returns the first example that is not as it was."""
    others = np.flatnonzero(old["fingerprint"] != new["fingerprint"])
    if not others.size:
        return {}
    first = others[0]
    there, here = (f"{rows['fingerprint'][first]:016x}" for rows in (old, new))
    return {"data": (f"{there} of example {numbers[first]}", here)}


def _told(store: Store, rows: dict[str, Any]) -> dict[str, Any]:
    """Returns what a store says of what made these rows; of several versions, of the last ones."""
    attributes, made = store.attributes, store.made_with(rows["made_with"])
    others = {name: made[name] for name in ("device", "matmul_precision")}
    return {
        **attributes["attribution"],
        **(attributes.get("parts") or {}),
        **made["versions"],
        **others,
    }
