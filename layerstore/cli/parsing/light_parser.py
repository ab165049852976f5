"""Command lines of ``run`` and its like that are plain, parsed without argparse, which takes 5 ms.

Options are declared as argparse wants them. Whatever is not plain (an error, ``--help``, a value
that begins with a dash, letters with a value among them) is no answer: argparse is asked then,
so its words and its rules are the only ones. What is answered is what it would answer; a test
asks both.
"""

from __future__ import annotations

import sys

from layerstore.light_typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence


class _Option(NamedTuple):
    dest: str
    action: str
    const: object
    type: Callable[[str], object] | None
    choices: Sequence[object] | None


class _NotPlain(Exception):  # noqa: N818 -- no error
    """Argparse is to decide."""


class LightParser:
    """Takes declarations of options as :class:`argparse.ArgumentParser` does."""

    def __init__(self) -> None:
        self._options: dict[str, _Option] = {}
        self._positional = ""
        self._values: dict[str, object] = {}

    def add_argument(
        self,
        *names: str,
        action: str = "store",
        default: object = None,
        const: object = None,
        type: Callable[[str], object] | None = None,  # noqa: A002
        choices: Sequence[object] | None = None,
        dest: str = "",
        **_told: object,
    ) -> None:
        """Declare an option, or the one positional word, as argparse has it."""
        if not names[0].startswith("-"):
            self._positional = names[0]
            return
        if not dest:
            dest = next((name[2:] for name in names if name.startswith("--")), names[0][1:])
            dest = dest.replace("-", "_")
        if action == "store_true":
            const, default = True, False
        if action != "help":
            self._values.setdefault(dest, default)
        option = _Option(dest, action, const, type, choices)
        for name in names:
            self._options[name] = option

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace | None:
        """Return the options in front of the first positional word, that, and what is behind it.

        The last is their ``command``. None where argparse is to decide.
        """
        words = iter(arguments)
        given: dict[str, object] = {}
        try:
            for word in words:
                if word.startswith("-") and word != "-":
                    self._take(word, words, given)
                    continue
                given[self._positional] = word
                given["command"] = list(words)
                return _namespace({**self._values, **given})
        except _NotPlain:
            pass
        return None

    def _take(self, word: str, words: object, given: dict[str, object]) -> None:
        name, equals, value = word.partition("=")
        option = self._options.get(name)
        if option is None:
            if equals or word.startswith("--"):
                raise _NotPlain
            self._take_letters(word[1:], given)
        elif option.action in ("store_true", "store_const"):
            if equals:
                raise _NotPlain
            given[option.dest] = option.const
        else:
            if equals and not word.startswith("--"):
                raise _NotPlain
            self._store(option, value if equals else _next(words), given)

    def _take_letters(self, letters: str, given: dict[str, object]) -> None:
        """Take flags that stand together: ``-it``."""
        for letter in letters:
            option = self._options.get(f"-{letter}")
            if option is None or option.action != "store_true":
                raise _NotPlain
            given[option.dest] = True

    def _store(self, option: _Option, text: str, given: dict[str, object]) -> None:
        value: object = text
        if option.type is not None:
            try:
                value = option.type(text)
            except (ValueError, TypeError):
                raise _NotPlain from None
        if option.choices is not None and value not in option.choices:
            raise _NotPlain
        if option.action == "append":
            before = given.get(option.dest, self._values[option.dest])
            assert isinstance(before, list)
            given[option.dest] = [*before, value]
        elif option.action == "store":
            given[option.dest] = value
        else:
            raise _NotPlain


def _namespace(values: dict[str, object]) -> argparse.Namespace:
    kind: Any = type(sys.implementation)  # types.SimpleNamespace, without types
    made: argparse.Namespace = kind(**values)  # nobody asks what it is, only for its attributes
    return made


def _next(words: object) -> str:
    """Return the word that is an option's value."""
    word = next(words, "-")  # type: ignore[call-overload]
    if word.startswith("-"):
        raise _NotPlain
    return str(word)
