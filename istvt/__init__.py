"""ISTVT: a video transformer that says whether a face is forged, and where and when it sees it.

model = from_pretrained("runs/first")                  # a run, a checkpoint, or OWNER/NAME of the Hugging Face Hub
[prediction] = predict(model, ["video.mp4"])
logits = model(clips)                                  # clips [B, T, 3, H, W] in [-1, 1]; positive = fake
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from istvt.config import ISTVTConfig, __version__, preset
    from istvt.inference.export import export
    from istvt.inference.predict import predict
    from istvt.model.istvt import ISTVT
    from istvt.report.hub import from_pretrained, push_to_hub

__all__ = ["ISTVT", "ISTVTConfig", "__version__", "export", "from_pretrained", "predict", "preset", "push_to_hub"]

_PLACES = {
    "ISTVT": "istvt.model.istvt",
    "export": "istvt.inference.export",
    "from_pretrained": "istvt.report.hub",
    "predict": "istvt.inference.predict",
    "push_to_hub": "istvt.report.hub",
}


def __getattr__(name: str) -> Any:
    # Imported when asked for: the model needs torch, whose import takes seconds that `istvt --help` should not, and a
    # command can be stopped in a sentence only once its first lines have run.
    if name in __all__:
        return getattr(import_module(_PLACES.get(name, "istvt.config")), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
