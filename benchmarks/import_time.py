"""How long ``import igjax`` takes beside ``import jax``: ``python -m benchmarks.import_time``."""

import statistics
import subprocess
import sys

ROUNDS = 15


def seconds(module: str) -> float:
    """The time that importing ``module`` takes in a fresh interpreter, its start aside."""
    script = (
        f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return float(run.stdout)


def main() -> None:
    """Imports both in turn, so that both meet the same noise, and prints the medians."""
    times = [(seconds("jax"), seconds("igjax")) for _ in range(ROUNDS)]
    jax, igjax = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"import jax {jax:.3f} s, import igjax {igjax:.3f} s: ratio {igjax / jax:.3f}")


if __name__ == "__main__":
    main()
