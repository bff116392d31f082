"""ISTVT: a video transformer that says whether a face is forged, and where and when it sees it.

model = ISTVT(preset("seed"))
logits = model(clips)            # clips [B, T, 3, H, W] in [-1, 1]; positive = fake
"""

from typing import TYPE_CHECKING, Any

from istvt.config import ISTVTConfig, __version__, preset

if TYPE_CHECKING:
    from istvt.model.istvt import ISTVT

__all__ = ["ISTVT", "ISTVTConfig", "__version__", "preset"]


def __getattr__(name: str) -> Any:
    # The model needs torch, whose import takes seconds that `istvt --help` should not.
    if name == "ISTVT":
        from istvt.model.istvt import ISTVT

        return ISTVT
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
