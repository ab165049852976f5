"""A logical line to a typed instruction: one small parser per keyword.

What needs the environment waits for `expand`; what can be refused without it is
refused here, with the column.

Source: Dockerfile reference; quirks as BuildKit has them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypedDict, cast, get_args

import msgspec

from layerstore.build.dockerfile import values
from layerstore.build.dockerfile.arguments import (
    JsonArray,
    Word,
    json_array,
    split_blanks,
    split_quoted,
)
from layerstore.build.dockerfile.durations import parse_duration
from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.dockerfile.expand import check_word
from layerstore.build.dockerfile.flags import FlagWord, ParsedFlags, split_flags
from layerstore.build.dockerfile.heredocs import find_heredocs, parse_heredoc
from layerstore.build.dockerfile.hints import nearest, suggestion
from layerstore.build.dockerfile.lexer import SPACE, Lexer, LogicalLine
from layerstore.build.dockerfile.mounts import parse_mount, unresolved_mount
from layerstore.build.dockerfile.ports import parse_port
from layerstore.build.dockerfile.syntax import (
    Add,
    Arg,
    ArgDefinition,
    Cmd,
    CommandLine,
    Copy,
    Entrypoint,
    Env,
    Expose,
    Flag,
    From,
    Healthcheck,
    Heredoc,
    Instruction,
    Label,
    Maintainer,
    Network,
    Notice,
    Onbuild,
    Pair,
    Run,
    RunMount,
    Security,
    Shell,
    SourceSpan,
    StageInstruction,
    StopSignal,
    User,
    Volume,
    Workdir,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_KEYWORD_END = re.compile(r"[\t\v\f\r ]+")
_STAGE_NAME = re.compile(r"[a-z][a-z0-9._-]*")
_JSON_FORMS = frozenset(
    ("RUN", "CMD", "ENTRYPOINT", "SHELL", "COPY", "ADD", "VOLUME", "HEALTHCHECK")
)
_HEREDOC_FORMS = frozenset(("RUN", "COPY", "ADD"))
_NOT_IN_ONBUILD = frozenset(("ONBUILD", "FROM", "MAINTAINER"))
_MIN_INTERVAL_NS = 1_000_000
_MAX_RETRIES = 2**31 - 1


class _Common(TypedDict):
    span: SourceSpan
    original: str
    flags: tuple[Flag, ...]


class _Request(msgspec.Struct):
    """One instruction on its way from line to tree."""

    lexer: Lexer
    line: LogicalLine
    start: int  # offset of the keyword
    keyword: str
    flag_words: list[FlagWord]
    args: str
    offset: int  # of args
    heredocs: tuple[Heredoc, ...] = ()
    json: JsonArray | None = None
    end_line: int = 0

    @property
    def escape(self) -> str:
        return self.lexer.escape

    def span(self, offset: int | None = None) -> SourceSpan:
        """Return the place of an offset in the line, by default the arguments'."""
        return self.line.span(self.offset if offset is None else offset)

    def common(self, flags: ParsedFlags) -> _Common:
        return _Common(
            span=self.line.span(self.start, end_line=self.end_line),
            original=self.line.text[self.start :].strip(SPACE),
            flags=flags.flags,
        )

    def flags(self) -> ParsedFlags:
        return ParsedFlags(self.keyword, self.flag_words, self.line)

    def check(self, word: Word) -> str:
        """Refuse a word that cannot be expanded; return its text."""
        check_word(word.text, self.escape, lambda at: self.line.span(word.offset + at))
        return word.text

    def check_flag(self, flag: Flag | None) -> str | None:
        if flag is None or flag.value is None:
            return None
        check_word(flag.value, self.escape, lambda _: flag.span)
        return flag.value

    def has_variables(self, text: str) -> bool:
        """Whether the text can mean something else than itself."""
        return any(char in text for char in ("$", "'", '"', self.escape))


