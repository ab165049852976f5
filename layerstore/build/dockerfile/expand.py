r"""Variables: from unexpanded words and instructions to what they mean in an environment.

Which fields are expanded is the instruction classes' ``EXPANDED_FIELDS``; RUN, CMD
and ENTRYPOINT leave variables to their shell. All words of one instruction see the
environment from before it: ``ENV a=1 b=$a`` does not use the new ``a``.

Source: Dockerfile reference, "Environment replacement"; `shellword` has the rules.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar, cast

from layerstore.build.dockerfile import limits, values
from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.dockerfile.mounts import parse_mount
from layerstore.build.dockerfile.ports import expand_ports
from layerstore.build.dockerfile.shellword import ShellWord, WordError, WordLimitError
from layerstore.build.dockerfile.syntax import (
    Add,
    Arg,
    ArgDefinition,
    Copy,
    Env,
    Expose,
    From,
    Heredoc,
    Instruction,
    Label,
    Pair,
    Run,
    SourceSpan,
    StopSignal,
    User,
    Volume,
    Workdir,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Expander = Callable[[str], str]

NOWHERE = SourceSpan("(word)", 1, 1, 1)
_I = TypeVar("_I", bound=Instruction)
_C = TypeVar("_C", Copy, Add)
_NO_ENV: Mapping[str, str] = {}


def expand_word(
    word: str, env: Mapping[str, str], escape: str = "\\", span: SourceSpan = NOWHERE
) -> str:
    """Return what a word stands for: quotes removed, escapes applied, variables replaced.

    Args:
        word: As written in the Dockerfile.
        env: Values by name; a name that is not in it is unset.
        escape: Of the Dockerfile (`Dockerfile.escape`).
        span: Where errors point.

    Raises:
        SpecError: Unclosed quote or brace, unknown modifier, bad pattern, or ``${name:?}``.
        LimitExceededError: `limits.MAX_EXPANDED_CHARS` or `limits.MAX_NESTING`.
    """
    return _run(ShellWord(word, env, escape), span, ShellWord.value)


def expand_words(
    word: str, env: Mapping[str, str], escape: str = "\\", span: SourceSpan = NOWHERE
) -> list[str]:
    """Return the words a word stands for: split at white space that is not quoted.

    White space in a variable's value splits too. Arguments and errors as `expand_word`.
    """
    return _run(ShellWord(word, env, escape), span, ShellWord.words)


def expand_heredoc(heredoc: Heredoc, env: Mapping[str, str], span: SourceSpan = NOWHERE) -> Heredoc:
    r"""Return a COPY or ADD heredoc's final content, as a heredoc with nothing left to do.

    Quotes are ordinary characters; ``\`` escapes, whatever the escape directive says.
    """
    text = heredoc.text()
    if heredoc.expand:
        limit = limits.MAX_EXPANDED_HEREDOC_CHARS
        word = ShellWord(text, env, no_quotes=True, limit=limit)
        text = _run(word, span, ShellWord.value)
    return Heredoc(heredoc.name, text, expand=False, chomp=False, descriptor=heredoc.descriptor)


def unset_names(word: str, env: Mapping[str, str], escape: str = "\\") -> list[str]:
    """Return the variables a word wants that ``env`` does not have, each once, in order.

    ``${a:-w}`` and the other forms that ask whether a variable is set want none, special
    and positional parameters are none. A word that cannot be expanded gives nothing.
    """
    if "$" not in word:
        return []
    reader = ShellWord(word, env, escape, check=True)
    try:
        reader.value()
    except (WordError, WordLimitError):
        return []
    return list(dict.fromkeys(name for name in reader.unset if name.isidentifier()))


def check_word(word: str, escape: str, span: Callable[[int], SourceSpan]) -> None:
    """Refuse a word that no environment makes right.

    Args:
        word: As written in the Dockerfile.
        escape: Of the Dockerfile.
        span: Gives the place of an offset in the word.

    Raises:
        SpecError: As `expand_word`, but for what depends on values.
        LimitExceededError: Nested too deep.
    """
    if "$" not in word and escape not in word and "'" not in word and '"' not in word:
        return
    try:
        ShellWord(word, _NO_ENV, escape, check=True).value()
    except WordError as err:
        raise SpecError(err.reason, span(err.offset)) from None
    except WordLimitError as err:
        raise limits.limit_exceeded(span(0), err.what, err.limit) from None


def check_environment(env: Mapping[str, str], span: SourceSpan = NOWHERE) -> None:
    """Refuse an environment that has grown absurdly large; call it after each ENV and ARG.

    Raises:
        LimitExceededError: More than `limits.MAX_ENVIRONMENT_BYTES` in all.
    """
    size = sum(len(name) + len(value) + 2 for name, value in env.items())
    if size > limits.MAX_ENVIRONMENT_BYTES:
        what = f"the variables have {size:,} characters"
        raise limits.limit_exceeded(span, what, limits.MAX_ENVIRONMENT_BYTES)


_R = TypeVar("_R")


def _run(word: ShellWord, span: SourceSpan, read: Callable[[ShellWord], _R]) -> _R:
    try:
        return read(word)
    except WordError as err:
        raise SpecError(err.reason, span) from None
    except WordLimitError as err:
        raise limits.limit_exceeded(span, err.what, err.limit) from None


def expand_instruction(instruction: _I, env: Mapping[str, str], escape: str = "\\") -> _I:
    """Return the instruction with every field that takes variables expanded and checked.

    The result is of the same class: `Expose.ports` hold ``80/tcp``, mounts are
    resolved, heredocs have their final content. Instructions without such fields
    come back unchanged. For ARG the defaults are expanded; whether a build argument
    replaces them is the builder's business.

    Raises:
        SpecError: As `expand_word`, or the value is not one the instruction takes.
        LimitExceededError: As `expand_word`.
    """
    expander = _EXPANDERS.get(type(instruction))
    if expander is None:
        return instruction
    word = partial(expand_word, env=env, escape=escape, span=instruction.span)
    return cast("_I", expander(instruction, env, escape, cast("Expander", word)))


def _from(item: From, _env: Mapping[str, str], _escape: str, word: Expander) -> From:
    base = word(item.base)
    if not base:
        hint = "give the variable a default: ARG NAME=VALUE before the first FROM"
        raise SpecError(f"FROM {item.base} expands to nothing", item.span, hint=hint)
    platform = None if item.platform is None else word(item.platform) or None
    return replace(item, base=base, platform=platform)


def _arg(item: Arg, _env: Mapping[str, str], _escape: str, word: Expander) -> Arg:
    pairs = []
    for definition in item.args:
        name = word(definition.name)
        if not name:
            raise SpecError("ARG needs a name", item.span)
        default = None if definition.default is None else word(definition.default)
        pairs.append(ArgDefinition(name, default))
    return replace(item, args=tuple(pairs))


def _pairs(item: Env | Label, _env: Mapping[str, str], _escape: str, word: Expander) -> Env | Label:
    pairs = []
    for pair in item.pairs:
        key = word(pair.key)
        if not key:
            raise SpecError(f"{item.KEYWORD} {pair.key} has no name", item.span)
        pairs.append(Pair(key, word(pair.value), pair.legacy))
    return replace(item, pairs=tuple(pairs))


def _run_mounts(item: Run, env: Mapping[str, str], escape: str, _word: Expander) -> Run:
    mounts = []
    for mount in item.mounts:
        expand = partial(expand_word, env=env, escape=escape, span=mount.span)
        mounts.append(parse_mount(mount.raw, mount.span, cast("Expander", expand)))
    return replace(item, mounts=tuple(mounts)) if mounts else item


def _transfer(item: _C, env: Mapping[str, str], escape: str, word: Expander) -> _C:
    def flag(name: str, value: str | None) -> str | None:
        if value is None:
            return None
        return expand_word(value, env, escape, item.flag_span(name)) or None

    chmod, chown = flag("chmod", item.chmod), flag("chown", item.chown)
    values.check_chmod(chmod, item.flag_span("chmod"))
    values.check_chown(chown, item.flag_span("chown"))
    expanded = replace(
        item,
        sources=tuple(word(source) for source in item.sources),
        dest=word(item.dest),
        heredocs=tuple(expand_heredoc(each, env, item.span) for each in item.heredocs),
        chown=chown,
        chmod=chmod,
        exclude=tuple(word(pattern) for pattern in item.exclude),
    )
    if not expanded.dest:  # as BuildKit: the working directory
        expanded = replace(expanded, dest=".")
    if isinstance(expanded, Add):
        checksum = flag("checksum", expanded.checksum)
        values.check_checksum(checksum, item.flag_span("checksum"))
        return replace(expanded, checksum=checksum)
    return expanded


def _workdir(item: Workdir, _env: Mapping[str, str], _escape: str, word: Expander) -> Workdir:
    path = word(item.path)
    if not path:
        raise SpecError(f"WORKDIR {item.path} expands to nothing", item.span)
    return replace(item, path=path)


def _user(item: User, _env: Mapping[str, str], _escape: str, word: Expander) -> User:
    return replace(item, user=word(item.user))


def _expose(item: Expose, env: Mapping[str, str], escape: str, _word: Expander) -> Expose:
    words = [each for port in item.ports for each in expand_words(port, env, escape, item.span)]
    return replace(item, ports=expand_ports(words, item.span))


def _volume(item: Volume, _env: Mapping[str, str], _escape: str, word: Expander) -> Volume:
    paths = tuple(word(path) for path in item.paths)
    for path in paths:
        values.check_volume(path, item.span)
    return replace(item, paths=paths)


def _stop_signal(
    item: StopSignal, _env: Mapping[str, str], _escape: str, word: Expander
) -> StopSignal:
    signal = word(item.signal)
    values.check_signal(signal, item.span)
    return replace(item, signal=signal)


_EXPANDERS: dict[type[Instruction], Callable[..., Instruction]] = {
    From: _from,
    Arg: _arg,
    Env: _pairs,
    Label: _pairs,
    Run: _run_mounts,
    Copy: _transfer,
    Add: _transfer,
    Workdir: _workdir,
    User: _user,
    Expose: _expose,
    Volume: _volume,
    StopSignal: _stop_signal,
}
