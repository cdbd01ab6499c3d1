"""Wrong configs, data files and command lines, and what is said of them: `python -m tests.fuzz [N]`.

Each case is made by chance from a seed and a number, so it can be repeated with --only. It fails if
there is a traceback, if it takes more than 10 s or 1 GiB, or if a message lacks what is wrong or what
to do. The last line is `good N of M`. Exits with 1 if N < M.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from .cases import KINDS, Outcome, run_case, warm_up


def main() -> int:
    """Run the cases and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("count", nargs="?", type=int, default=1000, help="how many cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="number of one case, to repeat it")
    arguments = parser.parse_args()
    good = 0
    numbers = range(arguments.count) if arguments.only is None else [arguments.only]
    with tempfile.TemporaryDirectory(prefix="nbft-fuzz-") as name:
        warm_up(Path(name))
        for number in numbers:
            outcome: Outcome = run_case(Path(name), arguments.seed, number)
            good += not outcome.wrong
            if outcome.wrong or arguments.only is not None:
                print(f"{number:5}  {outcome}", flush=True)
    print(f"good {good} of {len(numbers)}; kinds of cases: {', '.join(KINDS)}")
    return 0 if good == len(numbers) else 1


if __name__ == "__main__":
    sys.exit(main())
