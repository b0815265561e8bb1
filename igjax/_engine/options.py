"""The keywords of a transform along a path: declared once, and checked once."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from igjax import baselines, paths, quadrature
from igjax._engine import adaptive, fixed
from igjax._engine.contributions import Contribution, multiplied, unmultiplied
from igjax._engine.integration import Planner
from igjax._inputs import check_count, check_flag, is_auto
from igjax._padding import check_blind_to_padding
from igjax._trees import Tree


class PathOptions(TypedDict, total=False):
    """What all transforms along a path take, as ``integrated_grad`` says of each."""

    has_aux: bool
    baseline: Tree | baselines.Baseline
    path: paths.Path
    rule: quadrature.Rule | quadrature.Tolerance
    multiply_by_inputs: bool
    batch_size: int | Literal["auto"] | None
    has_report: bool
    sharding: NamedSharding | str | tuple[str, ...] | None
    affine_prefix: bool


class Options(NamedTuple):
    """The same, checked.

    Attributes:
      argnums: the argument(s) to attribute to.
      has_aux: whether the function returns auxiliary data too.
      baseline: a value or a function.
      path: a function.
      rule: as it was given.
      planner: of it.
      contribution: of a point of the path.
      batch_size: how many nodes at once, ``"auto"``, or None for what the rule says.
      has_report: whether there is to be a report.
      sharding: of the nodes of one example.
      affine_prefix: whether to look for one.
      judged: from what is like the input to the part of it that errors are of: all of it.
    """

    argnums: int | Sequence[int]
    has_aux: bool
    baseline: Tree | baselines.Baseline
    path: paths.Path
    rule: quadrature.Rule | quadrature.Tolerance
    planner: Planner
    contribution: Contribution
    batch_size: int | Literal["auto"] | None
    has_report: bool
    sharding: NamedSharding | str | tuple[str, ...] | None
    affine_prefix: bool
    judged: Callable[[Tree], Tree] = lambda attributions: attributions

    @property
    def loops(self) -> bool:
        """Returns whether nodes are gone through in a loop, as far as that is known by now."""
        known = self.batch_size != "auto"  # else it depends on how many examples are mapped over
        return known and (self.planner.loops or self.batch_size is not None)


def checked(
    *,
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    baseline: Tree | baselines.Baseline = baselines.zeros,
    path: paths.Path = paths.straight_line,
    rule: quadrature.Rule | quadrature.Tolerance = quadrature.gregory(64),
    multiply_by_inputs: bool = True,
    batch_size: int | Literal["auto"] | None = None,
    has_report: bool = False,
    sharding: NamedSharding | str | tuple[str, ...] | None = None,
    affine_prefix: bool = True,
) -> Options:
    """Returns the options, if they make sense.

    Raises:
      TypeError: if one is not what it has to be.
      ValueError: if one is out of range.
    """
    paths.check_path(path)
    check_flag("has_aux", has_aux)
    check_flag("multiply_by_inputs", multiply_by_inputs)
    check_flag("has_report", has_report)
    check_flag("affine_prefix", affine_prefix)
    if not (batch_size is None or is_auto(batch_size)):
        what = 'batch_size (None for all nodes, "auto" for what fits)'
        batch_size = check_count(what, batch_size, least=1)
    return Options(
        argnums,
        has_aux,
        baseline,
        path if path is paths.straight_line else _blind_to_padding(path),
        rule,
        _planner(rule, has_report=has_report),
        multiplied if multiply_by_inputs else unmultiplied,
        batch_size,
        has_report,
        sharding,
        affine_prefix,
    )


def _blind_to_padding(path: paths.Path) -> paths.Path:
    """``path``, which raises where it would see padding."""

    @functools.wraps(path)
    def followed(baseline: Tree, x: Tree, alpha: jax.Array) -> Tree:
        cure = "Take one that treats each entry by itself, such as igjax.paths.straight_line."
        at_start = lambda baseline, x: path(baseline, x, jnp.zeros_like(alpha))
        name = f"the path {getattr(path, '__qualname__', path)}"
        check_blind_to_padding(name, at_start, baseline, x, cure=cure)
        return path(baseline, x, alpha)

    return followed


def _planner(rule: Any, *, has_report: bool) -> Planner:
    if isinstance(rule, quadrature.Tolerance):
        return adaptive.planner(quadrature.check_tolerance(rule))
    return fixed.planner(quadrature.check_rule(rule), has_report=has_report)


def check_known(method: str, options: PathOptions) -> None:
    """Raises TypeError if a keyword was given that is none of ``PathOptions``."""
    known = sorted(PathOptions.__annotations__)
    if unknown := [name for name in options if name not in known]:
        raise TypeError(f"{method} knows no keyword {unknown[0]!r}. It takes {', '.join(known)}.")
