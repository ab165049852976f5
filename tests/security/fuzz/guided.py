"""Coverage-guided fuzzing with atheris, where it is installed: ``pip install atheris``.

Not among the dependencies: it has wheels for few platforms and Pythons only.
"""

from __future__ import annotations

import importlib.util
import os
import random
import sys
from typing import TYPE_CHECKING

from tests.security.fuzz.engine import SECONDS_PER_INPUT, run_one
from tests.security.fuzz.mutate import change_once

if TYPE_CHECKING:
    from pathlib import Path
    from typing import NoReturn

    from tests.security.fuzz.targets import Target

MEMORY_MIB = 2048
"""libFuzzer's own bound on the process: its corpus and the instrumentation are in there too."""


def available() -> bool:
    """Return whether atheris can be imported."""
    return importlib.util.find_spec("atheris") is not None


def fuzz_guided(name: str, seconds: int, corpus: Path) -> NoReturn:
    """Fuzz one target in this process until the time is over; libFuzzer ends the process.

    Args:
        name: Of the target.
        seconds: How long.
        corpus: A directory that keeps what was found worth keeping, from run to run.
    """
    import atheris

    with atheris.instrument_imports(include=["layerstore"]):
        from tests.security.fuzz import targets

        target: Target = targets.BY_NAME[name]
        seeds = target.seeds()
        run_one(target, seeds[0])  # targets import what they need when they run: now, that is
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        (corpus / f"seed-{number:04d}").write_bytes(seed)

    def mutated(data: bytes, max_size: int, seed: int) -> bytes:
        source = random.Random(seed)
        if source.random() < 0.5:
            data = change_once(source, data, seeds, target.tokens)
        else:
            data = atheris.Mutate(data, len(data))
        if source.random() < 0.5:
            data = target.repair(data)
        return data[:max_size]

    arguments = [
        sys.argv[0], os.fspath(corpus), f"-max_total_time={seconds}", "-print_final_stats=1",
        f"-timeout={SECONDS_PER_INPUT}", f"-rss_limit_mb={MEMORY_MIB}", "-verbosity=1",
        f"-max_len={target.max_bytes}", f"-artifact_prefix={corpus.parent}/{name}-",
    ]  # fmt: skip
    atheris.Setup(arguments, lambda data: run_one(target, data), custom_mutator=mutated)
    atheris.Fuzz()
    raise AssertionError("libFuzzer ends the process")
