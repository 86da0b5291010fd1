"""What the tests of expansion share."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

DRIVER = """\
import json, multiprocessing, os, resource, signal, sys
from augpipe.expansion import expand

arguments, moment, count = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
replace, calls, main = os.replace, multiprocessing.Value("i"), os.getpid()

def counted(*args, **options):
    with calls.get_lock():
        calls.value += 1
        here = calls.value == count
    if here and moment == "before":
        os.kill(main, signal.SIGKILL)
    replace(*args, **options)
    if here and moment == "after":
        os.kill(main, signal.SIGKILL)

os.replace = counted
if moment == "file size":
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, count))
expand(**arguments)
"""


def tree(out: Path) -> dict[str, bytes]:
    files = (path for path in out.rglob("*") if path.is_file())
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def start(moment: str, count: int, **arguments: Any) -> subprocess.Popen[str]:
    arguments = {k: str(v) if isinstance(v, Path) else v for k, v in arguments.items()}
    command = [sys.executable, "-c", DRIVER, json.dumps(arguments), moment, str(count)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wait_for_lines(
    process: subprocess.Popen[str], manifest: Path, count: int, seconds: int = 60
) -> None:
    deadline = time.monotonic() + seconds
    while not manifest.exists() or manifest.read_bytes().count(b"\n") < count:
        assert process.poll() is None, "it ended before it could be interrupted"
        assert time.monotonic() < deadline
