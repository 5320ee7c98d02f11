"""Google Cloud Storage, `gs://BUCKET/NAME`: paths, a lock, and copies on the disk of this machine."""
