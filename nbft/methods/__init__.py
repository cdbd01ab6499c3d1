"""Training methods, one file each, with everything that differs between them.

Each file defines `METHOD`, a `Method`, and its name is a value of training.method. No other code
asks which method it is. To add one, add a file here and a test (CONTRIBUTING.md).
"""

from nbft.methods.method import (
    IGNORE_INDEX,
    SUITS,
    Measure,
    Method,
    built_in_methods,
    method_of,
)

__all__ = ["IGNORE_INDEX", "SUITS", "Measure", "Method", "built_in_methods", "method_of"]
