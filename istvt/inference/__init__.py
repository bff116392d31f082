"""Scores of clips and videos, and predictions for video files."""
