"""Training methods: one file each, which holds everything that differs between them.

A file defines `METHOD`, a `Method`; its name is a value of training.method. Nothing else in nbft
asks which method it is. To add one, add a file here and a test (CONTRIBUTING.md).
"""

from nbft.methods.method import IGNORE_INDEX, Measure, Method, method_of

__all__ = ["IGNORE_INDEX", "Measure", "Method", "method_of"]
