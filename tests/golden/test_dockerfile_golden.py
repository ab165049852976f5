"""Each folder: a Dockerfile and what it must give, a tree or a refusal word for word."""

from pathlib import Path

import pytest

from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.dockerfile.parser import parse_dockerfile
from tests.support.dockerfiles import cases, result_of


@pytest.mark.parametrize("case", cases(failing=False), ids=lambda case: case.name)
def test_case_gives_its_tree(case: Path) -> None:
    assert result_of(case) == (case / "result").read_text()


@pytest.mark.parametrize("case", cases(failing=True), ids=lambda case: case.name)
def test_case_is_refused_in_these_words(case: Path) -> None:
    with pytest.raises(SpecError):
        parse_dockerfile((case / "Dockerfile").read_bytes())
    assert result_of(case) == (case / "result").read_text()
