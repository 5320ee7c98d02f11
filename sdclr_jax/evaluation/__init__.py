"""What frozen features are worth: extraction, probes, nearest neighbours and scores per class and per group."""
