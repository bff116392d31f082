"""Data sets of real and fake videos: layouts, face boxes, clips and the loader."""

from dataloading.dataset import Dataset, Video
from dataloading.errors import InputError
from dataloading.face_index import FaceIndex
from dataloading.layouts import format_summary, read_dataset

__all__ = ["Dataset", "FaceIndex", "InputError", "Video", "format_summary", "read_dataset"]
