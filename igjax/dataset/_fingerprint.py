"""Fingerprints of functions and data: whether a run goes on with what it began with."""

import hashlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from igjax._jaxpr import program
from igjax._sharding import is_number
from igjax._trees import Tree
from igjax.dataset._examples import Rows, Source

_HASHED_WHOLE = 2**31  # bytes: of arrays that are larger, a sample is looked at
_SAMPLE = 64  # examples
_READ = 1024  # numbers of examples looked at at once, for those of the sample


def of_function(fun: Callable[..., Any], *args: Tree) -> str:
    """Of what ``fun`` computes from arguments like these: its equations and its constants."""
    closed = jax.make_jaxpr(fun)(*args)
    digest = hashlib.blake2b(digest_size=16)
    digest.update(re.sub(r"0x[0-9a-f]+", "", str(closed)).encode())  # addresses change
    for constant in program.constants(closed):
        value = jnp.asarray(constant) if is_number(constant) else jax.random.key_data(constant)
        digest.update(f"{constant.dtype}{constant.shape}".encode())
        digest.update(np.asarray(_checksum(value)).tobytes())
    return digest.hexdigest()


def of_data(source: Source) -> str:
    """Of the examples: of all that is in arrays, if that is not too much, and else of some.

    Of a stream it is the first one; of others, some that are evenly spread.
    """
    digest = hashlib.blake2b(f"{source.length}".encode(), digest_size=16)
    for part in _looked_at(source):
        for leaf in map(np.ascontiguousarray, jax.tree.leaves(part)):
            digest.update(f"{leaf.dtype}{leaf.shape}".encode())
            digest.update(leaf.ravel().view(np.uint8).data)
        digest.update(b"next")
    return digest.hexdigest()


def _looked_at(source: Source) -> Iterator[Any]:
    if source.length is None:
        return iter([source.first.args] if source.first else [])
    arrays = jax.tree.leaves(source.arrays)
    if arrays and sum(array.nbytes for array in arrays) <= _HASHED_WHOLE:
        return iter(arrays)
    step = max(1, source.length // _SAMPLE)
    read = source.read(lambda numbers: numbers % step == 0, _READ)
    return (item.args if isinstance(item, Rows) else () for item in read)


@jax.jit
def _checksum(array: jax.Array) -> jax.Array:
    """Two numbers that change with any bit of an array, wherever in it.

    Computed where the array is, and the same however it is spread over devices, since sums of
    integers don't depend on their order.
    """
    width = {1: jnp.uint8, 2: jnp.uint16}.get(array.dtype.itemsize, jnp.uint32)
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        array = jnp.stack([array.real, array.imag])
    bits = jax.lax.bitcast_convert_type(array, width).astype(jnp.uint32).ravel()
    place = jax.lax.iota(jnp.uint32, bits.size) * jnp.uint32(0x9E3779B9) + jnp.uint32(0x85EBCA6B)
    mixed = (bits ^ place) * (place | jnp.uint32(1))
    mixed = (mixed ^ (mixed >> jnp.uint32(15))) * jnp.uint32(0xC2B2AE35)
    return jnp.stack(
        [jnp.sum(mixed, dtype=jnp.uint32), jnp.sum(mixed >> jnp.uint32(7), dtype=jnp.uint32)]
    )
