"""Go's templates, as ``--format`` takes them: ``{{.Names}}``, ``{{json .}}``, ``{{range ...}}``.

Scripts written for docker and podman ask that way. What they use is here: fields, ``range``,
``if``, ``with``, ``else``, variables, pipes, and the functions of :data:`_FUNCTIONS`; anything
else is refused with its words. A name that is not there is an error, with the names that are:
nothing is printed that looks like an answer.

Source: https://pkg.go.dev/text/template, and docker's cli/templates.
"""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from layerstore.cli.output import printable, write_table
from layerstore.cli.parsing.printf import Title, formatted
from layerstore.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_MAX_NESTED = 50
_ACTION = re.compile(r"\{\{(- )?\s*(.*?)\s*( -)?\}\}", re.DOTALL)
_WORD = re.compile(r"""\s*("(?:[^"\\]|\\.)*"|`[^`]*`|:=|[(),|]|[^\s(),|"`]+)""")
_EXAMPLE = "'{{.ID}}'"
_HINT = "--format '{{.Name}}', '{{json .}}', or json"


class _Text(NamedTuple):
    text: str


class _Action(NamedTuple):
    """Words between braces; ``kind`` is range, if, with, or "" for what is printed."""

    kind: str
    words: tuple[str, ...]
    body: tuple[_Node, ...] = ()
    otherwise: tuple[_Node, ...] = ()


_Node = _Text | _Action


class Template:
    """A template that was read, to be filled in for each of many rows."""

    def __init__(self, text: str) -> None:
        r"""Read a template; ``\t`` and ``\n`` in it are what they are for docker.

        Raises:
            InputError: It is none.
        """
        parts = _Parts(text.replace(r"\t", "\t").replace(r"\n", "\n"))
        self._nodes, ended_by = _parse(parts, depth=0)
        if ended_by:
            raise _refused(f"{{{{{ended_by}}}}} ends nothing")

    def fill(self, value: object) -> str:
        """Return the template with what it asks for.

        Raises:
            InputError: It asks for what is not there.
        """
        return "".join(_run(self._nodes, _Scope(value, {"$": value})))


def print_rows(text: str, rows: Sequence[Mapping[str, object]], titles: dict[str, str]) -> None:
    """Print a line for each row; with docker's ``table`` in front, columns under their titles.

    Args:
        text: The template.
        rows: What it is filled in with, one after the other.
        titles: Of columns that are not called as their fields.

    Raises:
        InputError: It is no template, or asks for what is not there.
    """
    if "{{" not in text:
        raise InputError(
            f"{text!r} is not a format", hint=f"table, json, or a template: {_EXAMPLE}"
        )
    first, _, rest = text.partition(" ")
    is_table = first == "table" and bool(rest.strip())
    columns = rest.strip() if is_table else text
    template = Template(columns)
    lines = [template.fill(row) for row in rows]
    if is_table:
        header = Template(columns).fill(_Titles(titles))
        write_table(header.split("\t"), _even([line.split("\t") for line in lines], header))
    else:
        for line in lines:
            sys.stdout.write(line + "\n")


class _Titles(dict[str, object]):
    """A row whose fields are their own titles."""

    def __contains__(self, name: object) -> bool:
        return True

    def __getitem__(self, name: str) -> object:
        return Title(self.get(name, _spaced(name)))


def _even(rows: Sequence[list[str]], header: str) -> list[list[str]]:
    """Return rows with as many cells as the header has."""
    width = header.count("\t") + 1
    return [[*row, *[""] * width][:width] for row in rows]


