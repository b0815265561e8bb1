"""Other libraries' integrated gradients of one example, each called as its own users would.

All have one shape, ``rival(f, x, baseline, extras, n, internal_batch_size) -> attributions``:

* ``f``: of the torch rivals a function ``(xs, *extras) -> (rows,)`` of a batch, whose extras have a
  leading axis of 1; of the JAX rivals a function ``(x, *extras) -> scalar`` of one example.
* ``x``, ``baseline``: one example, ``(...)``, NumPy.
* ``extras``: the example's labels, masks or indices, NumPy, without a batch axis.
* ``n``: the number of nodes.
* ``internal_batch_size``: how many gradients at once, where the rival can be told.

Each imports its library when called, and that is in the extra ``bench``.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def captum(
    f: Callable[..., Any],
    x: Array,
    baseline: Array,
    extras: tuple[Array, ...],
    n: int,
    internal_batch_size: int | None,
) -> Array:
    """Captum's ``IntegratedGradients``: Gauss–Legendre, any number of nodes at once.

    Four Riemann sums are its other rules; it takes no nodes or path of the caller's. Its weights
    are float32 for a float64 input too. It has ``additional_forward_args`` for the extras, and
    copies each of them once a node: closed over, as here, they are not copied.
    ``internal_batch_size=None`` is one batch.
    """
    torch, attr = _import("torch"), _import("captum.attr")
    shared = _rows(torch, extras)
    x, baseline = _rows(torch, (x, baseline))
    attributions = attr.IntegratedGradients(lambda xs: f(xs, *shared)).attribute(
        x,
        baselines=baseline,
        n_steps=n,
        method="gausslegendre",
        internal_batch_size=internal_batch_size,
    )
    return attributions[0].numpy()


def captum_of_batch(
    f: Callable[..., Any],
    xs: Array,
    baselines: Array,
    extras: tuple[Array, ...],
    n: int,
    internal_batch_size: int,
) -> Array:
    """The same of many examples at once; ``extras`` have an axis for them in front, as ``xs`` has.

    Captum makes ``n`` copies of everything, and takes ``internal_batch_size`` of them at a time.
    """
    torch, attr = _import("torch"), _import("captum.attr")
    attributions = attr.IntegratedGradients(f).attribute(
        torch.tensor(xs),
        baselines=torch.tensor(baselines),
        additional_forward_args=tuple(map(torch.tensor, extras)),
        n_steps=n,
        method="gausslegendre",
        internal_batch_size=internal_batch_size,
    )
    return attributions.numpy()


def unifiedig_torch(
    f: Callable[..., Any],
    x: Array,
    baseline: Array,
    extras: tuple[Array, ...],
    n: int,
    internal_batch_size: int | None,  # noqa: ARG001
) -> Array:
    """UnifiedIG's torch backend: Gauss–Legendre, one node after the other in a Python loop.

    Only examples and baselines share a batch, nodes never do, so ``internal_batch_size`` has no
    meaning here. It takes a ``torch.nn.Module`` of one argument: the extras are closed over, and
    must then be those of all the examples of a call. Two calls of the network (at the baseline and
    at x) come on top of the ``n`` gradients. Of several outputs it explains all, less their mean,
    so it is given one. Left to choose n itself, it tries 16, then 32 and 64, until the attributions
    sum to the difference of the outputs.
    """
    torch = _import("torch")
    shared = _rows(torch, extras)
    model = torch.nn.Module()
    model.forward = lambda xs: f(xs, *shared)
    return _unifiedig(model, x, baseline, n)


def unifiedig_jax(
    f: Callable[..., Any],
    x: Array,
    baseline: Array,
    extras: tuple[Array, ...],
    n: int,
    internal_batch_size: int | None,  # noqa: ARG001
) -> Array:
    """UnifiedIG's JAX backend: Gauss–Legendre, one node after the other in a ``lax.scan``.

    As for torch, ``internal_batch_size`` has no meaning and the extras are closed over (its
    ``call_kwargs`` would do too, for functions that name them). It has no ``jit`` of its own, and
    cannot be put under one, for it looks at values; its loop is compiled anew at every call. For
    functions of one example there is ``vectorize=True``. It does not run where
    ``jax_numpy_rank_promotion`` is ``"raise"``.
    """
    uig = _import("unifiedig")
    model = uig.JaxModel(lambda row: f(row, *extras), vectorize=True)
    return _unifiedig(model, x, baseline, n)


def saliency(
    f: Callable[..., Any],
    x: Array,
    baseline: Array,
    extras: tuple[Array, ...],
    n: int,
    internal_batch_size: int,
) -> Array:
    """PAIR's ``saliency.core.IntegratedGradients``: n equal weights, at k/(n − 1) for k < n.

    Both ends count in full, so this is not the trapezoid rule, and its error falls as 1/n on smooth
    functions too; there is no other rule. The caller brings the gradients: here a compiled JAX
    function, kept for as long as the same ``f`` is passed. The points are made and the sum is taken
    on the host, in NumPy, one by one, and in float32; the points themselves are float64 (with
    NumPy 2) and are cast back here. A last batch of another size is compiled once more.
    """
    core = _import("saliency.core")

    def call_model(xs: Array, call_model_args: Any, expected_keys: Any) -> dict[str, Any]:
        del expected_keys  # of this method only the gradients
        gradients = _batched_gradient(f)(xs.astype(x.dtype), *call_model_args)
        return {core.INPUT_OUTPUT_GRADIENTS: gradients}

    return core.IntegratedGradients().GetMask(
        x,
        call_model,
        call_model_args=extras,
        x_baseline=baseline,
        x_steps=n,
        batch_size=internal_batch_size,
    )


@functools.lru_cache(maxsize=16)
def _batched_gradient(f: Callable[..., Any]) -> Callable[..., Any]:
    """The gradients of ``f`` at many points with one set of extras."""
    return jax.jit(lambda xs, *extras: jax.vmap(lambda x: jax.grad(f)(x, *extras))(xs))


def _unifiedig(model: Any, x: Array, baseline: Array, n: int) -> Array:
    explainer = _import("unifiedig").Explainer(
        model, baseline[None], n_steps=n, check_completeness=False
    )
    return explainer(x[None]).values[0]


def _rows(torch: Any, arrays: tuple[Array, ...]) -> tuple[Any, ...]:
    """As tensors, each a batch of one."""
    return tuple(torch.tensor(np.asarray(array)[None]) for array in arrays)


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'{error.name} is not installed: pip install "igjax[bench]"', name=error.name
        ) from error
