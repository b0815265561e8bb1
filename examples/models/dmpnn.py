"""ADMET-AI's molecule network, 31 properties of a drug, as a plain JAX function, and the drugs.

A directed message-passing network (D-MPNN; Yang et al. 2019, arXiv:1904.01561): every bond is two
directed edges, each with a hidden state that is updated from the edges that lead into its source,
except its own reverse. The features are the standard ones of Chemprop 2: 72 an atom, 14 an edge.
ADMET-AI is an ensemble of five such networks (version 2, MIT; of version 1: Swanson et al. 2024,
doi:10.1093/bioinformatics/btae416).

Nothing is downloaded: the weights, and drugs with the ensemble's published predictions, are in the
pip package `admet-ai`, which is read, not imported. `rdkit` parses the molecules.
`pip install "igjax[bench]"` brings both.
"""

import csv
import importlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from examples.models import _packages, torch_weights

ATOM_FEATURES = 72
BOND_FEATURES = 14
MODELS = 5  # of the ensemble

_DEPTH = 3  # states of an edge: the first, and one for each round of messages
_NORM = 100  # a molecule is the sum of its atoms over this

# The values that have a feature of their own; of atoms and stereo, one more is for all others.
_ELEMENTS = (*range(1, 37), 53)  # by atomic number: hydrogen to krypton, and iodine
_DEGREES = range(6)
_CHARGES = (-1, -2, 1, 2, 0)
_CHIRAL_TAGS = range(4)
_HYDROGENS = range(5)
_HYBRIDIZATIONS = ("S", "SP", "SP2", "SP2D", "SP3", "SP3D", "SP3D2")
_BONDS = ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC")
_STEREO = range(6)


class Layer(NamedTuple):
    """A linear layer; `kernel` is (in, out)."""

    kernel: jax.Array
    bias: jax.Array


class Params(NamedTuple):
    """The weights of one network, a pytree of arrays.

    Where the network applies one matrix to a concatenation, it is split here: `x_atom @ a` can then
    be computed for each atom, not for each edge, and `x_bond @ b` once for many `x_atom`.
    """

    edge_from_atom: jax.Array  # (72, hidden)
    edge_from_bond: jax.Array  # (14, hidden)
    message: jax.Array  # (hidden, hidden)
    atom_from_atom: jax.Array  # (72, hidden)
    atom_from_edges: Layer
    hidden: Layer
    tasks: Layer


class Graph(NamedTuple):
    """Which atoms the edges of a padded molecule join; padding has index 0 and a False mask."""

    source: jax.Array | NDArray[np.int32]  # (edges,) the atom that an edge leaves
    target: jax.Array | NDArray[np.int32]  # (edges,) the atom that it leads to
    reverse: jax.Array | NDArray[np.int32]  # (edges,) the edge the other way
    atom_mask: jax.Array | NDArray[np.bool_]  # (atoms,)
    edge_mask: jax.Array | NDArray[np.bool_]  # (edges,)


class Drug(NamedTuple):
    """An approved drug, and what the ensemble predicts of it: the mean of five probabilities."""

    smiles: str
    predictions: Mapping[str, float]


def load(index: int = 0) -> Params:
    """Read one of the five networks from the installed package.

    Args:
      index: 0 … 4.

    Returns:
      Params, 0.33 million float32 values.

    Raises:
      ModuleNotFoundError: if the package with the weights is not installed.
    """
    weights = _checkpoint(index)["state_dict"]
    edge, atom = (weights[f"message_passing.{name}.weight"].T for name in ("W_i", "W_o"))
    return Params(
        edge_from_atom=jnp.asarray(edge[:ATOM_FEATURES]),
        edge_from_bond=jnp.asarray(edge[ATOM_FEATURES:]),
        message=jnp.asarray(weights["message_passing.W_h.weight"].T),
        atom_from_atom=jnp.asarray(atom[:ATOM_FEATURES]),
        atom_from_edges=_layer(atom[ATOM_FEATURES:], weights["message_passing.W_o.bias"]),
        hidden=_layer(weights["predictor.ffn.0.0.weight"].T, weights["predictor.ffn.0.0.bias"]),
        tasks=_layer(weights["predictor.ffn.1.2.weight"].T, weights["predictor.ffn.1.2.bias"]),
    )