def parse_line(lexer: Lexer, line: LogicalLine) -> Instruction:
    """Return the instruction of a logical line, reading its heredocs from the lexer.

    Raises:
        SpecError: The line is not a valid instruction.
        LimitExceededError: A word is nested too deep.
    """
    start = len(line.text) - len(line.text.lstrip(SPACE))
    request = _request(lexer, line, start)
    inner = request
    if request.keyword == "ONBUILD" and request.args:
        inner = _request(lexer, line, request.offset)
        if inner.keyword in _NOT_IN_ONBUILD:
            reason = f"{inner.keyword} cannot be an ONBUILD trigger"
            raise SpecError(reason, line.span(inner.start))
    if inner.keyword in _HEREDOC_FORMS and inner.json is None:
        opened = find_heredocs(line.text)
        inner.heredocs = tuple(lexer.read_heredoc(each, line, inner.start) for each in opened)
    request.end_line = inner.end_line = lexer.line_number if inner.heredocs else line.last_line
    if request is not inner:
        return _onbuild(request, inner)
    return PARSERS[request.keyword](request)


def _request(lexer: Lexer, line: LogicalLine, start: int) -> _Request:
    text = line.text.rstrip(SPACE)
    match = _KEYWORD_END.search(text, start)
    word = text[start : match.start() if match else len(text)]
    keyword = word.upper() if word.isascii() else word
    if keyword not in PARSERS:
        raise _unknown_instruction(word, line.span(start))
    flag_words, offset = split_flags(text, match.end() if match else len(text))
    args = text[offset:].lstrip(SPACE)
    request = _Request(lexer, line, start, keyword, flag_words, args, len(text) - len(args))
    if keyword in _JSON_FORMS and keyword != "HEALTHCHECK":
        request.json = json_array(args, line, request.offset)
    return request


def _unknown_instruction(word: str, span: SourceSpan) -> SpecError:
    if not word:
        return SpecError("a continuation mark continues nothing", span)
    near = nearest(word, [name.lower() for name in PARSERS])
    hint = f"did you mean {near.upper()}?" if near else "a comment begins with #"
    # Letters that only look like Latin ones are what such a message has to show.
    shown = word[:40] if word.isascii() else ascii(word[:40])
    return SpecError(f"unknown instruction {shown}", span, hint=hint)


def _onbuild(request: _Request, inner: _Request) -> Onbuild:
    instruction = PARSERS[inner.keyword](inner)
    trigger = request.line.text[inner.start :].strip(SPACE)
    trigger += "".join(f"\n{each.content}{each.name}" for each in inner.heredocs)
    return Onbuild(
        **request.common(request.flags()),
        trigger=trigger,
        instruction=cast("StageInstruction", instruction),
    )


def _bare_onbuild(request: _Request) -> Onbuild:
    raise SpecError("ONBUILD needs an instruction", request.span(), hint="ONBUILD RUN make")


def _one(request: _Request, what: str) -> str:
    """Return the arguments as one word."""
    if not request.args:
        raise SpecError(f"{request.keyword} needs {what}", request.span())
    return request.args


def _from(request: _Request) -> From:
    flags = request.flags()
    words = split_blanks(request.args, request.offset)
    name = None
    if len(words) == 3 and words[1].text.lower() == "as":
        name = words[2].text.lower()
        if not _STAGE_NAME.fullmatch(name):
            hint = "a name begins with a letter and holds letters, digits, '_', '-' and '.'"
            reason = f"{words[2].text!r} is not a stage name"
            raise SpecError(reason, request.span(words[2].offset), hint=hint)
    elif len(words) != 1:
        place = request.span(words[1].offset if len(words) > 1 else None)
        raise SpecError("FROM needs a base, or a base and AS NAME", place, hint="FROM base AS name")
    return From(
        **request.common(flags),
        base=request.check(words[0]),
        name=name,
        platform=request.check_flag(flags.get("platform")),
    )


def _arg(request: _Request) -> Arg:
    flags = request.flags()
    words = split_quoted(request.args, request.offset, request.escape)
    if not words:
        raise SpecError("ARG needs a name", request.span(), hint="ARG NAME or ARG NAME=VALUE")
    definitions = []
    for word in words:
        name, equals, default = _partition(request, word)
        if not name:
            raise SpecError("ARG needs a name before =", request.span(word.offset))
        definitions.append(ArgDefinition(name, default if equals else None))
    return Arg(**request.common(flags), args=tuple(definitions))


