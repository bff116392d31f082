"""Clips of a video: their sampling and reading, the DALI graph that crops and augments them, and the loader."""
