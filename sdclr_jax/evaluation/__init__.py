"""What a trained encoder is worth, from objects and settings: frozen features, protocols that score them by class and
group, fine-tuning, signs of collapse, what pruning changes, and a map to look at."""
