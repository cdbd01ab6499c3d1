"""Scripts and notebooks that train: read as Python, followed without running, and understood.

`cells` reads a file as statements, `evaluation` follows them to `values`, and `training` says what is
trained: the trainer, model and adapter, and with `rows`, `sources` and `text` its rows and their mask.
"""
