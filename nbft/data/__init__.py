"""Rows and their way to tokens: sources, templates, tokens, and the bundled samples."""

from nbft.data.examples import Example, Examples, load_examples, preview
from nbft.data.ready import READY, Ready
from nbft.data.sources import Rows, load_rows

__all__ = [
    "READY",
    "Example",
    "Examples",
    "Ready",
    "Rows",
    "load_examples",
    "load_rows",
    "preview",
]
