"""Scores of clips and videos, and verdicts on files."""
