"""One live update of a chart that holds many points already: time in the kernel, and bytes."""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

from .measurement import Measurement, run_python

NEW_POINTS = 10


def measure(quick: bool) -> list[Measurement]:
    """Measure in a process of its own, as a kernel is."""
    found = []
    for points in (10_000, 100_000):
        milliseconds, size = run_python(
            "-c",
            f"from benchmarks.live_chart import update; update({points}, {21 if quick else 101})",
        )
        found += [
            Measurement(f"CPU time of an update at {points:,} points", milliseconds, "ms", 2, True),
            Measurement(f"bytes of an update at {points:,} points", size / 1000, "kB", 4, True),
        ]
    return found


def update(points: int, rounds: int) -> None:
    """Print the median CPU milliseconds and bytes of an update, the encoding included."""
    sent = replace_comms()
    from nbft.widgets.chart import Chart, Series

    chart = Chart([Series("loss", smooth=True), Series("eval_loss", style="marks")])
    chart._answer(chart, {"type": "resync", "have": 0}, [])  # a front end is there
    for step in range(points):
        chart.append(step, loss=2.0 + step % 7 / 10)
    chart.flush()
    milliseconds, sizes = [], []
    for round_ in range(rounds):
        sent.clear()
        began = time.process_time()
        for step in range(NEW_POINTS):
            chart.append(points + round_ * NEW_POINTS + step, loss=1.9)
        chart.flush()
        milliseconds.append(1000 * (time.process_time() - began))
        sizes.append(sum(sent))
    print(json.dumps([statistics.median(milliseconds), statistics.median(sizes)]))


def shown(run: Any) -> Any:
    """Return a Monitor of a run as if a front end showed it; comms are replaced."""
    from nbft.widgets import Monitor

    monitor = Monitor(run)
    monitor.update()
    for curves in monitor._built._curves:
        curves.chart._answer(curves.chart, {"type": "resync", "have": 0}, [])
    return monitor


def replace_comms() -> list[int]:
    """Let widgets send to nobody: messages are packed and signed as in a kernel, and counted.

    Returns:
        The list that gets the bytes of each message.
    """
    import comm
    from comm.base_comm import BaseComm
    from jupyter_client.session import Session

    sent: list[int] = []
    session = Session(key=b"benchmark")

    class Counting(BaseComm):
        def publish_msg(
            self,
            msg_type: str,
            data: Any = None,
            metadata: Any = None,
            buffers: Any = None,
            **keys: Any,
        ) -> None:
            content = {"comm_id": self.comm_id, "data": data, **keys}
            parts = session.serialize(session.msg(msg_type, content, metadata=metadata))
            sent.append(sum(memoryview(part).nbytes for part in [*parts, *(buffers or ())]))

    comm.create_comm = Counting
    return sent
