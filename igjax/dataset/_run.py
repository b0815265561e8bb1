"""``attribute_dataset``: attributions of all examples of a dataset, in a store, without loss."""

import contextlib
import dataclasses
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import jaxlib.version
import numpy as np
from jax.sharding import Mesh

from igjax import baselines, paths, quadrature
from igjax._inputs import check_count, check_function
from igjax._transform import Settings, checked
from igjax._version import __version__
from igjax.dataset import _fingerprint, _hosts, _interrupts, _progress, _store
from igjax.dataset._batches import Batch, ReadAhead, batches
from igjax.dataset._blocks import Blocks
from igjax.dataset._engine import Results, Tally, attributed
from igjax.dataset._examples import Check, Example, Refused, Source, as_source
from igjax.dataset._layout import FIELDS, LENGTH, finite, layout, rows
from igjax.dataset._method import Method
from igjax.dataset._programs import Compiler, Programs
from igjax.dataset._share import share_of
from igjax.dataset._store import Field, Store

Tree = Any

_CHUNK = 2**22  # bytes of results in a chunk of an array, at most
_LONGEST = 4096  # examples in a chunk, at most
_CHUNKS = 16  # for each process, at least, if there are as many examples
_DEFAULT_RULE = quadrature.to_tolerance()
_logger = logging.getLogger("igjax")


@dataclasses.dataclass(frozen=True)
class Summary:
    """What has become of a dataset, as far as this process knows.

    Attributes:
      out: where the store is.
      examples: how many there are in its share; of a stream, how many have been seen.
      done: how many have been attributed, in earlier runs too.
      failed: how many could not be.
      new: how many of either are of this run.
      num_evals: gradients that the attributions of this run needed.
      utilization: the share of the places in the programs that had an example in need of a step.
      seconds: that this run took, compilation and all.
    """

    out: str
    examples: int
    done: int
    failed: int
    new: int
    num_evals: int
    utilization: float
    seconds: float


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
        ``gs://bucket/folder``.
      rule: see ``integrated_grad``.
      baseline: likewise.
      path: likewise.
      multiply_by_inputs: likewise.
      batch_size: the number of gradients that a device evaluates at once; ``"auto"`` tries which is
        fastest.
      mesh: the devices: the examples are spread over its first axis, and what ``fun`` closes over
        may be sharded over the others. By default all devices of this process.
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
    ``attributions`` (for a pytree one each, called ``attributions.name``; bfloat16 as float32), and
    the fields of ``Report``; with ``buckets`` also ``length``. ``status`` is 0 for what has not
    been done, 1 for what has, 2 for what can't be; ``reason`` then says why, in UTF-8. Its
    attributes are the settings, versions and fingerprints. ``zarr.open_group`` and
    ``xarray.open_zarr(…, consolidated=False)`` read it.

    Several processes (``jax.distributed``) with the same call share the work. Each has examples of
    its own and writes them by itself. When one dies, the same call by any number of processes does
    what is left.

    Raises:
      TypeError: as ``integrated_grad``, and if ``source`` is nothing of the above.
      ValueError: likewise, and if ``out`` was made with something else than is asked for now.
      FileExistsError: if it is there, and ``resume`` is False.
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
    method = Method(_with_mask(fun) if buckets else fun, settings, compiler)
    arrays = layout(*method.results(check.like), fields, padded=bool(buckets))
    out = os.fspath(out)
    store = _hosts.first_alone(
        lambda: _opened(out, resume, arrays, method, check, examples, batch_size),
        lambda: _reopened(out),
    )
    run = _Run(store, method, check, examples, arrays)
    run.work(progress=progress, stop_at_errors=on_error == "raise")
    return run.summary(time.monotonic() - start)


def _local_mesh() -> Mesh:
    return Mesh(np.array(jax.local_devices()), ("example",))


def _with_mask(fun: Callable[..., Any]) -> Callable[..., Any]:
    """``fun``, with what it calls ``mask`` as its last argument."""

    def masked(*args: Any) -> Any:
        return fun(*args[:-1], mask=args[-1])

    return masked


