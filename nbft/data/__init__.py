"""Rows and their way to tokens: sources, templates, tokens, and the bundled samples."""

from nbft.data.examples import load_examples, preview
from nbft.data.sources import load_rows

__all__ = ["load_examples", "load_rows", "preview"]
