"""Options that hold several things in one word: ``type=oci,dest=FILE``.

Source: docker and buildx, which read such words as a line of CSV.
"""

from __future__ import annotations

from layerstore.errors import InputError


def parse_fields(word: str, what: str, hint: str) -> dict[str, str]:
    """Return the parts of ``name=value,...`` by name; quotes protect commas, as in CSV.

    Args:
        word: What the option was given.
        what: It should be, for messages: ``a secret``.
        hint: How one is written.

    Raises:
        InputError: A part is no pair, or a name stands twice.
    """
    fields: dict[str, str] = {}
    for part in _parts(word, what, hint):
        name, equals, value = part.partition("=")
        name = name.strip().lower()
        if not name or not equals or name in fields:
            raise InputError(f"{part!r} is not a part of {what}", hint=hint)
        fields[name] = value
    return fields


def _parts(word: str, what: str, hint: str) -> list[str]:
    if '"' not in word:  # as nearly always: nothing is imported
        return word.split(",")
    import csv

    try:
        (parts,) = csv.reader([word], strict=True)
    except (csv.Error, ValueError) as err:
        raise InputError(f"{word!r} is not {what}: {err}", hint=hint) from err
    return parts
