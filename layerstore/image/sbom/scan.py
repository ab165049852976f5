"""The list of an image's packages, as one SPDX document."""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING, NamedTuple

from layerstore.image.sbom.files import ImageFiles
from layerstore.image.sbom.languages import language_packages
from layerstore.image.sbom.licenses import licenses_of
from layerstore.image.sbom.spdx import spdx_document
from layerstore.image.sbom.system import system_packages

if TYPE_CHECKING:
    from layerstore.image.trees.stack import Node
    from layerstore.store.store import Store

MAX_PACKAGES = 50_000


class Sbom(NamedTuple):
    """An SPDX document and what is not in it.

    Attributes:
        text: Canonical JSON.
        packages: How many it lists.
        left_out: What could not be read.
    """

    text: str
    packages: int
    left_out: tuple[str, ...]


def sbom_of(store: Store, root: Node, *, name: str, image_id: str, created: str) -> Sbom:
    """Return the packages of an image; every text in it may be a stranger's.

    Raises:
        IntegrityError: The store is damaged.
    """
    files = ImageFiles(store, root)
    found = chain(system_packages(files), language_packages(files))
    packages = list(islice(found, MAX_PACKAGES))
    if next(found, None) is not None:
        files.leave_out(b"", f"more than {MAX_PACKAGES} packages")
    licenses = licenses_of(files, packages)
    text = spdx_document(
        packages, licenses, name=name, image_id=image_id, created=created, left_out=files.left_out
    )
    return Sbom(text, len(packages), tuple(files.left_out))
