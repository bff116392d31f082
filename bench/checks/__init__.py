"""Checks that need no clock: numerics against float64, ahead-of-time compilation, machine code."""
