"""The package as a whole: what it imports, what it exports, what it says it needs."""

import pathlib
import pkgutil
import re
import subprocess
import sys
import tomllib

import pytest

import igjax
from igjax import (
    _conductance,
    _integrated,
    _layer_methods,
    _layers,
    _tokens,
    baselines,
    paths,
    quadrature,
)
from igjax._jaxpr import names

ROOT = pathlib.Path(__file__).parents[1]


def test_import_is_light():
    script = (
        "import sys, igjax; "
        "print([m for m in ('flax', 'optax', 'chex', 'matplotlib', 'scipy') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", f"import jax; import sys; before = set(sys.modules); {script}"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.versions
def test_every_module_is_imported_without_a_warning():
    script = (
        "import importlib, pkgutil, igjax\n"
        "for module in pkgutil.walk_packages(igjax.__path__, 'igjax.'):\n"
        "    if not module.name.endswith('__main__'): importlib.import_module(module.name)"
    )
    # What flax 0.12.0 does, as in pyproject.toml.
    ignored = [f"ignore:jax.{name} is deprecated" for name in ("array_ref", "ArrayRef")]
    options = [word for choice in ("error", *ignored) for word in ("-W", choice)]
    subprocess.run([sys.executable, *options, "-c", script], check=True, cwd=ROOT)


def test_lowest_versions_are_the_tested_ones():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {line.replace(">=", "==") for line in project["dependencies"]}
    lines = (ROOT / ".ci" / "lowest.txt").read_text().splitlines()
    tested = {line for line in lines if line and not line.startswith("#")}
    # numpy>=2.0 and numpy==2.0.0 are the same bound.
    assert {re.sub(r"(\.0)+$", "", line) for line in declared} == {
        re.sub(r"(\.0)+$", "", line) for line in tested
    }


def test_the_package_is_typed():
    assert (pathlib.Path(igjax.__file__).parent / "py.typed").exists()


@pytest.mark.parametrize(
    "module",
    [
        _conductance,
        _integrated,
        _layer_methods,
        _layers,
        _tokens,
        baselines,
        names,
        paths,
        quadrature,
    ],
)
def test_every_public_name_has_a_docstring_with_an_example(module):
    for name in module.__all__:
        value = getattr(module, name)
        if callable(value) and getattr(value, "__module__", None) == module.__name__:
            assert value.__doc__, name
            assert ">>>" in value.__doc__ or name in ("Embedding", "PathCheck", "Tolerance"), name


def test_nothing_is_public_twice():
    modules = {m.name for m in pkgutil.iter_modules(igjax.__path__) if not m.name.startswith("_")}
    assert modules == {"baselines", "dataset", "flax", "paths", "quadrature"}
    everywhere = [name for m in (baselines, paths, quadrature) for name in m.__all__]
    assert not set(everywhere) & set(igjax.__all__)
    assert len(set(everywhere)) == len(everywhere)
