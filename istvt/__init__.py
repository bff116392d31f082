"""ISTVT: a video transformer that says whether a face is forged, and where and when it sees it.

model = ISTVT(preset("seed"))
logits = model(clips)            # clips [B, T, 3, H, W] in [-1, 1]; positive = fake
"""

from .config import ISTVTConfig, preset
from .model import ISTVT

__version__ = "0.1.0"
__all__ = ["ISTVT", "ISTVTConfig", "preset"]
