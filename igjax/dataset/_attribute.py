"""``attribute_dataset``: attributions of all examples of a dataset, in a store, without loss."""

import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh

from igjax._engine.attribution import Attribution
from igjax._inputs import check_count, check_flag, check_function, is_auto
from igjax._trees import Tree
from igjax.dataset import _hosts, _interrupts, _kvstore
from igjax.dataset._attributes import MOST_AT_ONCE
from igjax.dataset._blindness import check_baseline_blind_to_padding
from igjax.dataset._check import Check
from igjax.dataset._compiler import Compiler
from igjax.dataset._layout import layout
from igjax.dataset._method import Method
from igjax.dataset._opening import opened, reopened
from igjax.dataset._ragged import Buckets
from igjax.dataset._run import Run, Summary
from igjax.dataset._source import as_source, first_of
from igjax.dataset._stages import Returned
from igjax.dataset._tuning import Tuning

_logger = logging.getLogger("igjax")


def attribute_dataset(
    attribution: Callable[..., Any],
    source: Any,
    *,
    out: str | os.PathLike[str],
    batch_size: int | Literal["auto"] = "auto",
    mesh: Mesh | None = None,
    resume: bool = True,
    progress: bool = True,
    fields: Sequence[str] | None = None,
    buckets: Buckets = (),
    ragged: Tree = None,
    on_error: Literal["record", "raise"] = "record",
) -> Summary:
    """Writes the attributions of all examples of a dataset to a Zarr store.

    It does what ``jax.vmap(attribution)`` does in a loop over batches, without its losses. An
    example that is done makes room for another, whatever the others in its batch need. What is done
    is on disk soon; a run that ends, in whatever way, is gone on with by the same call. An example
    that can't be attributed is recorded with the reason, and the others are done.

    Args:
      attribution: a function of one example's arguments that returns attributions, or a pair of
        them and a ``Report``; pytrees of arrays. What igjax's transforms return goes on step by
        step, as does ``igjax.from_arguments`` of such; another function takes whole batches.
      source: the examples. An array with the examples along its first axis, or a tuple of one for
        each argument, each an array or a pytree of arrays; anything with ``__len__`` and
        ``__getitem__``, a Grain ``MapDataset`` or a list say, of examples, each the argument or a
        tuple of all; or an iterator or iterable of such examples, which has to give the same ones
        again for a run to be gone on with. All like the first.
      out: where the store is to be: a folder, or an address that TensorStore knows, such as
        ``gs://bucket/folder``. It must be absent or empty, ``.gitkeep`` and the like aside, or
        hold such a store. Nothing in it is deleted.
      batch_size: the number of examples that a device works on at once; ``"auto"`` tries which is
        fastest, as far as trying pays. (How many nodes of an example are evaluated at once is what
        the attribution's own ``batch_size`` says.)
      mesh: the devices: the examples are spread over its first axis, and what the attribution
        closes over may be sharded over the others (of ``AxisType.Auto``). By default all devices of
        this process.
      resume: whether to go on with what is in ``out``; else it must not be there.
      progress: whether to show how far it is: a bar in terminals and notebooks, and now and then a
        message to the logger ``igjax`` elsewhere.
      fields: what to store, some of ``igjax.dataset.FIELDS``; None for all that there are.
      buckets: sizes, for examples of different length. Axes are padded with zeros to the least of
        these that is enough. A sequence of sizes is for the first axis of the arrays of the first
        argument, and the attribution is told by the keyword ``mask``, of shape ``(size,)``, what is
        no padding. A dictionary has sizes for each of several lengths, by names of yours, which
        are the keywords of their masks. A baseline or a path that would see padding is refused.
      ragged: which axes have which length: like the arguments, or a prefix of them (as ``in_axes``
        of ``jax.vmap``), of strings that have a name for each axis from the first, ``_`` for those
        that are not padded: ``("nodes", "edges", "edges _", None)``. The length of ``buckets``
        without names is called ``mask``.
      on_error: ``"raise"`` stops at the first example that can't be attributed.

    Returns:
      A ``Summary``.

    The store has an array for each of ``fields``, the examples along the first axis:
    ``attributions`` and, with a ``Report``, its fields. If one is a pytree, each leaf has an array,
    called ``attributions.name``, the name escaped as in an address; bfloat16 is stored as float32.
    With ``buckets`` there is also ``length``, or ``length.name`` for each name. ``status`` is 0 for
    what has not been done, 1 for what has, 2 for what can't be: its attributions, or the value in
    its report, are not finite; ``failure`` then says why, in UTF-8. ``fingerprint`` is a hash of
    the example, ``made_with`` a place in the list of versions and devices of that name in the
    attributes, ``checksum`` one of all that is written of the example. ``zarr.open_group`` and
    ``xarray.open_zarr(…, consolidated=False)`` read it.

    Several processes (``jax.distributed``) with the same call share the work. Each has examples of
    its own and writes them by itself. When one dies, the same call by any number of processes does
    what is left. The others finish their shares if ``jax_enable_recoverability`` has been set
    before ``jax.distributed.initialize``, and process 0, with the coordinator, lives until they
    have; else JAX ends them too.

    Raises:
      TypeError: as the attribution, if that returns anything but real arrays, and if ``source`` is
        nothing of the above.
      ValueError: as the attribution; if ``out`` was made with something else than is asked for now,
        as far as examples that are done are compared with what ``source`` gives; if the metadata of
        its arrays is damaged; if a baseline or a path would see padding.
      FileExistsError: if it is there, and ``resume`` is False; or if something else is, or lies
        where results are to be written.
      OSError: if results can't be written. The same call goes on when they can.
      KeyboardInterrupt: after Ctrl-C, when what is done has been written; after SIGTERM too, if
        that has not ended the process.

    Example:
      >>> import tempfile
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> import zarr
      >>> import igjax
      >>> from igjax.dataset import attribute_dataset
      >>> xs = np.linspace(0, 1, 300, dtype=np.float32).reshape(100, 3)
      >>> attribution = igjax.integrated_grad(
      ...     lambda x: jnp.sum(x**2), rule=igjax.quadrature.to_tolerance(0.01), has_report=True
      ... )
      >>> out = tempfile.mkdtemp()
      >>> summary = attribute_dataset(attribution, xs, out=out, progress=False)
      >>> summary.done, summary.failed
      (100, 0)
      >>> zarr.open_group(out)["attributions"][99].round(4)
      array([0.9867, 0.9933, 1.    ], dtype=float32)

    Source: the batching is that of servers of language models (Yu et al., "Orca", OSDI 2022), with
    gradients for tokens.
    """
    return run(
        attribution,
        source,
        out=out,
        batch_size=batch_size,
        mesh=mesh,
        resume=resume,
        progress=progress,
        fields=fields,
        buckets=buckets,
        ragged=ragged,
        on_error=on_error,
    )


