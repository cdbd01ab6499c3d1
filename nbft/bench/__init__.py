"""Compares training speed on this machine: nbft and other systems take turns in one session.

Called by `nbft bench` and by the repository's benchmarks.
"""
