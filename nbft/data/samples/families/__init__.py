"""The makers of sample rows: one module per data set, each a list of families.

A family is a function that draws one row, such as "change from a bank note" with other people
and other prices each time. Only `nbft.data.samples.generate` calls them.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

Row = dict[str, str]
Family = Callable[[Random], Row]

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
