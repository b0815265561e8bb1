"""The package as a whole: what it imports, what it exports, what it says it needs."""

import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

import igjax
from igjax import baselines, layers, paths, quadrature, tokens
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


@pytest.mark.parametrize("module", [baselines, layers, names, paths, quadrature, tokens])
def test_every_public_name_has_a_docstring_with_an_example(module):
    for name in module.__all__:
        value = getattr(module, name)
        if callable(value) and getattr(value, "__module__", None) == module.__name__:
            assert value.__doc__, name
            assert ">>>" in value.__doc__ or name in ("PathCheck", "Tolerance"), name
