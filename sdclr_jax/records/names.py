"""The files in a run's folder. Other programs may rely on these names."""

CONFIG = "config.json"  # the resolved config, enough to run again
CHANGES = "changes.jsonl"  # a line for each field of config.json that a later command changed; often no file
VERSIONS = "versions.json"  # commit, libraries, devices
DATA = "data.json"  # how many images are trained on, and the SHA-256 of the list of them
ENCODER = "encoder.json"  # what turns images into features
SAVED = "saved.json"  # the step of the newest checkpoint
METRICS = "metrics.jsonl"  # one JSON object a line, every `log_every` steps
WARNINGS = "warnings.jsonl"  # one JSON object a line for each cause of a warning; no file where there was none
TENSORBOARD = "tensorboard"  # the metrics as event files
PROFILE = "profile"  # a trace of some steps, of `sdclr pretrain --profile`
CHECKPOINTS = "checkpoints"  # a folder a step
COMMITTED = "commit_success.txt"  # in each of these in a bucket, written last
DAMAGED = "damaged_checkpoints"  # those that could not be read, moved out of the way
RESULTS = "results.json"  # what `sdclr evaluate` found
EMBEDDING = "embedding.json"  # a map of the test images' features, from the same command
FEATURES = "features"  # of the labelled images, kept for the next evaluation
SUMMARY = "exemplars/summary.json"  # what `sdclr exemplars` found, and below
RANKING = "exemplars/exemplars"  # .csv and .parquet: a row an image
GALLERY = "exemplars/gallery.html"
EXPORT = "export"  # what `sdclr export` wrote, a folder for each program
LOCK = ".lock"  # held by the process that trains
