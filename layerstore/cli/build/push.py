"""``build --push``: what was built goes to the registries that its names are of.

Source: buildx, ``--push`` and ``--output type=registry`` (behaviour).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from layerstore.cli.output import write_note
from layerstore.cli.progress import terminal_progress
from layerstore.cli.transfer.pull import policy_of, push_one
from layerstore.cli.transfer.registries import registry_client
from layerstore.errors import InputError, LayerstoreError
from layerstore.formats.reference import parse_reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.build.outputs import Output
    from layerstore.build.request import BuiltVariant
    from layerstore.cli.settings import Settings
    from layerstore.formats.oci import Descriptor


def pushed(
    settings: Settings, built: Sequence[BuiltVariant], outputs: Sequence[Output], *, quiet: bool
) -> list[BuiltVariant]:
    """Push what was built; return it as the registries know it, by the digests they have.

    Raises:
        InputError: It has no name.
        LayerstoreError: A registry refuses it. The image stays in the store.
    """
    others = _names_not_pushed(outputs)
    names = dict.fromkeys(
        name for variant in built for name in variant.result.names if name not in others
    )
    if not names:
        raise InputError(
            "an image without a name cannot be pushed; it is in the store",
            hint="build it again with -t REGISTRY/NAME:TAG",
        )
    sent: dict[str, Descriptor] = {}
    with (
        registry_client(None) as client,
        settings.open_store() as store,
        terminal_progress(quiet=quiet) as progress,
    ):
        for name in names:
            there = parse_reference(name)
            try:
                done = push_one(store, client, name, there, policy_of("original"), progress)
            except LayerstoreError as err:
                err.hint = f"{name} is built and in the store; {err.hint or 'try: layerstore push'}"
                raise
            sent[name] = done.descriptor
            if not quiet:
                write_note(f"pushed {there.name}: {done.descriptor.digest}")
    return [_as_sent(variant, sent) for variant in built]


def _names_not_pushed(outputs: Sequence[Output]) -> set[str]:
    """Return the names that only outputs gave which stay here."""
    kept = {name for each in outputs if not each.pushes for name in each.names}
    return kept - {name for each in outputs if each.pushes for name in each.names}


def _as_sent(variant: BuiltVariant, sent: dict[str, Descriptor]) -> BuiltVariant:
    found = [sent[name] for name in variant.result.names if name in sent]
    if not found:
        return variant
    result = msgspec.structs.replace(variant.result, descriptor=found[-1])
    return variant._replace(result=result)
