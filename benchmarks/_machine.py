"""On what a benchmark was run: the machine, and the versions of what takes part."""

import importlib.metadata
import os
import pathlib
import platform

PACKAGES = ("igjax", "jax", "jaxlib", "numpy", "torch", "captum", "unifiedig", "saliency")


def machine() -> dict[str, str]:
    """The machine, for people to read."""
    return {
        "cpu": _cpu(),
        "cores": str(os.cpu_count()),
        "memory": _memory(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """By name, the versions of Python and of the packages; of those that are not there, "none"."""
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


def _cpu() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")


def _memory() -> str:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # Windows has no sysconf
        return "unknown"
    return f"{size / 2**30:.0f} GiB"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"
