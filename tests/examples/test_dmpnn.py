"""The molecule network against ADMET-AI's published predictions, and written out edge by edge."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close

from examples.models import dmpnn, torch_weights

if not all(importlib.util.find_spec(name) for name in ("admet_ai", "rdkit")):
    pytest.skip("admet-ai and rdkit are in the extra bench", allow_module_level=True)

NUM_ATOMS, NUM_BONDS = 40, 44

# With charges, iodine and metals, both kinds of stereo, triple bonds, and atoms without bonds.
NAMES = [
    "Terfenadine",
    "Tamoxifen",
    "Quinidine",
    "Nifedipine",
    "Fosfomycin",
    "Levothyroxine",
    "Selegiline",
    "Choline",
    "Cisplatin",
    "Sulfasalazine",
    "Penicillamine",
    "Water",
]


@pytest.fixture(scope="module")
def params():
    return dmpnn.load()


@pytest.fixture(scope="module")
def drugs():
    return dmpnn.drugs()


def featurize(drug, num_atoms=NUM_ATOMS, num_bonds=NUM_BONDS):
    return dmpnn.featurize(drug.smiles, num_atoms, num_bonds)


def test_the_published_predictions_of_the_ensemble(drugs):
    tasks = dmpnn.tasks()
    assert len(drugs) == 2845 and len(tasks) == 31
    molecules = jax.tree.map(
        lambda *arrays: np.stack(arrays), *(featurize(drugs[n]) for n in NAMES)
    )
    over_molecules = jax.vmap(dmpnn.forward, in_axes=(None, 0, 0, 0))
    over_models = jax.jit(jax.vmap(over_molecules, in_axes=(0, None, None, None)))
    probabilities = jax.nn.sigmoid(over_models(dmpnn.load_ensemble(), *molecules))
    expected = [[drugs[name].predictions[task] for task in tasks] for name in NAMES]
    assert np.std(expected, axis=0).min() > 1e-2  # each task tells these drugs apart
    assert_close(np.mean(probabilities, axis=0), expected, size=1.0)


def test_padding_changes_nothing(params, drugs):
    drug = drugs["Terfenadine"]  # 35 atoms, 38 bonds
    forward = jax.jit(dmpnn.forward)
    tight, loose = (forward(params, *featurize(drug, *size)) for size in ((35, 38), (50, 70)))
    assert_close(loose, tight)


def test_what_is_masked_does_not_count(params, drugs):
    atoms, bonds, graph = featurize(drugs["Sotalol"])
    noise = np.random.default_rng(0)
    noisy_atoms = np.where(graph.atom_mask[:, None], atoms, noise.normal(size=atoms.shape))
    noisy_bonds = np.where(graph.edge_mask[:, None], bonds, noise.normal(size=bonds.shape))
    gradient = jax.jit(jax.jacrev(dmpnn.forward, argnums=(1, 2)))
    clean = gradient(params, atoms, bonds, graph)
    noisy = gradient(params, np.float32(noisy_atoms), np.float32(noisy_bonds), graph)
    for expected, found, mask in zip(clean, noisy, (graph.atom_mask, graph.edge_mask), strict=True):
        assert np.any(expected) and not np.any(found[:, ~mask])
        assert_close(found, expected)


def test_float64_equals_the_network_written_out(params, drugs):
    drug = drugs["Quinidine"]
    atoms, bonds, graph = featurize(drug)
    with jax.enable_x64(True):
        double = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), params)
        found = jax.jit(dmpnn.forward)(double, np.float64(atoms), np.float64(bonds), graph)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, written_out(*featurize(drug, 24, 27)), atol=1e-12)
    single = jax.jit(dmpnn.forward)(params, atoms, bonds, graph)
    assert single.dtype == np.float32
    assert_close(single, found)


def written_out(atoms, bonds, graph):
    """A molecule without padding, in float64, by the names of the published weights."""
    folder = importlib.util.find_spec("admet_ai").submodule_search_locations[0]
    path = f"{folder}/resources/models/admet_classification/model_0.pt"
    weights = torch_weights.load(path, skip_objects=True)["state_dict"]
    weights = {name: np.float64(array) for name, array in weights.items()}
    edges = list(zip(graph.source, graph.target, strict=True))
    inputs = [
        weights["message_passing.W_i.weight"] @ np.append(atoms[source], bond)
        for (source, _), bond in zip(edges, bonds, strict=True)
    ]
    states = np.maximum(inputs, 0)
    for _ in range(2):
        heard = [
            sum(state for (u, v), state in zip(edges, states, strict=True) if v == a and u != b)
            + np.zeros(300)
            for a, b in edges
        ]
        states = np.maximum(inputs + heard @ weights["message_passing.W_h.weight"].T, 0)
    molecule = np.zeros(300)
    for a, atom in enumerate(atoms):
        heard = sum(state for (_, v), state in zip(edges, states, strict=True) if v == a)
        readout = weights["message_passing.W_o.weight"] @ np.append(atom, heard)
        molecule += np.maximum(readout + weights["message_passing.W_o.bias"], 0) / 100
    hidden = weights["predictor.ffn.0.0.weight"] @ molecule + weights["predictor.ffn.0.0.bias"]
    last = weights["predictor.ffn.1.2.weight"], weights["predictor.ffn.1.2.bias"]
    return last[0] @ np.maximum(hidden, 0) + last[1]


def test_features_of_ethanol():
    atoms, bonds, graph = dmpnn.featurize("CCO", 4, 3)
    assert atoms.shape == (4, 72) and bonds.shape == (6, 14)
    assert atoms.dtype == bonds.dtype == np.float32
    np.testing.assert_array_equal(graph.source, [0, 1, 1, 2, 0, 0])
    np.testing.assert_array_equal(graph.target, [1, 0, 2, 1, 0, 0])
    np.testing.assert_array_equal(graph.reverse, [1, 0, 3, 2, 0, 0])
    np.testing.assert_array_equal(graph.atom_mask, [True, True, True, False])
    np.testing.assert_array_equal(graph.edge_mask, [True, True, True, True, False, False])
    # Carbon, 4 neighbours, no charge, not chiral, 3 and 2 hydrogens, sp3; then the mass.
    np.testing.assert_array_equal(np.flatnonzero(atoms[0]), [5, 42, 49, 51, 59, 66, 71])
    np.testing.assert_array_equal(np.flatnonzero(atoms[1]), [5, 42, 49, 51, 58, 66, 71])
    np.testing.assert_allclose(atoms[:, 71], [0.12011, 0.12011, 0.15999, 0])
    # Single, not stereo.
    np.testing.assert_array_equal(np.nonzero(bonds[:4])[1], [1, 7] * 4)
    assert not atoms[3:].any() and not bonds[4:].any()


def test_what_has_no_feature_of_its_own_is_other():
    atoms, _, _ = dmpnn.featurize("[Au+3]", 1, 0)
    np.testing.assert_array_equal(np.flatnonzero(atoms[0, :51]), [37, 38, 50])


def test_a_molecule_without_bonds(params):
    atoms, bonds, graph = molecule = dmpnn.featurize("C", 1, 0)
    assert atoms.shape == (1, 72) and bonds.shape == (0, 14) and graph.source.shape == (0,)
    forward = jax.jit(dmpnn.forward)
    padded = forward(params, *dmpnn.featurize("C", 2, 2))
    assert_close(forward(params, *molecule), padded)


@pytest.mark.parametrize("size", [(2, 2), (3, 1)])
def test_a_molecule_larger_than_the_padding(size):
    with pytest.raises(ValueError, match="'CCO' has 3 atoms and 2 bonds"):
        dmpnn.featurize("CCO", *size)


def test_no_molecule():
    with pytest.raises(ValueError, match="cannot parse 'C1CC'"):
        dmpnn.featurize("C1CC", 9, 9)


@pytest.mark.parametrize(
    ("package", "call"), [("admet_ai", dmpnn.load), ("rdkit", lambda: dmpnn.featurize("C", 1, 0))]
)
def test_a_missing_package_names_the_extra(monkeypatch, package, call):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=rf'{package}.*pip install "igjax\[bench\]"'):
        call()
