"""Answers of a model, before and after."""
