"""Data sets of real and fake videos: layouts, face boxes, clips and the loader."""
