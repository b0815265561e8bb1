"""Fingerprints of functions: whether a run goes on with what it began with."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from igjax._jaxpr import program
from igjax._sharding import is_number
from igjax._trees import Tree
from igjax.dataset import _callbacks


def of_function(fun: Callable[..., Any], *args: Tree) -> dict[str, str]:
    """Returns that of what ``fun`` computes from arguments like these."""
    return of_equations([program.trace(fun, *args).closed])


def of_equations(functions: Sequence[Any]) -> dict[str, str]:
    """Returns that of functions: of their equations, and of what they close over.

    Args:
      functions: what ``jax.make_jaxpr`` makes of each.
    """
    equations, constants = (hashlib.blake2b(digest_size=16) for _ in range(2))
    checksums: dict[int, bytes] = {}
    for closed in functions:
        for line in _lines(program.opened(closed)):
            equations.update(line.encode())
        for constant in program.constants(closed):
            if id(constant) not in checksums:  # the functions share them
                checksums[id(constant)] = _of_constant(constant)
            constants.update(checksums[id(constant)])
    return {"equations": equations.hexdigest(), "constants": constants.hexdigest()}


def _lines(jaxpr: Any) -> Iterator[str]:
    """Says what a function does, in the same words in each process, whatever JAX has traced before.

    (What JAX prints depends on which parts of a function it has met already.)
    """
    names: dict[Any, int] = {}

    def said(atom: Any) -> str:
        if isinstance(atom, Literal):
            return f"{np.asarray(atom.val).tolist()!r}:{atom.aval}"
        return f"{names.setdefault(atom, len(names))}:{atom.aval}"

    yield " ".join(map(said, [*jaxpr.constvars, *jaxpr.invars]))
    for eqn in jaxpr.eqns:
        inside = program.inside(eqn)
        params = sorted(
            (name, _parameter(eqn.primitive.name, value))
            for name, value in eqn.params.items()
            if not any(part is value or _holds(value, part) for part in inside)
        )
        yield f"{eqn.primitive.name}{params}({' '.join(map(said, eqn.invars))})"
        for part in inside:
            yield from _lines(program.opened(part))
        yield " ".join(map(said, eqn.outvars))
    yield f"return {' '.join(map(said, jaxpr.outvars))}"


def _parameter(primitive: str, value: Any) -> str:
    if callable(value) and primitive in _CALLED_BACK:
        return _callbacks.told(value)
    return _ADDRESS.sub("", repr(value))


_CALLED_BACK = ("pure_callback", "io_callback")  # the results of which depend on Python
_ADDRESS = re.compile(r"0x[0-9a-f]+")


def _holds(value: Any, part: Any) -> bool:
    return isinstance(value, tuple | list) and any(part is own for own in value)


def _of_constant(constant: Any) -> bytes:
    value = jnp.asarray(constant) if is_number(constant) else jax.random.key_data(constant)
    said = f"{constant.dtype}{constant.shape}".encode()
    return said + np.asarray(_checksum(value)).tobytes()


# Dtypes of less than a byte, which have no bits to look at, and others that hold the same.
_WHOLE = {"bool": jnp.int8, "float4_e2m1fn": jnp.float16} | {
    f"{kind}{bits}": jnp.int8 for kind in ("int", "uint") for bits in (2, 4)
}


@jax.jit
def _checksum(array: jax.Array) -> jax.Array:
    """Returns two numbers that change with any bit of an array, wherever in it.

    Computed where the array is, and the same however it is spread over devices, since sums of
    integers don't depend on their order.
    """
    array = array.astype(_WHOLE.get(array.dtype.name, array.dtype))
    width = {1: jnp.uint8, 2: jnp.uint16}.get(array.dtype.itemsize, jnp.uint32)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        array = jnp.stack([array.real, array.imag])
    bits = jax.lax.bitcast_convert_type(array, width).astype(jnp.uint32).ravel()
    place = jax.lax.iota(jnp.uint32, bits.size) * jnp.uint32(0x9E3779B9) + jnp.uint32(0x85EBCA6B)
    mixed = (bits ^ place) * (place | jnp.uint32(1))
    mixed = (mixed ^ (mixed >> jnp.uint32(15))) * jnp.uint32(0xC2B2AE35)
    return jnp.stack(
        [jnp.sum(mixed, dtype=jnp.uint32), jnp.sum(mixed >> jnp.uint32(7), dtype=jnp.uint32)]
    )
