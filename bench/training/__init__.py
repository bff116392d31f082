"""Clips a second, FLOP utilization and peak memory of a training step: this project against plain PyTorch."""
