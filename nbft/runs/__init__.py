"""Runs: a training is a folder, and everything about it is read from there."""

from nbft.runs.folder import Run, attach, runs
from nbft.runs.start import start, train, train_async

__all__ = ["Run", "attach", "runs", "start", "train", "train_async"]
