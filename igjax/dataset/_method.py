"""What is done with each example: the attribution, its stages and its programs."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from igjax._engine.attribution import Attribution
from igjax._padding import padded
from igjax._trees import Tree
from igjax.dataset import _fingerprint
from igjax.dataset._check import Given
from igjax.dataset._compiler import Compiler, Tile
from igjax.dataset._programs import Programs
from igjax.dataset._stages import Returned, Stages, stages


class Method:
    """An attribution of examples.

    Args:
      attribution: a function of an example.
      compiler: for the devices.
    """

    def __init__(self, attribution: Callable[..., Any], compiler: Compiler):
        self.compiler, self._attribution = compiler, attribution
        self._stages: dict[str, Stages] = {}
        self._programs: dict[tuple[str, Tile], Programs] = {}

    @property
    def name(self) -> str:
        """Returns what the attribution is called."""
        return str(getattr(self._attribution, "__name__", type(self._attribution).__name__))

    def stages(self, given: Given) -> Stages:
        """Returns those of examples like one; they are traced once."""
        key = _shape(given)
        if key not in self._stages:
            self._stages[key] = stages(self._attribution, *given)
        return self._stages[key]

    def programs(self, given: Given, tile: Tile) -> Programs:
        """Returns those for examples like one, in such tiles; they are compiled once."""
        key = _shape(given), tile
        if key not in self._programs:
            self._programs[key] = Programs(self.stages(given), given, tile, self.compiler)
        return self._programs[key]

    def tile(self, batch_size: int, chunks: int) -> Tile:
        """Returns that of ``batch_size`` examples at once on each device."""
        return Tile(chunks, batch_size * self.compiler.devices)

    def returned(self, given: Given) -> Returned:
        """Returns the shapes and dtypes of what it returns for an example."""
        return self.stages(given).returned

    def fingerprint(self, given: Given) -> dict[str, str]:
        """Returns what of it has to be the same for a run to go on with what another began."""
        begin, step, _, result = self.stages(given)
        stages = [traced.closed for traced in (begin, step, result)]
        return {"name": self.name, **_fingerprint.of_equations(stages)}

    def parts(self, given: Given) -> dict[str, str]:
        """Returns fingerprints of what it is made of, to be able to say what is not the same."""
        found: dict[str, str] = {}
        if isinstance(self._attribution, Attribution):
            args, masks = given
            with padded(bool(masks)):
                for name, part in self._attribution.parts.items():
                    of = _fingerprint.of_function(functools.partial(part, **masks), *args)
                    found[name], found[f"{name}_constants"] = of["equations"], of["constants"]
        return found


def _shape(given: Tree) -> str:
    return str(jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), given))
