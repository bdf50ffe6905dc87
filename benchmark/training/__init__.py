"""The training loop, captured steps, evaluation, seeds and hardware."""
