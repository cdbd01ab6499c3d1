"""Exports of trained models, one file per format, each read back and proven.

Each format file defines `FORMAT`, a `Format`, and has a line in `nbft.registry.exports`.
"""
