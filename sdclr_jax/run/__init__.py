"""A run's folder: its files, its lock, its checkpoints and its metrics."""
