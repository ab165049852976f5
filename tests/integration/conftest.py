"""What tests of whole commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.cli import Cli
from tests.support.registry_stub import StubRegistry, stub_registry
from tests.support.running import Containers, containers_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """The command line over a store that is not there yet."""
    return Cli(tmp_path / "store")


@pytest.fixture
def stub() -> Iterator[StubRegistry]:
    """A registry that runs."""
    with stub_registry() as made:
        yield made


@pytest.fixture(scope="module")
def shared_containers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    """A store with an image to run, for all tests of a module."""
    with containers_in(tmp_path_factory.mktemp("containers")) as containers:
        yield containers


@pytest.fixture
def box(shared_containers: Containers) -> Iterator[Containers]:
    """That store, without containers before and after a test."""
    yield shared_containers
    shared_containers.clear()
