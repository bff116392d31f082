"""Comparison detectors, one file each with its paper and equation; `istvt.model.architectures` has them by name.

More than nine files: one a detector, so that each can be read against its paper alone.
"""
