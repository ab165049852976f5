"""Options that hold several things in one word: ``type=oci,dest=FILE``.

Source: docker and buildx, which read such words as a line of CSV.
"""

from __future__ import annotations

from layerstore.errors import FormatError, InputError
from layerstore.formats.csv_record import fields_of


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
    for part in split_fields(word, what, hint):
        name, equals, value = part.partition("=")
        name = name.strip().lower()
        if not name or not equals or name in fields:
            raise InputError(f"{part!r} is not a part of {what}", hint=hint)
        fields[name] = value
    return fields


def split_fields(word: str, what: str, hint: str) -> list[str]:
    """Return the parts of a word between its commas; quotes protect these, as in CSV.

    Raises:
        InputError: A quote is not closed, or stands inside a part.
    """
    try:
        return fields_of(word)
    except FormatError as err:
        raise InputError(f"{word!r} is not {what}: {err.message}", hint=hint) from err
