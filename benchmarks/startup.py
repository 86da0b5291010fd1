"""How long augpipe takes to begin: `import augpipe` and `augpipe --help`, warm.

    python benchmarks/startup.py [--rounds 15]

Each round starts a fresh interpreter; bare `python -c pass` alternates with them, and its
median is printed beside, since it is part of both.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

BARS = {"import augpipe": 0.15, "augpipe --help": 0.3}


def main() -> None:
    """Runs the benchmark and prints it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import augpipe": [sys.executable, "-c", "import augpipe"],
        "augpipe --help": [str(Path(sys.executable).with_name("augpipe")), "--help"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(rounds + 1):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            if turn:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    for name, times in seconds.items():
        bar = f"   (bar: {BARS[name]:.2f} s)" if name in BARS else ""
        print(f"{name:15} {statistics.median(times):.3f} s{bar}")


if __name__ == "__main__":
    main()