def load_ensemble() -> Params:
    """Read all five networks.

    Returns:
      Params whose arrays have a leading axis of 5, to `jax.vmap` over.

    Raises:
      ModuleNotFoundError: if the package with the weights is not installed.
    """
    return jax.tree.map(lambda *arrays: jnp.stack(arrays), *map(load, range(MODELS)))


def tasks() -> tuple[str, ...]:
    """The names of the 31 outputs, in their order: "AMES" … "hERG".

    Raises:
      ModuleNotFoundError: if the package with the weights is not installed.
    """
    return tuple(_checkpoint(0)["output_columns"])


def forward(
    params: Params,
    atoms: jax.Array | NDArray[Any],
    bonds: jax.Array | NDArray[Any],
    graph: Graph,
) -> jax.Array:
    """Scores of one molecule.

    Args:
      params: what `load` returns, or the same tree cast to another floating dtype.
      atoms: (atoms, 72) features, of the dtype of `params`.
      bonds: (edges, 14) features, of the same dtype.
      graph: what is joined to what; atoms and edges that it masks do not count.

    Returns:
      (31,) scores before the sigmoid, of the dtype of `atoms`.
    """
    edge_mask = graph.edge_mask[:, None]

    def into_atoms(edges: jax.Array) -> jax.Array:
        return jax.ops.segment_sum(edges, graph.target, atoms.shape[0])

    # Gathers and a segment sum: gradients at 16 points of a drug's path took 15 ms, with one-hot
    # matrices in their place 16 ms (two cores; nearly all of it is the product with `message`).
    first = (atoms @ params.edge_from_atom)[graph.source] + bonds @ params.edge_from_bond
    edges = jnp.where(edge_mask, jax.nn.relu(first), 0)
    for _ in range(_DEPTH - 1):
        received = into_atoms(edges)[graph.source] - edges[graph.reverse]
        edges = jnp.where(edge_mask, jax.nn.relu(first + received @ params.message), 0)

    states = atoms @ params.atom_from_atom + _apply_rows(params.atom_from_edges, into_atoms(edges))
    molecule = jnp.sum(jnp.where(graph.atom_mask[:, None], jax.nn.relu(states), 0), 0) / _NORM
    return _apply(params.tasks, jax.nn.relu(_apply(params.hidden, molecule)))