def _partition(request: _Request, word: Word) -> tuple[str, str, str]:
    """Split at the first ``=``, quoted or not, and check both sides on their own."""
    name, equals, value = word.text.partition("=")
    request.check(Word(name, word.offset))
    request.check(Word(value, word.offset + len(name) + 1))
    return name, equals, value


def _pairs(request: _Request) -> tuple[Pair, ...]:
    keyword = request.keyword
    words = split_quoted(request.args, request.offset, request.escape)
    if not words:
        hint = f"{keyword} NAME=VALUE"
        raise SpecError(f"{keyword} needs at least one pair", request.span(), hint=hint)
    if "=" not in words[0].text:
        return (_legacy_pair(request),)
    pairs = []
    for word in words:
        key, equals, value = _partition(request, word)
        if not equals:
            hint = "write NAME=VALUE; quote a value that holds spaces"
            reason = f"{word.text!r} is not NAME=VALUE"
            raise SpecError(reason, request.span(word.offset), hint=hint)
        if not key:
            raise SpecError(f"{keyword} needs a name before =", request.span(word.offset))
        pairs.append(Pair(key, value))
    return tuple(pairs)


def _legacy_pair(request: _Request) -> Pair:
    parts = _KEYWORD_END.split(request.args, maxsplit=1)
    if len(parts) < 2:
        hint = f"{request.keyword} {parts[0]}=VALUE"
        raise SpecError(f"{request.keyword} {parts[0]} has no value", request.span(), hint=hint)
    key = request.check(Word(parts[0], request.offset))
    value_offset = request.offset + len(request.args) - len(parts[1])
    return Pair(key, request.check(Word(parts[1], value_offset)), legacy=True)


def _env(request: _Request) -> Env:
    return Env(**request.common(request.flags()), pairs=_pairs(request))


def _label(request: _Request) -> Label:
    return Label(**request.common(request.flags()), pairs=_pairs(request))


def _command(request: _Request) -> CommandLine:
    """Return the exec form if the arguments are a JSON array, else the shell form."""
    if request.json is not None:
        return CommandLine(None, request.json.items)
    _note_bad_json(request, request.args, request.offset)
    return CommandLine(request.args, None, request.heredocs)


def _note_bad_json(request: _Request, text: str, offset: int) -> None:
    if text.startswith("[") and text.endswith("]") and '"' in text:
        message = f"{request.keyword}: this looks like a JSON array but is none; the shell gets it"
        request.lexer.notices.append(Notice(message, request.span(offset)))


def _run(request: _Request) -> Run:
    flags = request.flags()
    command = _command(request)
    sole = command.shell is not None and parse_heredoc(command.shell) is not None
    return Run(
        **request.common(flags),
        command=command,
        mounts=tuple(_mount(request, flag) for flag in flags.all("mount")),
        network=cast("Network", _choice(flags, "network", "default", get_args(Network))),
        security=cast("Security", _choice(flags, "security", "sandbox", get_args(Security))),
        devices=tuple(flag.value or "" for flag in flags.all("device")),
        sole_heredoc=sole and bool(command.heredocs),
    )


def _mount(request: _Request, flag: Flag) -> RunMount:
    raw = flag.value or ""

    def check(value: str) -> str:
        check_word(value, request.escape, lambda _: flag.span)
        return value

    read = unresolved_mount if request.has_variables(raw) else parse_mount
    return read(raw, flag.span, check)


def _choice(flags: ParsedFlags, name: str, default: str, known: tuple[str, ...]) -> str:
    flag = flags.get(name)
    if flag is None or flag.value is None:
        return default
    if flag.value not in known:
        hint = suggestion(flag.value, known, f"write --{name}=" + ", ".join(known))
        raise SpecError(f"--{name} cannot be {flag.value!r}", flag.span, hint=hint)
    return flag.value


def _cmd(request: _Request) -> Cmd:
    return Cmd(**request.common(request.flags()), command=_command(request))


def _entrypoint(request: _Request) -> Entrypoint:
    return Entrypoint(**request.common(request.flags()), command=_command(request))


