"""COPY's and ADD's part of the lowering: what they copy from, context, stage, or elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.dockerfile.syntax import Add
from layerstore.build.graph import CopyOp, Document, GitOp, HttpOp
from layerstore.errors import InputError
from layerstore.net.redaction import redacted

if TYPE_CHECKING:
    from layerstore.build.dockerfile.syntax import Copy, Stage
    from layerstore.build.fetch.git_url import GitSource
    from layerstore.build.graph import Vertex
    from layerstore.build.lower import Lowering
    from layerstore.build.stage import StageState

_THE_FILE = "*"
"""Selects the one file of a fetched layer, whatever its server calls it."""

_OTHER_SCHEMES = ("ftp://", "file://", "oci://", "docker-image://")
_SHA256 = "sha256:"


def lower_copy(
    lowering: Lowering, stage: Stage, state: StageState, instruction: Copy | Add
) -> tuple[CopyOp, tuple[Vertex, ...]]:
    """Return the operation of a COPY or ADD and its inputs, the root first.

    Raises:
        SpecError: A source that cannot be had, or a flag that does not go with it.
    """
    sources = _Sources(lowering, stage, instruction)
    patterns = [sources.add(source) for source in instruction.sources]
    sources.check_flags()
    sources.forget_unused()
    unpack = instruction.unpack if isinstance(instruction, Add) else False
    op = CopyOp(
        sources=tuple(patterns),
        documents=tuple(Document(each.name, each.content) for each in instruction.heredocs),
        dest=_destination(state, instruction.dest),
        owner=instruction.chown or "",
        mode=instruction.chmod or "",
        unpack=unpack is not False,
        parents=False if isinstance(instruction, Add) else instruction.parents,
        link=instruction.link,
        exclude=instruction.exclude,
        origins=sources.origins_if_several(),
        unpack_remote=unpack is True,
    )
    return op, (state.vertex, *sources.inputs)


def copy_history(instruction: Copy | Add) -> str:
    """Return the instruction as the history has it, without passwords of URLs."""
    words = [instruction.KEYWORD]
    if not isinstance(instruction, Add) and instruction.parents:
        words.append("--parents")
    if instruction.chown:
        words.append(f"--chown={instruction.chown}")
    if instruction.chmod:
        words.append(f"--chmod={instruction.chmod}")
    words += [redacted(source) for source in instruction.sources]
    words += [f"<<{each.name}" for each in instruction.heredocs]
    return " ".join([*words, instruction.dest, "# buildkit"])


def _destination(state: StageState, dest: str) -> str:
    path = state.absolute(dest)
    if (dest == "." or dest.endswith("/.")) and not path.endswith("/"):
        return path + "/"
    return path


class _Sources:
    """The sources of one instruction, and the vertices that they come from."""

    def __init__(self, lowering: Lowering, stage: Stage, instruction: Copy | Add) -> None:
        self._lowering = lowering
        self._instruction = instruction
        from_ = None if isinstance(instruction, Add) else instruction.from_
        local = lowering.context
        if from_ is not None:
            local = lowering.source_root(from_, stage, instruction.flag_span("from"))
        self.inputs = [local]
        self.origins: list[int] = []
        self._git = 0

    def add(self, source: str) -> str:
        """Take one source; return the pattern that selects its files in its input."""
        # Local sources, nearly all there are, import nothing.
        if "://" in source or "@" in source:
            pattern = self._remote(source)
            if pattern is not None:
                return pattern
        self.origins.append(1)
        return source

    def _remote(self, source: str) -> str | None:
        """Take a source if it is a remote one."""
        from layerstore.build.fetch.git_url import parse_git_source
        from layerstore.net.urls import is_http

        try:
            git = parse_git_source(source)
            if git is None and not is_http(source):
                self._refuse_other_schemes(source)
                return None
            if not isinstance(self._instruction, Add):
                raise InputError(
                    f"COPY cannot fetch {redacted(source)}", hint="ADD fetches URLs and git sources"
                )
            op = self._http(source) if git is None else self._git_op(git)
        except SpecError:
            raise
        except InputError as err:
            raise SpecError(err.message, self._instruction.span, hint=err.hint) from err
        self.inputs.append(self._lowering.remote(op, redacted(source), self._instruction.span))
        self.origins.append(len(self.inputs))
        return _THE_FILE if git is None else "/"

    def check_flags(self) -> None:
        """Refuse flags of remote sources where there is none that they are for."""
        instruction = self._instruction
        if not isinstance(instruction, Add):
            return
        if instruction.checksum:
            span = instruction.flag_span("checksum")
            if len(instruction.sources) != 1:
                raise SpecError("--checksum goes with one source only", span)
            if self.origins == [1]:
                raise SpecError("--checksum needs a remote source", span)
        if instruction.keep_git_dir and not self._git:
            raise SpecError(
                "--keep-git-dir needs a git source", instruction.flag_span("keep-git-dir")
            )

    def forget_unused(self) -> None:
        """Drop the context where everything comes from elsewhere: it needs no look then."""
        if self.origins and 1 not in self.origins:
            del self.inputs[0]
            self.origins = [origin - 1 for origin in self.origins]

    def origins_if_several(self) -> tuple[int, ...]:
        """Return the numbers of the sources' inputs; nothing if there is only one input."""
        return tuple(self.origins) if set(self.origins) - {1} else ()

    def _refuse_other_schemes(self, source: str) -> None:
        if source.startswith(_OTHER_SCHEMES):
            raise InputError(
                f"{self._instruction.KEYWORD} cannot fetch {redacted(source)}",
                hint="http, https and git sources can be fetched by ADD",
            )

    def _http(self, source: str) -> HttpOp:
        from layerstore.net.urls import file_name, named_by_url, parse_http_url

        assert isinstance(self._instruction, Add)
        url = parse_http_url(source)
        checksum = self._instruction.checksum or ""
        if checksum and not checksum.startswith(_SHA256):
            raise SpecError(
                f"--checksum={checksum} is not the digest of a file",
                self._instruction.flag_span("checksum"), hint="--checksum=sha256:HEX",
            )  # fmt: skip
        name = file_name(url.path).decode("utf-8", "surrogateescape")
        return HttpOp(
            source, name if named_by_url(url.path) else "", checksum.removeprefix(_SHA256)
        )

    def _git_op(self, git: GitSource) -> GitOp:
        assert isinstance(self._instruction, Add)
        self._git += 1
        commit = self._instruction.checksum or ""
        if commit and git.commit and commit != git.commit:
            raise InputError(f"--checksum={commit} is not the {git.commit} of the source")
        if commit.startswith(_SHA256):
            raise SpecError(
                f"--checksum={commit} is not a commit",
                self._instruction.flag_span("checksum"), hint="--checksum=COMMIT",
            )  # fmt: skip
        keep = self._instruction.keep_git_dir
        if keep and git.keep_git_dir is False:
            raise InputError("--keep-git-dir, but the source says keep-git-dir=false")
        return GitOp(
            remote=git.remote,
            ref=git.ref,
            subdir=git.subdir,
            commit=commit or git.commit,
            keep_git_dir=keep or git.keep_git_dir is True,
            submodules=git.submodules,
        )
