"""For tests and doctests: strict modes, eight devices on one CPU, and the README's snippets."""

import doctest
import os
import signal
import tempfile

# A program that several tests or processes need is compiled once in a session. JAX reads these when
# it is imported, workers and processes of tests get them from here.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    compiled = tempfile.TemporaryDirectory(prefix="igjax-tests-", ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# Most of the time goes into compiling programs that run once: LLVM need not optimize them, and XLA
# has older emitters of loops that are several times as fast as those in their place, unless
# somebody says otherwise. (Versions that lack them ignore that.)
if "xla_backend" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
        " --xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"
    )

# A shell that runs something in the background has it ignore Ctrl-C, which all its processes would.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import jax
import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Where JAX's versions differ most: how functions are traced, what modules are and how values are
# shown. Tests elsewhere that are for every version say so themselves.
FOR_EVERY_VERSION = (
    "tests/_jaxpr/",
    "tests/flax/",
    "igjax/",
    "README.md",
    "docs/",
)

pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(doctest_optionflags=doctest.NORMALIZE_WHITESPACE)],
    patterns=["README.md", "docs/*.md"],
).pytest()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what versions of JAX may change."""
    for item in items:
        if item.nodeid.startswith(FOR_EVERY_VERSION):
            item.add_marker(pytest.mark.versions)
