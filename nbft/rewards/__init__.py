"""Rewards: numbers for answers, from functions of a file or a cell, or ready ones.

`load.py` finds them and calls them, `table.py` holds answers with their rewards; `ready.py` and
`judge.py` are those that come with nbft. Loads no torch, except models when they are called.
"""
