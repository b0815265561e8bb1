"""Where packages that hold weights and data are installed."""

import importlib.util
import pathlib


def folder(package: str, extra: str) -> pathlib.Path:
    """The folder of an installed package, found without importing it: that may bring in much else.

    Args:
      package: its name in an import.
      extra: the extra of igjax that brings it.

    Raises:
      ModuleNotFoundError: if it is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f'{package} is not installed: pip install "igjax[{extra}]"', name=package
        )
    return pathlib.Path(spec.submodule_search_locations[0])
