"""Code of services that do not exist: files that compress about as real ones do."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from tests.bench.registry.model import stable

if TYPE_CHECKING:
    from pathlib import Path

FILE_BYTES = 8192
_WORDS = [
    "".join(random.Random(f"w{n}").choices("etaoinshrdlucmfw_", k=2 + n % 9)) for n in range(1500)
]


def write_code(
    place: Path, service: int, language: str, size: int, version: int, part: float
) -> None:
    """Write a version's code: each changes ``part`` of the files of the one before."""
    place.mkdir(parents=True, exist_ok=True)
    for number in range(max(1, size // FILE_BYTES)):
        last = max(
            (v for v in range(2, version + 1) if stable("code", service, number, v) < part),
            default=1,
        )
        source = random.Random(f"code/{service}/{number}/{last}")
        directory = place / f"m{number // 100:03}"
        directory.mkdir(exist_ok=True)
        (directory / f"f{number:05}").write_bytes(_content(source, language))


def _content(source: random.Random, language: str) -> bytes:
    if language == "java":
        return source.randbytes(FILE_BYTES)  # archives of archives: compressed already
    if language == "native":
        return source.randbytes(FILE_BYTES // 2) + bytes(FILE_BYTES // 2)
    ranks = (min(len(_WORDS) - 1, int(source.paretovariate(0.7)) - 1) for _ in range(3000))
    return " ".join(_WORDS[rank] for rank in ranks).encode()[:FILE_BYTES]