def _opened(
    out: str,
    resume: bool,
    arrays: Mapping[str, Field],
    method: Method,
    check: Check,
    source: Source,
    batch_size: int | Literal["auto"],
) -> Store:
    """The store, if it was made with the same; or a new one."""
    identity = {
        "fields": sorted(arrays),
        "buckets": list(check.buckets),
        **method.fingerprints(check.like),
        "data": _fingerprint.of_data(source),
    }
    store = _store.open_existing(out)
    if store is not None:
        if not resume:
            raise FileExistsError(
                f"{out} holds attributions already. resume=True goes on with them; for new ones "
                "give another out."
            )
        _check_identity(store, identity)
        return store
    if batch_size == "auto":
        batch_size = method.fastest(check.like, source.length)
    size = max(field.dtype.itemsize * int(np.prod(field.shape)) for field in arrays.values())
    longest = max(1, min(_LONGEST, _CHUNK // max(size, 1)))
    share = -(-(source.length or _LONGEST) // (_CHUNKS * jax.process_count()))
    attributes = {
        "made_by": "igjax",
        "length": source.length,
        "block": min(longest, max(1, share)),
        "batch_size": batch_size,
        "versions": _versions(),
        "device": jax.devices()[0].device_kind,
        **identity,
    }
    return _store.create(out, arrays, source.length or 0, attributes)


def _reopened(out: str) -> Store:
    store = _store.open_existing(out)
    assert store is not None
    return store


_IDENTITY = {
    "function": "another function, or other parameters of it",
    "path_and_baseline": "another path or baseline",
    "rule": "another rule",
    "multiply_by_inputs": "another multiply_by_inputs",
    "fields": "other fields",
    "buckets": "other buckets",
    "data": "other data",
}


def _check_identity(store: Store, identity: Mapping[str, Any]) -> None:
    """Raises ValueError if the store was made with something else."""
    for name, what in _IDENTITY.items():
        there, here = store.attributes.get(name), identity[name]
        if there != here:
            versions = _versions()
            made = store.attributes["versions"]
            changed = ", ".join(
                f"{p} {made[p]} then, {v} now" for p, v in versions.items() if made[p] != v
            )
            raise ValueError(
                f"{store.out} was made with {what} ({name}: {there} there, {here} here). Call with "
                "what it was made with, or give another out."
                + (f" Or it is due to the versions: {changed}." if changed else "")
            )


def _versions() -> dict[str, str]:
    return {"igjax": __version__, "jax": jax.__version__, "jaxlib": jaxlib.version.__version__}


class _Run:
    """This process's part of a run.

    Args:
      store: where the results go.
      method: what is done with each example.
      check: what each has to be like.
      source: of the examples.
      arrays: of the store.
    """

    def __init__(
        self,
        store: Store,
        method: Method,
        check: Check,
        source: Source,
        arrays: Mapping[str, Field],
    ):
        self._store, self._method, self._check = store, method, check
        self._source, self._arrays = source, arrays
        self._share = share_of(store)
        self._blocks = Blocks(store, self._share.begun)
        total = None if store.attributes["length"] is None else self._share.examples
        self._meter = _progress.Meter(total, self._share.done, self._share.failed)
        self._tally = Tally()
        self._lengths: dict[int, int] = {}  # of examples that are padded, and on their way
        self._seen = 0  # examples that the source has given

    def work(self, *, progress: bool, stop_at_errors: bool) -> None:
        """Does what is left to do."""
        batch_size, compiler = int(self._store.attributes["batch_size"]), self._method.compiler
        width = self._method.width(batch_size)
        reader = ReadAhead(batches(self._examples(), width, compiler.examples))

        def programs_of(batch: Batch) -> Programs:
            return self._method.programs(batch.like, batch_size)

        items = attributed(reader, programs_of, compiler.devices, self._tally)
        refused: Refused | None = None
        with (
            contextlib.closing(reader),
            _progress.shown(self._meter, show=progress) as show,
            _interrupts.noted() as came,
        ):
            try:
                for item in items:
                    refused = self._take(item) or refused
                    show()
                    if came() or (refused and stop_at_errors):
                        break
                else:
                    self._measure_stream()
            except OSError:  # from writing: there is no use in trying again
                self._blocks.abandon()
                raise
            except BaseException:
                self._blocks.close()
                raise
            self._blocks.close()
            signal_number = came()
        if refused and stop_at_errors:
            raise ValueError(f"example {refused.number}: {refused.reason}") from refused.error
        if signal_number is not None:
            self._leave(signal_number)

    def summary(self, seconds: float) -> Summary:
        """What has become of it."""
        meter = self._meter
        return Summary(
            out=self._store.out,
            examples=meter.done + meter.failed if meter.total is None else meter.total,
            done=meter.done,
            failed=meter.failed,
            new=meter.new,
            num_evals=meter.num_evals,
            utilization=self._tally.utilization,
            seconds=seconds,
        )

    def _examples(self) -> Iterator[Example | Refused]:
        """Those to be done, read and checked. In the reader's thread."""
        if self._source.length is None and self._store.attributes["length"] is not None:
            return  # a stream that has been read to its end
        for index, given in self._source.read(self._wants):
            example = self._check(index, given)
            if isinstance(example, Example) and self._check.buckets:
                self._lengths[index] = example.length
            yield example

    def _wants(self, index: int) -> bool:
        self._seen = max(self._seen, index + 1)
        return self._share.wants(index)

    def _take(self, item: Results | Refused) -> Refused | None:
        """Puts what has come where it belongs; gives back the last that was refused."""
        if isinstance(item, Refused):
            self._meter.add_failed()
            self._blocks.failed(item.number, item.reason, {})
            return item
        good, values = finite(item), rows(item, self._arrays)
        if self._check.buckets:
            lengths = [self._lengths.pop(int(index)) for index in item.indices]
            values[LENGTH] = np.array(lengths, np.int32)
        self._meter.add(item.report, good)
        self._blocks.done(item.indices[good], {n: value[good] for n, value in values.items()})
        refused = None
        for row in np.flatnonzero(~good):
            value = item.report.value[row]
            reason = (
                "its attributions are not finite."
                if np.isfinite(value)
                else f"the function's value is not finite: {value}."
            )
            refused = Refused(int(item.indices[row]), reason)
            own = {name: value[row : row + 1] for name, value in values.items()}
            self._blocks.failed(refused.number, reason, own)
        return refused

    def _measure_stream(self) -> None:
        """Now that the source has ended, its length is known."""
        if self._store.attributes["length"] is None:
            self._store.resize(self._seen)
            self._store.note(length=self._seen)

    def _leave(self, number: signal.Signals) -> None:
        """After a signal: says what is to be said, and does what the signal asks for."""
        message = f"{self._meter}. They are in {self._store.out}: the same call goes on from there."
        if number == signal.SIGINT:
            raise KeyboardInterrupt(message)
        _logger.warning("%s: %s", number.name, message)
        signal.raise_signal(number)