def run(
    attribution: Callable[..., Any],
    source: Any,
    *,
    out: str | os.PathLike[str],
    batch_size: int | Literal["auto"],
    mesh: Mesh | None,
    resume: bool,
    progress: bool,
    fields: Sequence[str] | None,
    buckets: Buckets,
    ragged: Tree,
    on_error: str,
    tuning: Tuning = Tuning(),  # noqa: B008, of numbers
) -> Summary:
    """Does what ``attribute_dataset`` says, with another tuning, too."""
    start = time.monotonic()
    check_function("attribute_dataset", attribution)
    out = _kvstore.address(out)
    if on_error not in ("record", "raise"):
        raise ValueError(f'on_error must be "record" or "raise"; got {on_error!r}.')
    if mesh is not None and not isinstance(mesh, Mesh):
        raise TypeError(f"mesh must be a jax.sharding.Mesh; got {mesh!r}.")
    check_flag("resume", resume)
    check_flag("progress", progress)
    if not is_auto(batch_size):
        batch_size = check_count('batch_size (or "auto")', batch_size, least=1)
    with _interrupts.noted() as signals:
        examples = as_source(source)
        if examples.length is None and jax.process_count() > 1:
            raise ValueError(
                "several processes share the examples of a source by their number: it must have a "
                "length and give any example, as arrays, sequences and Grain's MapDataset do."
            )
        check = Check(first_of(examples), buckets, ragged)
        if batch_size != "auto":
            batch_size = _as_many_as_there_are(batch_size, examples.length)
        compiler = Compiler(_local_mesh() if mesh is None else mesh, signals.check)
        method = Method(attribution, compiler)
        returned = method.returned(check.like)
        check_baseline_blind_to_padding(attribution, check)
        if not isinstance(attribution, Attribution):
            _doubt(method.name, returned)
        arrays = layout(returned, fields, check.ragged.fields.values())
        store = _hosts.first_alone(
            lambda: opened(out, resume, arrays, method, check, examples, batch_size, tuning),
            lambda: reopened(out),
        )
        work = Run(store, method, check, examples, arrays, tuning.flush_every)
        ready = time.monotonic() - start - compiler.seconds
        work.work(signals, progress=progress, stop_at_errors=on_error == "raise")
        return work.summary(time.monotonic() - start, ready + compiler.seconds)


def _local_mesh() -> Mesh:
    return Mesh(np.array(jax.local_devices()), ("example",))


def _as_many_as_there_are(batch_size: int, length: int | None) -> int:
    """Returns ``batch_size``, if there are as many examples: places for more would cost memory."""
    if length is not None:
        return min(batch_size, length)
    if batch_size > MOST_AT_ONCE:
        raise ValueError(
            f"batch_size must be at most {MOST_AT_ONCE} for a source without a length; "
            f"got {batch_size}."
        )
    return batch_size


def _doubt(name: str, returned: Returned) -> None:
    """Says so if a function looks like one to be attributed, and not like an attribution."""
    leaves = jax.tree.leaves(returned.attributions)
    if returned.report is None and [leaf.shape for leaf in leaves] == [()]:
        _logger.warning(
            "%s returns one number for each example, which is stored. If its attributions were "
            "meant: give attribute_dataset igjax.integrated_grad(%s).",
            name,
            name,
        )
