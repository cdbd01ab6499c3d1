"""What a model has written while it was trained: answers to the prompts, and to the rows it is scored on.

`ReportingCallback` passes generations on to the trackers that take them. Events have the samples
and the scores, but not the answers that were scored.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Generation:
    """One answer of the model.

    Attributes:
        kind: "sample" for an answer to a fixed prompt, else the split of the row: validation or test.
        step: Optimiser step of the model; 0 is the base model.
        prompt: What the model has read.
        answer: What it wrote.
        wanted: The wanted answer; "" if there is none.
        scores: What the answer scores, by the name of the metric.
        time_ns: When it was known, in nanoseconds since the epoch.
    """

    kind: str
    step: int
    prompt: str
    answer: str
    wanted: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    time_ns: int = field(default_factory=time.time_ns)
