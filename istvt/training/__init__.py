"""Training: trainer, step, optimizer, processes, compilation, checkpoints, logging, validation."""
