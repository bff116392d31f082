"""ISTVT: a video transformer that says whether a face is forged, and where and when it sees it.

model = ISTVT(preset("seed"))
logits = model(clips)            # clips [B, T, 3, H, W] in [-1, 1]; positive = fake
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from istvt.config import ISTVTConfig, __version__, preset
    from istvt.model.istvt import ISTVT

__all__ = ["ISTVT", "ISTVTConfig", "__version__", "preset"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: the model needs torch, whose import takes seconds that `istvt --help` should not, and a
    # command can be stopped in a sentence only once its first lines have run.
    if name == "ISTVT":
        from istvt.model.istvt import ISTVT

        return ISTVT
    if name in __all__:
        from istvt import config

        return getattr(config, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
