"""What made the layers of an image: the instruction, and where it stands."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from layerstore.image.images import load_config, steps_of

if TYPE_CHECKING:
    from layerstore.digest import DiffId
    from layerstore.formats.oci_config import History
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.store import Store

_SHELL_WORDS = r"/\S++(?: -[A-Za-z]+(?: [a-z]+)?)*? -[A-Za-z]*c "
"""``/bin/sh -c``, ``/bin/bash -o pipefail -c``: as SHELL of a Dockerfile names them.

Looked for at words alone, each once: histories are a stranger's."""
_ARGUMENTS = re.compile(rf"(?:RUN )?\|[0-9]+ .*?(?<= ){_SHELL_WORDS}")
_SHELL = re.compile(rf"(?:RUN )?{_SHELL_WORDS}")


class Place(NamedTuple):
    """Where an instruction stands.

    Attributes:
        text: The instruction, without passwords of URLs.
        step: Its place among the steps of its stage, ``[builder 2/5]``; empty if not known.
        file: The spec, as whoever built it called it; empty if not known.
        line: Where it begins, from 1; 0 if not known.
    """

    text: str
    step: str = ""
    file: str = ""
    line: int = 0


Places = Callable[["ImageRecord"], Mapping[int, Place]]
"""Gives the places of an image's steps that are known, by the numbers of their layers.

A layer by itself does not tell: two instructions may make the same one."""


def no_places(_: ImageRecord) -> Mapping[int, Place]:
    """Know no place."""
    return {}


class Step(NamedTuple):
    """What made a layer.

    Attributes:
        number: Of the layer, from 1 for the lowest.
        text: The instruction, or what else the history says; empty when it says nothing.
        place: Where it stands among the steps of a stage, ``[builder 2/5]`` say, when a build of
            it is remembered.
        file: The spec that it stands in; empty if not known.
        line: Where it begins in that, from 1; None if not known.
    """

    number: int
    diff_id: DiffId
    text: str
    place: str = ""
    file: str = ""
    line: int | None = None

    @property
    def where(self) -> str:
        """``Dockerfile:12``, or the place among the steps, or nothing."""
        return self.place if self.line is None else f"{posixpath.basename(self.file)}:{self.line}"

    @property
    def words(self) -> str:
        """Where it stands and what it says."""
        return " ".join(part for part in (self.where, self.text) if part)


def steps_of_layers(store: Store, image: ImageRecord, places: Mapping[int, Place]) -> list[Step]:
    """Return what made each layer of an image, lowest first.

    Raises:
        IntegrityError: The image's config is damaged.
    """
    steps = []
    for number, (diff_id, history) in enumerate(layer_histories(store, image), start=1):
        known = places.get(number)
        if known is not None:
            line = known.line or None
            steps.append(Step(number, diff_id, known.text, known.step, known.file, line))
        else:
            text = "" if history is None else instruction_of(history.created_by) or history.comment
            steps.append(Step(number, diff_id, text))
    return steps


def layer_histories(store: Store, image: ImageRecord) -> list[tuple[DiffId, History | None]]:
    """Return each layer of an image, lowest first, with its line of the history if there is one.

    Raises:
        IntegrityError: The image's config is damaged.
    """
    made = [step for step in steps_of(load_config(store, image.image_id)) if not step.empty_layer]
    lines = [*made, *[None] * len(image.layers)]
    return list(zip(image.layers, lines, strict=False))


def instruction_of(created_by: str) -> str:
    """Return a line of a history as it stood in a Dockerfile, as far as that can be told.

    Values of build arguments, which the history of a RUN begins with, are left out.

    Source: docker's and BuildKit's words for steps (behaviour).
    """
    text = " ".join(created_by.split()).removesuffix("# buildkit").rstrip()
    shell = _SHELL.match(text) or _ARGUMENTS.match(text)
    if shell is None:
        return text
    rest = text[shell.end() :]
    return rest.removeprefix("#(nop)").strip() if "#(nop)" in rest[:6] else f"RUN {rest}"
