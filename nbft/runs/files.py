"""What is read of a run's files without its settings: its plan, and the end of its log; bounded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nbft.reading import read_bytes, read_end, why_not
from nbft.redaction import redact_text

_LOG_BYTES = 256_000
_PLAN_BYTES = 10_000_000


def read_plan(run: Path) -> dict[str, Any]:
    """Return the plan in the folder of a run; {} if plan.json is missing or damaged."""
    try:
        plan = json.loads(read_bytes(run / "plan.json", _PLAN_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return plan if isinstance(plan, dict) else {}


def log_tail(run: Path, lines: int) -> tuple[str, bool]:
    """Return the last lines of a run's log.txt without secrets, and whether there are earlier ones.

    Args:
        run: The run's folder.
        lines: How many lines, of the last 256 kB.
    """
    try:
        end, is_whole = read_end(run / "log.txt", _LOG_BYTES)
    except FileNotFoundError:
        return "", False
    except OSError as error:
        return f"log.txt cannot be read: {why_not(error)}.", False
    # Cleaned before it is cut, since a secret may span lines.
    found = redact_text(end.decode(errors="replace")).splitlines()
    return "\n".join(found[-lines:]), not is_whole or len(found) > lines