def _shell(request: _Request) -> Shell:
    flags = request.flags()
    if request.json is None or not request.json.items:
        hint = 'SHELL ["/bin/bash", "-c"]'
        raise SpecError("SHELL takes a JSON array that is not empty", request.span(), hint=hint)
    return Shell(**request.common(flags), argv=request.json.items)


def _words(request: _Request) -> list[Word]:
    """Return the words of a JSON array or of the plain form, checked."""
    if request.json is not None:
        words = [Word(item, request.offset) for item in request.json.items]
        for word in words:
            check_word(word.text, request.escape, lambda _: request.span())
        return words
    _note_bad_json(request, request.args, request.offset)
    words = split_blanks(request.args, request.offset)
    for word in words:
        request.check(word)
    return words


class _Transfer(TypedDict):
    sources: tuple[str, ...]
    dest: str
    heredocs: tuple[Heredoc, ...]
    chown: str | None
    chmod: str | None
    link: bool
    exclude: tuple[str, ...]


def _transfer(request: _Request, flags: ParsedFlags) -> _Transfer:
    words = _words(request)
    if len(words) < 2:
        hint = f"{request.keyword} SOURCE... DESTINATION"
        reason = f"{request.keyword} needs at least one source and a destination"
        raise SpecError(reason, request.span(), hint=hint)
    *sources, dest = words
    opened: list[tuple[Word, Heredoc]] = []
    if request.json is None:
        if parse_heredoc(dest.text) is not None:
            raise SpecError("a heredoc cannot be the destination", request.span(dest.offset))
        found = ((word, parse_heredoc(word.text)) for word in sources)
        opened = [(word, heredoc) for word, heredoc in found if heredoc is not None]
    not_paths = {word for word, _ in opened}
    return _Transfer(
        sources=tuple(word.text for word in sources if word not in not_paths),
        dest=dest.text,
        heredocs=tuple(_content(request, word, heredoc) for word, heredoc in opened),
        chown=_checked(request, flags, "chown", values.check_chown),
        chmod=_checked(request, flags, "chmod", values.check_chmod),
        link=bool(flags.switch("link")),
        exclude=tuple(request.check_flag(flag) or "" for flag in flags.all("exclude")),
    )


def _content(request: _Request, word: Word, opened: Heredoc) -> Heredoc:
    """Return the heredoc that a source word opened, with the content read for it."""
    for heredoc in reversed(request.heredocs):
        if heredoc.name == opened.name:
            return heredoc
    reason = f"{word.text} inside quotes opens no heredoc"
    raise SpecError(reason, request.span(word.offset))


def _checked(
    request: _Request,
    flags: ParsedFlags,
    name: str,
    check: Callable[[str | None, SourceSpan], None],
) -> str | None:
    """Return a flag's value, checked now if no variable can change it."""
    flag = flags.get(name)
    value = request.check_flag(flag)
    if flag is not None and value is not None and not request.has_variables(value):
        check(value, flag.span)
    return value


def _copy(request: _Request) -> Copy:
    flags = request.flags()
    source = flags.get("from")
    if source is not None and request.has_variables(source.value or ""):
        hint = "name a stage: FROM image:$VERSION AS name, and write --from=name"
        raise SpecError("--from takes no variables", source.span, hint=hint)
    return Copy(
        **request.common(flags),
        **_transfer(request, flags),
        from_=flags.value("from"),
        parents=bool(flags.switch("parents")),
    )


def _add(request: _Request) -> Add:
    flags = request.flags()
    return Add(
        **request.common(flags),
        **_transfer(request, flags),
        checksum=_checked(request, flags, "checksum", values.check_checksum),
        unpack=flags.switch("unpack"),
        keep_git_dir=bool(flags.switch("keep-git-dir")),
    )


def _workdir(request: _Request) -> Workdir:
    flags = request.flags()
    path = request.check(Word(_one(request, "a path"), request.offset))
    return Workdir(**request.common(flags), path=path)


def _user(request: _Request) -> User:
    flags = request.flags()
    user = request.check(Word(_one(request, "a user"), request.offset))
    return User(**request.common(flags), user=user)


def _stop_signal(request: _Request) -> StopSignal:
    flags = request.flags()
    signal = request.check(Word(_one(request, "a signal"), request.offset))
    if not request.has_variables(signal):
        values.check_signal(signal, request.span())
    return StopSignal(**request.common(flags), signal=signal)


