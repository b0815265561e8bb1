"""The type of pytrees."""

from typing import Any

# A pytree: dicts, lists, tuples and so on, nested, of leaves. Types cannot say more about these.
Tree = Any
