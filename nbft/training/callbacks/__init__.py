"""Callbacks of transformers' Trainer."""
