"""Training: configuration, data, losses, loop and checkpoints (accelerate)."""
