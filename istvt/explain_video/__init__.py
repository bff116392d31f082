"""The explanation of one video file: MP4, PNG strips, JSON and an HTML page."""
