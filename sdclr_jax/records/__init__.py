"""What is written in a run's folder and read again: each file once, with one writer and one reader.

results = records.read(records.Results, pathlib.Path("runs/sdclr/results.json"))
results.protocols["knn"].few
"""

from sdclr_jax.records import config, names
from sdclr_jax.records.encoder import EncoderRecord, View
from sdclr_jax.records.exemplars import Summary
from sdclr_jax.records.folder import Embedding, Saved, TrainedOn
from sdclr_jax.records.groups import GROUPS, SUMMARY, summary
from sdclr_jax.records.metrics import read_metrics, read_warnings
from sdclr_jax.records.record import Record, about, decode, flat, load, load_object, read, write
from sdclr_jax.records.results import Results, Score
