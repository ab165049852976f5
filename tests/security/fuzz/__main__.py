"""``python -m tests.security.fuzz``: fuzz parsers for as long as one likes.

Each target runs in a process of its own. A finding is kept in a file, its name is printed,
and the exit code is 1; ``--replay TARGET FILE`` runs it again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from tests.security.fuzz.engine import PEAK_BYTES, Finding, fuzz, run_one_in_time
from tests.security.fuzz.guided import available, fuzz_guided

STATE = Path(".cache/fuzz")


def main() -> int:
    arguments = _parser().parse_args()
    if arguments.replay:
        return _replay(*arguments.replay)
    if arguments.one:
        return _one(arguments.one, arguments)
    engine = arguments.engine
    if engine == "guided" and not available():
        print("atheris is not installed (pip install atheris): "
              "fuzzing WITHOUT coverage guidance", file=sys.stderr)  # fmt: skip
        engine = "own"
    failed = []
    for name in arguments.targets or _names():
        command = [sys.executable, "-m", "tests.security.fuzz", "--one", name, "--engine", engine,
                   "--seconds", str(arguments.seconds), "--seed", str(arguments.seed)]  # fmt: skip
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    print(f"findings in: {', '.join(failed)}" if failed else "no findings", flush=True)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.security.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="default: all")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    parser.add_argument("--engine", choices=("own", "guided"), default="guided")
    parser.add_argument("--replay", nargs=2, metavar=("TARGET", "FILE"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser


def _names() -> list[str]:
    from tests.security.fuzz.targets import BY_NAME

    return list(BY_NAME)


def _replay(name: str, file: str) -> int:
    from tests.security.fuzz.targets import BY_NAME

    refusal = run_one_in_time(BY_NAME[name], Path(file).read_bytes())
    print("accepted" if refusal is None else f"refused: {type(refusal).__name__}: {refusal}")
    return 0


def _one(name: str, arguments: argparse.Namespace) -> int:
    if arguments.engine == "guided":
        fuzz_guided(name, arguments.seconds, STATE / "corpus" / name)
    from tests.security.fuzz.targets import BY_NAME

    print(f"{name}: seed {arguments.seed}", flush=True)
    try:
        tally = fuzz(BY_NAME[name], arguments.seed, seconds=arguments.seconds)
    except Finding as found:
        STATE.mkdir(parents=True, exist_ok=True)
        file = STATE / f"{name}-{arguments.seed}.input"
        file.write_bytes(found.data)
        print(f"FINDING {found}\nkept in {file}", flush=True)
        return 1
    print(
        f"{name}: {tally.executions:,} executions in {tally.seconds:.0f} s, "
        f"{tally.accepted:,} accepted, {tally.refusals} kinds of answer, "
        f"slowest {tally.slowest * 1000:.0f} ms, peak {tally.peak_bytes >> 20} MiB",
        flush=True,
    )
    return 0 if tally.peak_bytes <= PEAK_BYTES else 1


if __name__ == "__main__":
    sys.exit(main())
