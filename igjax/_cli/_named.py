"""Objects by their names: ``module:name``."""

import importlib
import operator
import os
import sys
from typing import Any


def load(text: str) -> Any:
    """Loads what ``module:name`` names, also dotted, and from the current folder.

    A module there is behind all that are installed: it can't take the place of one of them.

    Raises:
      ValueError: if ``text`` is not like that, or there is no such name in the module.
      ImportError: if there is no such module.
    """
    module_name, _, name = text.partition(":")
    if not (all(module_name.split(".")) and name):
        raise ValueError(f"{text!r} must be module:name, such as my_module:score.")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)
    module = importlib.import_module(module_name)
    try:
        return operator.attrgetter(name)(module)
    except AttributeError as error:
        raise ValueError(f"the module {module_name} has no {name!r}.") from error
