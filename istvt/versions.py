"""Which packages made a result; checkpoints, reports and `istvt doctor` all say so."""

from __future__ import annotations

import platform
from importlib import metadata

_PACKAGES = {
    "torch": ("torch",),
    "triton": ("triton",),
    "numpy": ("numpy",),
    "nvidia-dali": ("nvidia-dali-cuda130", "nvidia-dali-cuda120"),
    "av": ("av",),
    "opencv": ("opencv-python-headless", "opencv-python"),
    "scikit-learn": ("scikit-learn",),
    "xformers": ("xformers",),
}


def package_version(name: str) -> str | None:
    """The installed version of one of the packages above, None where it is not installed."""
    for distribution in _PACKAGES.get(name, (name,)):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return None


def versions() -> dict[str, str]:
    """Python, this project and the packages that a number may depend on; only what is installed."""
    from istvt import __version__

    found = {"istvt": __version__, "python": platform.python_version()}
    return found | {name: version for name in _PACKAGES if (version := package_version(name))}
