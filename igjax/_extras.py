"""Packages that are not needed by all, and what to install where one is missing."""

import importlib
from typing import Any


def needs(module: str, extra: str) -> Any:
    """Returns the module, imported.

    Raises:
      ImportError: if it is not installed; it says which extra of igjax brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module} is not installed; it comes with: pip install 'igjax[{extra}]'"
        ) from error
