r"""Variables: from unexpanded words and instructions to what they mean in an environment.

Which fields are expanded is the instruction classes' ``EXPANDED_FIELDS``; RUN, CMD
and ENTRYPOINT leave variables to their shell. All words of one instruction see the
environment from before it: ``ENV a=1 b=$a`` does not use the new ``a``.

Source: Dockerfile reference, "Environment replacement"; `shellword` has the rules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, cast

import msgspec

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
from layerstore.errors import LimitExceededError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NOWHERE = SourceSpan("(word)", 1, 1, 1)
_I = TypeVar("_I", bound=Instruction)
_C = TypeVar("_C", Copy, Add)
_R = TypeVar("_R")
_NO_ENV: Mapping[str, str] = {}


class Expansion:
    """Expands the words of one Dockerfile, in which variables have one allowance together.

    Each word has its own limits; without a common one, many words that say ``$A`` could still
    fill the memory. Ranges of ports count as well.

    Args:
        escape: Of the Dockerfile (`Dockerfile.escape`).
        allowance: How many characters variables may put in, all words together.
    """

    def __init__(
        self, escape: str = "\\", allowance: int = limits.MAX_EXPANDED_TOTAL_CHARS
    ) -> None:
        self.escape = escape
        self._allowance = self._left = allowance

    def word(self, word: str, env: Mapping[str, str], span: SourceSpan = NOWHERE) -> str:
        """Return what a word stands for: quotes removed, escapes applied, variables replaced.

        Args:
            word: As written in the Dockerfile.
            env: Values by name; a name that is not in it is unset.
            span: Where errors point.

        Raises:
            SpecError: Unclosed quote or brace, unknown modifier, bad pattern, or ``${name:?}``.
            LimitExceededError: `limits.MAX_EXPANDED_CHARS`, `limits.MAX_NESTING`, or the
                allowance.
        """
        return self._run(ShellWord(word, env, self.escape), span, ShellWord.value)

    def words(self, word: str, env: Mapping[str, str], span: SourceSpan = NOWHERE) -> list[str]:
        """Return the words a word stands for: split at white space that is not quoted.

        White space in a variable's value splits too. Arguments and errors as :meth:`word`.
        """
        return self._run(ShellWord(word, env, self.escape), span, ShellWord.words)

    def heredoc(
        self, heredoc: Heredoc, env: Mapping[str, str], span: SourceSpan = NOWHERE
    ) -> Heredoc:
        r"""Return a COPY or ADD heredoc's final content, as a heredoc with nothing left to do.

        Quotes are ordinary characters; ``\`` escapes, whatever the escape directive says.
        """
        text = heredoc.text()
        if heredoc.expand:
            limit = limits.MAX_EXPANDED_HEREDOC_CHARS
            word = ShellWord(text, env, no_quotes=True, limit=limit)
            text = self._run(word, span, ShellWord.value)
        return Heredoc(heredoc.name, text, expand=False, chomp=False, descriptor=heredoc.descriptor)

    def unset(self, word: str, env: Mapping[str, str]) -> list[str]:
        """Return the variables a word wants that ``env`` does not have, each once, in order.

        ``${a:-w}`` and the other forms that ask whether a variable is set want none, special
        and positional parameters are none. A word that cannot be expanded gives nothing.
        """
        if "$" not in word:
            return []
        reader = ShellWord(word, env, self.escape, check=True)
        try:
            self._run(reader, NOWHERE, ShellWord.value)
        except (SpecError, LimitExceededError):
            return []
        return list(dict.fromkeys(name for name in reader.unset if name.isidentifier()))

    def instruction(self, instruction: _I, env: Mapping[str, str]) -> _I:
        """Return the instruction with every field that takes variables expanded and checked.

        The result is of the same class: `Expose.ports` hold ``80/tcp``, mounts are
        resolved, heredocs have their final content. Instructions without such fields
        come back unchanged. For ARG the defaults are expanded; whether a build argument
        replaces them is the builder's business.

        Raises:
            SpecError: As :meth:`word`, or the value is not one the instruction takes.
            LimitExceededError: As :meth:`word`.
        """
        expander = _EXPANDERS.get(type(instruction))
        if expander is None:
            return instruction
        return cast("_I", expander(instruction, _Words(self, env, instruction.span)))

    def charge(self, characters: int, span: SourceSpan) -> None:
        """Count characters that variables put in elsewhere: the environment of a RUN.

        Raises:
            LimitExceededError: The allowance is used up.
        """
        self._left -= characters
        if self._left < 0:
            what = "variables and ranges of the file expand to too many characters"
            raise limits.limit_exceeded(span, what, self._allowance)

    def _run(self, word: ShellWord, span: SourceSpan, read: Callable[[ShellWord], _R]) -> _R:
        try:
            result = read(word)
        except WordError as err:
            raise SpecError(err.reason, span) from None
        except WordLimitError as err:
            raise limits.limit_exceeded(span, err.what, err.limit) from None
        finally:
            self._left -= word.from_variables
        self.charge(0, span)
        return result


class _Words(msgspec.Struct, frozen=True):
    """Expands the words of one instruction."""

    expansion: Expansion
    env: Mapping[str, str]
    span: SourceSpan

    def __call__(self, word: str) -> str:
        return self.expansion.word(word, self.env, self.span)

    def at(self, span: SourceSpan) -> _Words:
        return msgspec.structs.replace(self, span=span)


def expand_word(
    word: str, env: Mapping[str, str], escape: str = "\\", span: SourceSpan = NOWHERE
) -> str:
    """Return what a word that stands alone means; see :meth:`Expansion.word`."""
    return Expansion(escape).word(word, env, span)


def expand_words(
    word: str, env: Mapping[str, str], escape: str = "\\", span: SourceSpan = NOWHERE
) -> list[str]:
    """Return the words that a word alone means; see :meth:`Expansion.words`."""
    return Expansion(escape).words(word, env, span)


def expand_instruction(instruction: _I, env: Mapping[str, str], escape: str = "\\") -> _I:
    """Return an instruction that stands alone; see :meth:`Expansion.instruction`."""
    return Expansion(escape).instruction(instruction, env)


def unset_names(word: str, env: Mapping[str, str], escape: str = "\\") -> list[str]:
    """Return what a word that stands alone lacks; see :meth:`Expansion.unset`."""
    return Expansion(escape).unset(word, env)


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


def _from(item: From, word: _Words) -> From:
    base = word(item.base)
    if not base:
        hint = "give the variable a default: ARG NAME=VALUE before the first FROM"
        raise SpecError(f"FROM {item.base} expands to nothing", item.span, hint=hint)
    platform = None if item.platform is None else word(item.platform) or None
    return msgspec.structs.replace(item, base=base, platform=platform)


def _arg(item: Arg, word: _Words) -> Arg:
    pairs = []
    for definition in item.args:
        name = word(definition.name)
        if not name:
            raise SpecError("ARG needs a name", item.span)
        default = None if definition.default is None else word(definition.default)
        pairs.append(ArgDefinition(name, default))
    return msgspec.structs.replace(item, args=tuple(pairs))


def _pairs(item: Env | Label, word: _Words) -> Env | Label:
    pairs = []
    for pair in item.pairs:
        key = word(pair.key)
        if not key:
            raise SpecError(f"{item.KEYWORD} {pair.key} has no name", item.span)
        pairs.append(Pair(key, word(pair.value), pair.legacy))
    return msgspec.structs.replace(item, pairs=tuple(pairs))


def _run_mounts(item: Run, word: _Words) -> Run:
    mounts = [parse_mount(each.raw, each.span, word.at(each.span)) for each in item.mounts]
    return msgspec.structs.replace(item, mounts=tuple(mounts)) if mounts else item


def _transfer(item: _C, word: _Words) -> _C:
    def flag(name: str, value: str | None) -> str | None:
        if value is None:
            return None
        return word.at(item.flag_span(name))(value) or None

    chmod, chown = flag("chmod", item.chmod), flag("chown", item.chown)
    values.check_chmod(chmod, item.flag_span("chmod"))
    values.check_chown(chown, item.flag_span("chown"))
    expanded = msgspec.structs.replace(
        item,
        sources=tuple(word(source) for source in item.sources),
        dest=word(item.dest),
        heredocs=tuple(word.expansion.heredoc(each, word.env, item.span) for each in item.heredocs),
        chown=chown,
        chmod=chmod,
        exclude=tuple(word(pattern) for pattern in item.exclude),
    )
    if not expanded.dest:  # as BuildKit: the working directory
        expanded = msgspec.structs.replace(expanded, dest=".")
    if isinstance(expanded, Add):
        checksum = flag("checksum", expanded.checksum)
        values.check_checksum(checksum, item.flag_span("checksum"))
        return msgspec.structs.replace(expanded, checksum=checksum)
    return expanded


def _workdir(item: Workdir, word: _Words) -> Workdir:
    return msgspec.structs.replace(item, path=word(item.path))


def _user(item: User, word: _Words) -> User:
    return msgspec.structs.replace(item, user=word(item.user))


def _expose(item: Expose, word: _Words) -> Expose:
    words = [
        each for port in item.ports for each in word.expansion.words(port, word.env, item.span)
    ]
    ports = expand_ports(words, item.span)
    word.expansion.charge(sum(map(len, ports)), item.span)  # a range of all is 700 kB of history
    return msgspec.structs.replace(item, ports=ports)


def _volume(item: Volume, word: _Words) -> Volume:
    paths = tuple(word(path) for path in item.paths)
    for path in paths:
        values.check_volume(path, item.span)
    return msgspec.structs.replace(item, paths=paths)


def _stop_signal(item: StopSignal, word: _Words) -> StopSignal:
    signal = word(item.signal)
    values.check_signal(signal, item.span)
    return msgspec.structs.replace(item, signal=signal)


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
