"""Explanation of a video file: overlays, picture strips, JSON and a page."""
