"""Training speed on this machine: nbft beside other systems, in turn, in one run.

Called by `nbft bench` and by the repository's benchmarks.
"""