def _spaced(name: str) -> str:
    """Return ``RunningFor`` as ``RUNNING FOR``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).upper()


# -- reading


class _Parts:
    """The texts and actions of a template, one after the other."""

    def __init__(self, text: str) -> None:
        self._parts = iter(list(_split(text)))

    def __iter__(self) -> Iterator[str | tuple[str, ...]]:
        return self._parts


def _split(text: str) -> Iterator[str | tuple[str, ...]]:
    position = 0
    trims = False
    for found in _ACTION.finditer(text):
        before = text[position : found.start()]
        before = before.lstrip() if trims else before
        yield before.rstrip() if found[1] else before
        if not found[2].startswith("/*"):
            yield _words(found[2])
        trims = bool(found[3])
        position = found.end()
    rest = text[position:]
    if "{{" in rest:
        raise _refused("a {{ is not closed")
    yield rest.lstrip() if trims else rest


def _words(text: str) -> tuple[str, ...]:
    words = []
    position = 0
    while position < len(text):
        found = _WORD.match(text, position)
        if found is None:
            raise _refused(f"{{{{{text}}}}} cannot be read")
        words.append(found[1])
        position = found.end()
    if not words:
        raise _refused("{{}} asks for nothing")
    return tuple(words)


def _parse(parts: _Parts, depth: int) -> tuple[tuple[_Node, ...], str]:
    """Return the nodes up to ``end`` or ``else``, and which of the two it was ("" for neither)."""
    if depth > _MAX_NESTED:
        raise _refused("it is nested too deeply")
    nodes: list[_Node] = []
    for part in parts:
        if isinstance(part, str):
            nodes.append(_Text(part))
        elif part[0] in ("end", "else"):
            return tuple(nodes), " ".join(part)
        elif part[0] in ("range", "if", "with"):
            nodes.append(_block(part[0], part[1:], parts, depth + 1))
        else:
            nodes.append(_Action("", part))
    return tuple(nodes), ""


def _block(kind: str, words: tuple[str, ...], parts: _Parts, depth: int) -> _Action:
    body, ended_by = _parse(parts, depth)
    otherwise: tuple[_Node, ...] = ()
    if ended_by.startswith("else "):  # {{else if ...}}: one block more, which the same end closes
        _, again, *condition = ended_by.split(" ")
        return _Action(kind, words, body, (_block(again, tuple(condition), parts, depth + 1),))
    if ended_by == "else":
        otherwise, ended_by = _parse(parts, depth)
    if ended_by != "end":
        raise _refused(f"{{{{{kind} ...}}}} has no {{{{end}}}}")
    return _Action(kind, words, body, otherwise)


# -- filling in


class _Scope(NamedTuple):
    """What ``.`` is, and what variables are."""

    dot: object
    variables: dict[str, object]


def _run(nodes: Sequence[_Node], scope: _Scope) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, _Text):
            yield node.text
        elif node.kind == "range":
            yield from _run_range(node, scope)
        elif node.kind:
            value = _evaluate(node.words, scope, lenient=True)
            inner = scope._replace(dot=value) if node.kind == "with" else scope
            yield from _run(node.body, inner) if value else _run(node.otherwise, scope)
        elif node.words[0].startswith("$") and node.words[1:2] == (":=",):
            scope.variables[node.words[0]] = _evaluate(node.words[2:], scope)
        else:
            yield _shown(_evaluate(node.words, scope))


def _run_range(node: _Action, scope: _Scope) -> Iterator[str]:
    words, names = node.words, []
    if ":=" in words:
        at = words.index(":=")
        names = [word for word in words[:at] if word != ","]
        words = words[at + 1 :]
    found = _evaluate(words, scope)
    if not found:
        yield from _run(node.otherwise, scope)
        return
    if isinstance(found, dict):
        pairs: list[tuple[object, object]] = sorted(found.items())
    elif isinstance(found, list | tuple):
        pairs = list(enumerate(found))
    else:
        raise _refused(f"range over {json.dumps(found)}, which is no list")
    for pair in pairs:
        given = pair[1:] if len(names) == 1 else pair
        variables = {**scope.variables, **dict(zip(names, given, strict=False))}
        yield from _run(node.body, _Scope(pair[1], variables))


def _evaluate(words: Sequence[str], scope: _Scope, *, lenient: bool = False) -> Any:  # noqa: ANN401
    """Return what a pipe of calls gives.

    Args:
        words: Of the pipe.
        scope: What names in it mean.
        lenient: A name that is not there is nothing: conditions ask that way.
    """
    value: Any = None
    for number, call in enumerate(_split_pipe(words)):
        arguments = list(_arguments(call, scope, lenient=lenient))
        if number:
            arguments.append(value)
        first, *rest = arguments
        if isinstance(first, _Function):
            value = first.call(rest)
        elif rest:
            raise _refused(f"{' '.join(call)!r} is no call of a function that is known", _KNOWN)
        else:
            value = first
    return value


def _split_pipe(words: Sequence[str]) -> Iterator[list[str]]:
    call: list[str] = []
    depth = 0
    for word in words:
        depth += (word == "(") - (word == ")")
        if word != "|" or depth:
            call.append(word)
            continue
        if not call:
            break
        yield call
        call = []
    if not call:
        raise _refused("a pipe has nothing at one end")
    yield call


def _arguments(call: Sequence[str], scope: _Scope, *, lenient: bool) -> Iterator[Any]:
    words = iter(call)
    for word in words:
        if word != "(":
            yield _operand(word, scope, lenient=lenient)
            continue
        inner: list[str] = []
        depth = 1
        for again in words:
            depth += (again == "(") - (again == ")")
            if depth == 0:
                break
            inner.append(again)
        if depth or not inner:
            raise _refused("a parenthesis is not closed")
        yield _evaluate(inner, scope, lenient=lenient)


def _operand(word: str, scope: _Scope, *, lenient: bool) -> Any:  # noqa: ANN401
    if word in _FUNCTIONS:
        return _Function(word, _FUNCTIONS[word])
    if word in ("true", "false"):
        return word == "true"
    if word[0] == '"':
        return _unquoted(word)
    if word[0] == "`":
        return _Asked(word[1:-1])
    if word.lstrip("-").isdecimal():
        return int(word)
    variable, dot, path = word.partition(".")
    if word[0] == "$":
        if variable not in scope.variables:
            raise _refused(f"the variable {variable} is not known")
        value = scope.variables[variable]
    elif not variable and dot:
        value = scope.dot
    else:
        raise _refused(f"{word!r} is not known", _KNOWN)
    for name in path.split(".") if path else ():
        value = _field(value, name, word, lenient=lenient)
    return value


def _unquoted(word: str) -> str:
    try:
        return _Asked(json.loads(word, strict=False))
    except ValueError as err:
        raise _refused(f"{word} is not a text in quotes") from err


def _field(value: object, name: str, word: str, *, lenient: bool) -> object:
    if isinstance(value, dict) and name in value:
        return value[name]
    if lenient:
        return None
    there = ", ".join(sorted(value)) if isinstance(value, dict) else None
    raise InputError(f"the format has {word}, and there is no {name!r}", hint=there or _HINT)


def _shown(value: object) -> str:
    """Return a value as Go prints it."""
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return f"map[{' '.join(f'{key}:{_shown(value[key])}' for key in sorted(value))}]"
    if isinstance(value, list | tuple):
        return f"[{' '.join(_shown(each) for each in value)}]"
    if isinstance(value, _Function):
        raise _refused(f"{value.name} wants something to work on")
    return str(value) if isinstance(value, _Asked) else printable(str(value))


# -- functions


class _Asked(str):
    """Text whose lines and tabs the template asks for; those of names and labels are escaped."""

    __slots__ = ()


class _Function(NamedTuple):
    name: str
    function: Callable[..., Any]

    def call(self, arguments: Sequence[Any]) -> Any:  # noqa: ANN401
        try:
            return self.function(*arguments)
        except (TypeError, ValueError, AttributeError, KeyError, IndexError) as err:
            given = " ".join(json.dumps(each, default=str) for each in arguments)
            raise _refused(f"{self.name} cannot take {given[:200] or 'nothing'}") from err


def _index(value: Any, *keys: object) -> Any:  # noqa: ANN401
    for key in keys:
        # Go: what a map lacks is nothing, what a list lacks is an error.
        value = value.get(key, "") if isinstance(value, dict) else value[key]
    return value


def _join(words: Sequence[str], between: str) -> str:
    return _Asked(between.join(_shown(word) for word in words))


def _printed_line(*words: object) -> str:
    return _Asked(" ".join(_shown(word) for word in words) + "\n")


def _printf(text: str, *values: object) -> str:
    try:
        return _Asked(formatted(text, values, _shown))
    except ValueError as err:
        raise _refused(f"printf: {err}") from err


def _slice(value: Any, first: int = 0, last: int | None = None) -> Any:  # noqa: ANN401
    last = len(value) if last is None else last
    if not 0 <= first <= last <= len(value):
        raise IndexError(last)  # as Go, and unlike Python
    return value[first:last]


def _padded(text: str, before: int, after: int) -> str:
    """Return a text between spaces; docker's, which leaves an empty one as it is."""
    return " " * before + text + " " * after if text else ""


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": _compact,
    "len": len,
    "index": _index,
    "slice": _slice,
    "join": _join,
    "split": lambda text, between: text.split(between),
    "lower": lambda text: text.lower(),
    "upper": lambda text: text.upper(),
    "title": lambda text: text.title(),
    "truncate": lambda text, length: text[:length],
    "pad": _padded,
    "print": lambda *words: " ".join(_shown(word) for word in words),
    "println": _printed_line,
    "printf": _printf,
    "eq": lambda first, *others: any(first == other for other in others),
    "ne": lambda first, other: first != other,
    "lt": lambda first, other: first < other,
    "le": lambda first, other: first <= other,
    "gt": lambda first, other: first > other,
    "ge": lambda first, other: first >= other,
    "not": lambda value: not value,
    "and": lambda *values: next((each for each in values if not each), values[-1]),
    "or": lambda *values: next((each for each in values if each), values[-1]),
}
_KNOWN = "a field with its dot, or " + ", ".join(_FUNCTIONS)


def _refused(why: str, hint: str = _HINT) -> InputError:
    return InputError(f"the format cannot be used: {why}", hint=hint)
