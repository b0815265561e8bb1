"""``python -m igjax`` is the command ``igjax``."""

from igjax._cli import main

if __name__ == "__main__":
    main()
