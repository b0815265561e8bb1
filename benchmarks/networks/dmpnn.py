"""A D-MPNN on drugs: which atoms of a molecule make it block hERG, the heart's potassium channel.

The drugs are those by which the CiPA initiative calibrates and validates its models of that risk
(Li et al. 2019, doi:10.1002/cpt.1184), less azimilide, which the package does not list, and
clarithromycin, which is twice the size of the others.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.networks._network import Network
from examples.models import dmpnn

TASK = "hERG"

DRUGS = (
    "Terfenadine",
    "Astemizole",
    "Bepridil",
    "Chlorpromazine",
    "Cisapride",
    "Clozapine",
    "Diltiazem",
    "Disopyramide",
    "Dofetilide",
    "Domperidone",
    "Droperidol",
    "Ibutilide",
    "Loratadine",
    "Metoprolol",
    "Mexiletine",
    "Nifedipine",
    "Nitrendipine",
    "Ondansetron",
    "Pimozide",
    "Quinidine",
    "Ranolazine",
    "Risperidone",
    "Sotalol",
    "Tamoxifen",
    "Vandetanib",
    "Verapamil",
)

# The largest are terfenadine, with 35 heavy atoms, and it, astemizole and pimozide, with 38 bonds.
_NUM_ATOMS, _NUM_BONDS = 35, 38


def load(count: int) -> Network:
    """The first network of the ensemble, and drugs to explain.

    Args:
      count: how many drugs, at most 26.

    Returns:
      Network, with the atoms' features for x, zeros for the baseline, and for extras
      ``(bonds, *graph)`` of ``examples.models.dmpnn.featurize``.

    Raises:
      ModuleNotFoundError: if `admet-ai` or `rdkit` is not installed.
      ValueError: if `count` is more than there are.
    """
    if count > len(DRUGS):
        raise ValueError(f"count={count}: there are {len(DRUGS)} drugs")
    drugs = dmpnn.drugs()
    return _network([_featurized(drugs[name].smiles) for name in DRUGS[:count]])


def load_approved(count: int) -> Network:
    """The same with other drugs: the first approved ones that are no larger than those of CiPA.

    Args:
      count: how many drugs, at most about 2,200.

    Raises:
      ModuleNotFoundError: as ``load``.
      ValueError: likewise.
    """
    drugs = [drug.smiles for drug in dmpnn.drugs().values()]
    small = itertools.islice(filter(None, map(_fitting, drugs)), count)
    molecules = list(small)
    if len(molecules) < count:
        raise ValueError(f"count={count}: there are {len(molecules)} such drugs")
    return _network(molecules)


def _fitting(smiles: str) -> Any:
    """The features of a molecule, or None if it is too large."""
    try:
        return _featurized(smiles)
    except ValueError:
        return None


def _featurized(smiles: str) -> Any:
    return dmpnn.featurize(smiles, _NUM_ATOMS, _NUM_BONDS)


def _network(molecules: Sequence[Any]) -> Network:
    params, task = dmpnn.load(), dmpnn.tasks().index(TASK)
    atoms, bonds, graphs = zip(*molecules, strict=True)
    xs = np.stack(atoms)

    def logit(params: dmpnn.Params, x: jax.Array, bonds: jax.Array, *graph: jax.Array) -> jax.Array:
        # The features of the bonds are zeros and ones, the same in every dtype.
        bonds = jnp.asarray(bonds, x.dtype)
        return dmpnn.forward(params, x, bonds, dmpnn.Graph(*graph))[task]

    def probability(params: dmpnn.Params, x: jax.Array, *extras: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(logit(params, x, *extras))

    return Network(
        name="D-MPNN (hERG)",
        params=params,
        outputs={"probability": probability, "logit": logit},
        xs=xs,
        baselines=np.zeros_like(xs),
        extras=(np.stack(bonds), *(np.stack(arrays) for arrays in zip(*graphs, strict=True))),
        torch_outputs=lambda: _torch_outputs(params, task),
    )


def _torch_outputs(params: dmpnn.Params, task: int) -> Mapping[str, Callable[..., Any]]:
    import torch
    from torch.nn import functional

    weights = jax.tree.map(lambda array: torch.tensor(np.asarray(array)), params)

    # The graph as matrices: in torch that was faster than index_select and index_add.
    def one_hot(indices: Any, size: int, mask: Any) -> Any:
        return functional.one_hot(indices.long(), size).to(torch.float32) * mask[..., None]

    def logit(
        x: Any, bonds: Any, source: Any, target: Any, reverse: Any, atom_mask: Any, edge_mask: Any
    ) -> Any:
        leaves = one_hot(source, x.shape[-2], edge_mask)  # (edges, atoms)
        enters = one_hot(target, x.shape[-2], edge_mask).mT
        # Edge i hears edge j if j enters the atom that i leaves, and is not i the other way.
        hears = leaves @ enters - one_hot(reverse, bonds.shape[-2], edge_mask)
        hears = hears.expand(len(x), -1, -1)

        first = torch.matmul(leaves, x @ weights.edge_from_atom) + bonds @ weights.edge_from_bond
        edges = torch.relu(first)
        for _ in range(2):
            edges = torch.relu(torch.baddbmm(first, hears, edges @ weights.message))

        received = torch.matmul(enters, edges)
        states = x @ weights.atom_from_atom + functional.linear(
            received, weights.atom_from_edges.kernel.T, weights.atom_from_edges.bias
        )
        molecules = (torch.relu(states) * atom_mask[..., None]).sum(1) / 100
        hidden = functional.linear(molecules, weights.hidden.kernel.T, weights.hidden.bias)
        return (torch.relu(hidden) @ weights.tasks.kernel + weights.tasks.bias)[:, task]

    return {
        "probability": lambda x, *extras: torch.sigmoid(logit(x, *extras)),
        "logit": logit,
    }
