"""The long run of the fuzzing: `make fuzz`, or `python -m tests.safety.fuzz --only recipe`."""

from __future__ import annotations

import argparse
import resource
import secrets
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, seed, settings

from tests.safety.fuzzing import NAMES, Target, target


def run(made: Target, examples: int, number: int, seconds: float) -> Counter[str]:
    """Checks many mutants.

    Args:
        made: What is fuzzed.
        examples: How many mutants.
        number: The seed.
        seconds: The longest that one may take.

    Returns:
        How many came to what.
    """
    came: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="augpipe-fuzz-") as folder:

        @seed(number)
        @settings(
            max_examples=examples,
            database=None,
            deadline=timedelta(seconds=seconds),
            print_blob=True,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        )
        @given(made.mutants)
        def check(mutant: Any) -> None:
            came[made.check(Path(folder), mutant)] += 1

        check()
    return came


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.safety.fuzz", description=__doc__)
    parser.add_argument("--examples", type=int, default=10_000, help="mutants of recipes")
    parser.add_argument("--seed", type=int, default=None, help="to repeat a run")
    parser.add_argument("--only", default="", help="a part of a target's name")
    options = parser.parse_args()
    number = secrets.randbelow(2**32) if options.seed is None else options.seed
    print(
        f"seed {number}: python -m tests.safety.fuzz --seed {number} --examples {options.examples}"
    )
    warnings.simplefilter("error")
    failed = []
    for name in NAMES:
        if options.only not in name:
            continue
        made = target(name)
        start, count = time.perf_counter(), max(1, round(options.examples * made.share))
        try:
            came = run(made, count, number, 20.0)
        except BaseException as error:  # the others are worth a run all the same
            if isinstance(error, KeyboardInterrupt):
                raise
            failed.append(name)
            print(f"{name}: FAILED:", flush=True)
            traceback.print_exception(error, file=sys.stdout)
            continue
        spent = time.perf_counter() - start
        told = ", ".join(f"{count} {what}" for what, count in sorted(came.items()))
        print(f"{name}: {came.total()} mutants in {spent:.0f} s: {told}", flush=True)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"most memory {memory:.1f} GB; {'failed: ' + ', '.join(failed) if failed else 'all held'}"
    )
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
