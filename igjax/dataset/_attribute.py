"""``attribute_dataset``: attributions of all examples of a dataset, in a store, without loss."""

import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh

from igjax import baselines, paths, quadrature
from igjax._inputs import check_count, check_function
from igjax._transform import Settings, checked
from igjax.dataset import _hosts
from igjax.dataset._examples import Check, as_source
from igjax.dataset._layout import FIELDS, layout
from igjax.dataset._method import Method
from igjax.dataset._opening import opened, reopened
from igjax.dataset._programs import Compiler
from igjax.dataset._run import Run, Summary

Tree = Any

_DEFAULT_RULE = quadrature.to_tolerance()


def attribute_dataset(
    fun: Callable[..., Any],
    source: Any,
    *,
    out: str | os.PathLike[str],
    rule: quadrature.Rule | quadrature.Tolerance = _DEFAULT_RULE,
    baseline: Tree | baselines.Baseline = baselines.zeros,
    path: paths.Path = paths.straight_line,
    multiply_by_inputs: bool = True,
    batch_size: int | Literal["auto"] = "auto",
    mesh: Mesh | None = None,
    resume: bool = True,
    progress: bool = True,
    fields: Sequence[str] = FIELDS,
    buckets: Sequence[int] = (),
    on_error: Literal["record", "raise"] = "record",
) -> Summary:
    """Integrated gradients of all examples of a dataset, written to a Zarr store.

    What ``jax.vmap(integrated_grad(fun))`` does in a loop over batches, without its losses. An
    example that is done makes room for another, whatever the others in its batch need. What is done
    is on disk soon; a run that ends, in whatever way, is gone on with by the same call. An example
    that can't be attributed is recorded with the reason, and the others are done.

    Args:
      fun: a function ``(x, *rest)`` of one example to a scalar.
      source: the examples. An array with the examples along its first axis, or a tuple of one for
        each argument of ``fun``, each an array or a pytree of arrays; anything with ``__len__`` and
        ``__getitem__``, a Grain ``MapDataset`` or a list say, of examples, each ``x`` or a tuple
        ``(x, *rest)``; or an iterator or iterable of such examples, which has to give the same ones
        again for a run to be gone on with. All like the first.
      out: where the store is to be: a folder, or an address that TensorStore knows, such as
        ``gs://bucket/folder``. It must be absent or empty, hidden files aside, or hold such a
        store. Nothing in it is deleted.
      rule: see ``integrated_grad``.
      baseline: likewise.
      path: likewise.
      multiply_by_inputs: likewise.
      batch_size: the number of gradients that a device evaluates at once; ``"auto"`` tries which is
        fastest.
      mesh: the devices: the examples are spread over its first axis, and what ``fun`` closes over
        may be sharded over the others (of ``AxisType.Auto``). By default all devices of this
        process.
      resume: whether to go on with what is in ``out``; else it must not be there.
      progress: whether to show how far it is: a bar in terminals and notebooks, and now and then a
        message to the logger ``igjax`` elsewhere.
      fields: what to store, some of ``igjax.dataset.FIELDS``.
      buckets: lengths, for examples whose ``x`` has arrays with a first axis of different length.
        They are padded with zeros to the least of these that is enough, and ``fun`` is told by the
        keyword ``mask``, of shape ``(length,)``, what is no padding.
      on_error: ``"raise"`` stops at the first example that can't be attributed.

    Returns:
      A ``Summary``.

    The store has an array for each of ``fields``, the examples along the first axis:
    ``attributions`` (for each leaf of a pytree one, called ``attributions.name``, the name escaped
    as in an address; bfloat16 as float32), and the fields of ``Report``; with ``buckets`` also
    ``length``. ``status`` is 0 for what has not been done, 1 for what has, 2 for what can't be;
    ``reason`` then says why, in UTF-8. Its attributes are the settings, versions and fingerprints.
    ``zarr.open_group`` and ``xarray.open_zarr(…, consolidated=False)`` read it.

    Several processes (``jax.distributed``) with the same call share the work. Each has examples of
    its own and writes them by itself. When one dies, the same call by any number of processes does
    what is left. The others finish their shares if ``jax_enable_recoverability`` has been set
    before ``jax.distributed.initialize``, and process 0, with the coordinator, lives until they
    have; else JAX ends them too.

    Raises:
      TypeError: as ``integrated_grad``, and if ``source`` is nothing of the above.
      ValueError: likewise, and if ``out`` was made with something else than is asked for now, or
        arrays of it are damaged.
      FileExistsError: if it is there, and ``resume`` is False; or if something else is.
      OSError: if results can't be written. The same call goes on when they can.
      KeyboardInterrupt: after Ctrl-C, when what is done has been written.

    Example:
      >>> import tempfile
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> import zarr
      >>> from igjax.dataset import attribute_dataset
      >>> xs = np.linspace(0, 1, 300, dtype=np.float32).reshape(100, 3)
      >>> out = tempfile.mkdtemp()
      >>> summary = attribute_dataset(lambda x: jnp.sum(x**2), xs, out=out, progress=False)
      >>> summary.done, summary.failed
      (100, 0)
      >>> zarr.open_group(out)["attributions"][99].round(4)
      array([0.9867, 0.9933, 1.    ], dtype=float32)

    Source: Sundararajan, Taly & Yan 2017, eq. 1; the batching is that of servers of language
    models (Yu et al., "Orca", OSDI 2022), with gradients for tokens.
    """
    start = time.monotonic()
    check_function("attribute_dataset", fun)
    if on_error not in ("record", "raise"):
        raise ValueError(f'on_error must be "record" or "raise"; got {on_error!r}.')
    if batch_size != "auto":
        batch_size = check_count('batch_size (or "auto")', batch_size, least=1)
    examples = as_source(source)
    if examples.length is None and jax.process_count() > 1:
        raise ValueError(
            "several processes share the examples of a source by their number: it must have a "
            "length and give any example, as arrays, sequences and Grain's MapDataset do."
        )
    check = Check(examples.first, buckets)
    settings = checked(
        Settings(baseline, path, rule, multiply_by_inputs, None, has_report=True, sharding=None)
    )
    compiler = Compiler(_local_mesh() if mesh is None else mesh)
    lanes = max(1, len(check.buckets))
    method = Method(_with_mask(fun) if buckets else fun, settings, compiler, lanes)
    arrays = layout(*method.results(check.like), fields, padded=bool(buckets))
    out = os.fspath(out)
    store = _hosts.first_alone(
        lambda: opened(out, resume, arrays, method, check, examples, batch_size),
        lambda: reopened(out),
    )
    run = Run(store, method, check, examples, arrays)
    ready = time.monotonic() - start - compiler.seconds
    run.work(progress=progress, stop_at_errors=on_error == "raise")
    return run.summary(time.monotonic() - start, ready + compiler.seconds)


def _local_mesh() -> Mesh:
    return Mesh(np.array(jax.local_devices()), ("example",))


def _with_mask(fun: Callable[..., Any]) -> Callable[..., Any]:
    """``fun``, with what it calls ``mask`` as its last argument."""

    def masked(*args: Any) -> Any:
        return fun(*args[:-1], mask=args[-1])

    return masked
