"""``python -m igjax`` is the command ``igjax``."""

import os
import sys

from igjax._cli import main

if __name__ == "__main__":
    if sys.path[0] == os.getcwd():  # where Python puts it; behind what is installed is its place
        sys.path.append(sys.path.pop(0))
    main()
