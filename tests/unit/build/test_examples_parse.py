"""The examples that `make demo` builds are Dockerfiles of the language as it is here."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerstore.build.dockerfile.parser import parse_dockerfile

EXAMPLES = Path(__file__).parents[3] / "Dockerfile-examples"
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/Dockerfile"))


def test_there_are_a_dozen() -> None:
    assert len(NAMES) >= 12


@pytest.mark.parametrize("name", NAMES)
def test_an_example_parses_and_is_explained(name: str) -> None:
    dockerfile = EXAMPLES / name / "Dockerfile"
    parsed = parse_dockerfile(dockerfile.read_bytes(), str(dockerfile))
    assert parsed.stages
    assert (EXAMPLES / name / "README.md").read_text().startswith(f"# {name}\n")