def _maintainer(request: _Request) -> Maintainer:
    flags = request.flags()
    common = request.common(flags)
    message = "MAINTAINER is deprecated: write LABEL org.opencontainers.image.authors=..."
    request.lexer.notices.append(Notice(message, common["span"], "MaintainerDeprecated"))
    return Maintainer(**common, name=_one(request, "a name"))


def _expose(request: _Request) -> Expose:
    flags = request.flags()
    _one(request, "a port")
    words = split_blanks(request.args, request.offset)
    for word in words:
        if not request.has_variables(request.check(word)):
            parse_port(word.text, request.span(word.offset))
    return Expose(**request.common(flags), ports=tuple(word.text for word in words))


def _volume(request: _Request) -> Volume:
    flags = request.flags()
    words = _words(request)
    if not words:
        raise SpecError("VOLUME needs a path", request.span())
    for word in words:
        if not request.has_variables(word.text):
            values.check_volume(word.text, request.span(word.offset))
    return Volume(**request.common(flags), paths=tuple(word.text.strip(SPACE) for word in words))


def _healthcheck(request: _Request) -> Healthcheck:
    flags = request.flags()
    kind, _, rest = _split_first(_one(request, "CMD and a command, or NONE"))
    if kind.upper() == "NONE":
        if rest:
            raise SpecError("HEALTHCHECK NONE takes no arguments", request.span())
        return Healthcheck(**request.common(flags), command=None)
    if kind.upper() != "CMD":
        example = "HEALTHCHECK CMD command, or HEALTHCHECK NONE"
        hint = suggestion(kind, ("CMD", "NONE"), example)
        raise SpecError(f"HEALTHCHECK knows CMD and NONE, not {kind}", request.span(), hint=hint)
    return Healthcheck(
        **request.common(flags),
        command=_health_command(request, rest),
        interval_ns=_interval(flags, "interval"),
        timeout_ns=_interval(flags, "timeout"),
        start_period_ns=_interval(flags, "start-period"),
        start_interval_ns=_interval(flags, "start-interval"),
        retries=_retries(flags),
    )


def _split_first(text: str) -> tuple[str, str, str]:
    end = next((i for i, char in enumerate(text) if char in SPACE), len(text))
    return text[:end], text[end : end + 1], text[end:].lstrip(SPACE)


def _health_command(request: _Request, rest: str) -> CommandLine:
    offset = request.offset + len(request.args) - len(rest)
    array = json_array(rest, request.line, offset)
    if not rest or (array is not None and not array.items):
        raise SpecError("HEALTHCHECK CMD needs a command", request.span())
    if array is not None:
        return CommandLine(None, array.items)
    _note_bad_json(request, rest, offset)
    return CommandLine(rest, None)


def _interval(flags: ParsedFlags, name: str) -> int:
    flag = flags.get(name)
    if flag is None or flag.value is None:
        return 0
    value = parse_duration(flag.value)
    if value is None or (value != 0 and value < _MIN_INTERVAL_NS):
        problem = "not a duration" if value is None else "shorter than 1ms"
        hint = f"--{name}=30s, 1m30s, 500ms"
        raise SpecError(f"--{name}={flag.value} is {problem}", flag.span, hint=hint)
    return value


def _retries(flags: ParsedFlags) -> int:
    flag = flags.get("retries")
    if flag is None or flag.value is None:
        return 0
    digits = flag.value.removeprefix("+")
    value = -1
    if digits.isascii() and digits.isdigit() and len(digits) <= 20:
        value = int(digits)
    if not 0 <= value <= _MAX_RETRIES:
        raise SpecError(f"--retries={flag.value} is not a count", flag.span, hint="--retries=3")
    return value


PARSERS: dict[str, Callable[[_Request], Instruction]] = {
    "ADD": _add,
    "ARG": _arg,
    "CMD": _cmd,
    "COPY": _copy,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "FROM": _from,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "MAINTAINER": _maintainer,
    "ONBUILD": _bare_onbuild,
    "RUN": _run,
    "SHELL": _shell,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
