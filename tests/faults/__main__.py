"""Do harm to runs at many moments, and count what survives: `python -m tests.faults [N] [--seed S]`.

The kinds of harm come in turn; their moments are chosen by chance from a seed, so a case can be repeated. One
line is printed for each; the last line is `survived N of M`. Exits with 1 if N < M.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from .cases import KINDS, KINDS_OF_SEVERAL, make_reference, moment_of, survive

AT_A_TIME = 2


def main() -> int:
    """Run the cases and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("count", nargs="?", type=int, default=60, help="how many faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1, help="how many train each run")
    parser.add_argument("--only", type=int, help="number of one case, to repeat it")
    parser.add_argument("--with", dest="settings", nargs="*", default=[], help="SETTING=VALUE …")
    arguments = parser.parse_args()
    overrides = [f"distributed.num_processes={arguments.processes}", *arguments.settings]
    with tempfile.TemporaryDirectory(prefix="nbft-faults-") as name:
        folder = Path(name)
        reference = make_reference(folder, overrides)
        print(
            f"uninterrupted: {len(reference.losses)} steps in {reference.seconds:.1f} s", flush=True
        )
        numbers = range(arguments.count) if arguments.only is None else [arguments.only]
        kinds = KINDS if arguments.processes == 1 else KINDS_OF_SEVERAL
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            cases = {}
            for number in numbers:
                chance = random.Random(f"{arguments.seed}/{number}")
                kind = kinds[number % len(kinds)]
                moment = moment_of(kind, chance, number, reference.seconds)
                own = folder / f"case-{number}"
                cases[pool.submit(survive, own, reference, kind, moment)] = number
            survived = 0
            for case in as_completed(cases):
                outcome = case.result()
                survived += not outcome.wrong
                print(f"{cases[case]:3}  {outcome}", flush=True)
    print(f"survived {survived} of {len(cases)}")
    return 0 if survived == len(cases) else 1


if __name__ == "__main__":
    sys.exit(main())