def featurize(
    smiles: str, num_atoms: int, num_bonds: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], Graph]:
    """The input of the network: features of atoms and edges, and the graph, padded with zeros.

    Args:
      smiles: a molecule. Its hydrogens are features of the atoms they are bound to.
      num_atoms: how many atoms to pad to.
      num_bonds: how many bonds to pad to, each of them two directed edges.

    Returns:
      `(atoms, bonds, graph)`: (num_atoms, 72), (2 * num_bonds, 14), and which atoms the edges join.

    Raises:
      ModuleNotFoundError: if `rdkit` is not installed.
      ValueError: if `smiles` cannot be parsed, or the molecule is larger than the padding.
    """
    molecule = _chem().MolFromSmiles(smiles)
    if molecule is None:
        raise ValueError(f"cannot parse {smiles!r}")
    atoms, bonds = list(molecule.GetAtoms()), list(molecule.GetBonds())
    if len(atoms) > num_atoms or len(bonds) > num_bonds:
        raise ValueError(
            f"{smiles!r} has {len(atoms)} atoms and {len(bonds)} bonds, "
            f"more than num_atoms={num_atoms} or num_bonds={num_bonds}"
        )
    # Edge 2k leads from the first to the second atom of bond k, edge 2k + 1 back.
    edges, num_edges = np.arange(2 * len(bonds)), 2 * num_bonds
    ends = np.array([(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in bonds], np.int32)
    ends = ends.reshape(-1, 2)  # for a molecule without bonds
    graph = Graph(
        source=_padded(ends.ravel(), num_edges, np.int32),
        target=_padded(ends[:, ::-1].ravel(), num_edges, np.int32),
        reverse=_padded(edges ^ 1, num_edges, np.int32),
        atom_mask=np.arange(num_atoms) < len(atoms),
        edge_mask=np.arange(num_edges) < len(edges),
    )
    atom_features = np.reshape([_atom_features(atom) for atom in atoms], (-1, ATOM_FEATURES))
    bond_features = np.reshape([_bond_features(bond) for bond in bonds], (-1, BOND_FEATURES))
    return (
        _padded(atom_features, num_atoms, np.float32),
        _padded(np.repeat(bond_features, 2, axis=0), num_edges, np.float32),
        graph,
    )


def drugs() -> dict[str, Drug]:
    """The 2,845 approved drugs of the package, by name.

    Raises:
      ModuleNotFoundError: if the package with the drugs is not installed.
    """
    names = tasks()
    path = _resources() / "data" / "drugbank_approved.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return {
            row["name"]: Drug(row["smiles"], {name: float(row[name]) for name in names})
            for row in csv.DictReader(file)
        }


def _atom_features(atom: Any) -> list[float]:
    return [
        *_one_hot_or_other(atom.GetAtomicNum(), _ELEMENTS),
        *_one_hot_or_other(atom.GetTotalDegree(), _DEGREES),
        *_one_hot_or_other(atom.GetFormalCharge(), _CHARGES),
        *_one_hot_or_other(int(atom.GetChiralTag()), _CHIRAL_TAGS),
        *_one_hot_or_other(atom.GetTotalNumHs(), _HYDROGENS),
        *_one_hot_or_other(atom.GetHybridization().name, _HYBRIDIZATIONS),
        float(atom.GetIsAromatic()),
        0.01 * atom.GetMass(),
    ]


def _bond_features(bond: Any) -> list[float]:
    return [
        0.0,  # would be 1 for the absence of a bond
        *_one_hot(bond.GetBondType().name, _BONDS),
        float(bond.GetIsConjugated()),
        float(bond.IsInRing()),
        *_one_hot_or_other(int(bond.GetStereo()), _STEREO),
    ]


def _one_hot_or_other(value: Any, choices: Sequence[Any]) -> list[float]:
    return [*_one_hot(value, choices), float(value not in choices)]


def _one_hot(value: Any, choices: Sequence[Any]) -> list[float]:
    return [float(value == choice) for choice in choices]


def _padded(rows: NDArray[Any], length: int, dtype: type[np.generic]) -> NDArray[Any]:
    padding = [(0, length - len(rows))] + [(0, 0)] * (rows.ndim - 1)
    return np.pad(rows.astype(dtype), padding)


def _apply(layer: Layer, x: jax.Array) -> jax.Array:
    return x @ layer.kernel + layer.bias


def _apply_rows(layer: Layer, x: jax.Array) -> jax.Array:
    return x @ layer.kernel + layer.bias[None]


def _layer(kernel: NDArray[Any], bias: NDArray[Any]) -> Layer:
    return Layer(jnp.asarray(kernel), jnp.asarray(bias))


def _checkpoint(index: int) -> Any:
    # Beside the weights the file holds the classes that built the network, which nobody needs here.
    path = _resources() / "models" / "admet_classification" / f"model_{index}.pt"
    return torch_weights.load(path, skip_objects=True)


def _resources() -> pathlib.Path:
    return _packages.folder("admet_ai", "bench") / "resources"


def _chem() -> Any:
    _packages.folder("rdkit", "bench")  # raises the error that names the extra
    return importlib.import_module("rdkit.Chem")
