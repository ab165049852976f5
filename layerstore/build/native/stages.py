"""One stage of a native spec on its way into the graph; the order is :mod:`lowering`'s."""

from __future__ import annotations

import hashlib
import shlex
from typing import TYPE_CHECKING, NamedTuple

from layerstore.build.accounts import NAME as USER_NAME
from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.dockerfile.syntax import Notice
from layerstore.build.graph import (
    CopyOp,
    Document,
    MergeOp,
    MkdirOp,
    NewUser,
    Op,
    RunOp,
    UsersOp,
    Vertex,
)
from layerstore.build.lower import SCRATCH
from layerstore.build.native import installing
from layerstore.build.native.bases import combined
from layerstore.build.native.container import (
    arguments,
    check_absolute,
    check_count,
    check_mode,
    check_variable,
)
from layerstore.build.native.limits import MAX_BASES, MAX_STEPS, MAX_USERS, limit_exceeded
from layerstore.build.native.lockfile import Base, Wish, chain_text, lineage
from layerstore.build.native.mounting import Mounts
from layerstore.build.native.packages import apt_sets, npm_sets, pip_sets
from layerstore.build.native.spec import BaseSource, Command, FileSource, Npm, Pip
from layerstore.build.native.templates import expand_environment
from layerstore.build.stage import StageState
from layerstore.formats.reference import parse_reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.build.dockerfile.syntax import SourceSpan
    from layerstore.build.native.lowering import Lowering
    from layerstore.build.native.reader import Node
    from layerstore.build.native.spec import StageSpec, Step


FINAL = ""
"""Name of the stage that is the image."""

SHOWN_FINAL = "image"
"""What progress calls it."""


class Made(NamedTuple):
    """A stage's end.

    Attributes:
        below: What package sets over it are over: see :func:`lockfile.lineage`.
    """

    state: StageState
    below: tuple[str, ...]


class StageLowering:
    """One stage on its way into the graph."""

    def __init__(self, lowering: Lowering, name: str, spec: StageSpec, node: Node) -> None:
        self._lowering = lowering
        self._name = name
        self._spec = spec
        self._node = node
        self._below: tuple[str, ...] = ()

    def run(self) -> Made:
        """Lower everything in its order."""
        state = self._begin()
        options = self._lowering.options
        site = installing.Site(
            state.config.env,
            options.network,
            options.extra_hosts,
            options.one_id,
            self._lowering.epoch,
        )
        self._apt(state, site)
        self._side_by_side(state, site)
        self._users(state)
        self._workdir(state)
        self._npm_project(state, site)
        self._env(state)
        if self._spec.shell:
            state.set_shell(self._spec.shell)
        if len(self._spec.steps) > MAX_STEPS:
            raise limit_exceeded(self._node.span_of("steps"), "too many steps", MAX_STEPS)
        self._step(state, self._spec, self._node)
        for index, step in enumerate(self._spec.steps):
            self._step(state, step, _there(self._node.at("steps", index)))
        return Made(state, self._below)

    # -- what it begins with

    def _begin(self) -> StageState:
        base = self._spec.base
        span = self._node.span_of("base")
        if isinstance(base, BaseSource):
            given = [bool(base.image), bool(base.stage), base.bootstrap is not None]
            if sum(given) != 1:
                raise SpecError("base names one of image, stage and bootstrap", span)
            if base.stage:
                made = self._lowering.stage(base.stage, span)
                self._below = made.below
                return made.state.child()
            if base.bootstrap is not None:
                name = self._lowering.sources.bootstrap(base.bootstrap, span)
                return self._begin_with([name], span, told=f"bootstrap {base.bootstrap.suite}")
            return self._begin_with([base.image], span)
        names = [base] if isinstance(base, str) else list(base)
        if not names:
            raise SpecError("base is an empty list", span, hint='base = "scratch" is an empty root')
        if len(names) > MAX_BASES:
            raise limit_exceeded(span, "too many bases", MAX_BASES)
        return self._begin_with(names, span)

    def _locked_name(self, name: str) -> str:
        """Return under which name a base is asked for: by digest, if only that is what is locked.

        An image in the store that has the locked layers serves whatever it is called.
        """
        locked = self._lowering.locks.pinned(name)
        if locked is None or self._lowering.sources.has_base(name, locked.layers):
            return name
        return f"{parse_reference(name).repository}@{locked.digest}"

    def _begin_with(self, names: Sequence[str], span: SourceSpan, told: str = "") -> StageState:
        lowering = self._lowering
        taken = [name if told else self._locked_name(name) for name in names]
        found = [lowering.image(name, span) for name in taken]
        below = []
        for name, used, (_, config) in zip(names, taken, found, strict=True):
            chain = chain_text(config.diff_ids)
            below.append(f"base {chain}")
            if name != SCRATCH:
                digest = "" if told else lowering.sources.registry_digest(used)
                lowering.locks.base(Base(name=told or name, layers=chain, digest=digest), span)
        self._below = tuple(below)
        vertex, config = found[0]
        if len(found) > 1:
            config = combined(names, [each for _, each in found], lowering.sources, span)
            inputs = tuple(each for each, _ in found)
            vertex = lowering.graph.vertex(MergeOp(), inputs, span, f"FROM {', '.join(names)}")
        state = StageState(vertex, config)
        if state.take_triggers():
            message = f"ONBUILD instructions of {', '.join(names)} are not carried out"
            lowering.notices.append(Notice(message, span))
        return state

    # -- packages

    def _apt(self, state: StageState, site: installing.Site) -> None:
        node = self._node.at("packages", "apt")
        for packages in apt_sets(self._spec.packages.apt, node):
            span = node.key_span if node else self._node.span
            resolve = installing.apt_resolve(site, packages)
            wish = self._wish("apt", packages, resolve, state.vertex, span)
            op = installing.apt_install(site, packages, self._lowering.locks.apt(wish))
            self._add(state, op, (state.vertex,), span, f"APT {' '.join(packages)}")
            self._below = (*self._below, f"apt {' '.join(packages)}")

    def _side_by_side(self, state: StageState, site: installing.Site) -> None:
        """Let pip and npm work over the same root, and lay what they add over each other."""
        start, below = state.vertex, self._below
        self._pip(state, site)
        after_pip, pip_below = state.vertex, self._below
        state.vertex, self._below = start, below
        self._npm(state, site)
        self._below = (*pip_below, *self._below[len(below) :])
        if start in (after_pip, state.vertex):
            state.vertex = after_pip if state.vertex is start else state.vertex
            return
        state.vertex = self._lowering.graph.vertex(MergeOp(), (after_pip, state.vertex))

    def _pip(self, state: StageState, site: installing.Site) -> None:
        pip = self._spec.packages.pip
        node = self._node.at("packages", "pip")
        if node is None:
            return
        if not isinstance(pip, Pip):
            pip = Pip(install=pip)
        lists = node if isinstance(node.value, list) else node.get("install")
        check_absolute(pip.venv, "the virtual environment", node.span_of("venv"))
        texts = [
            ("".join(f"{each}\n" for each in packages), " ".join(packages))
            for packages in pip_sets(pip.install, lists)
        ]
        if pip.requirements:
            text = self._lowering.sources.read(pip.requirements, node.span_of("requirements"))
            texts.insert(0, (text, f"-r {pip.requirements}"))
        for text, told in texts:
            resolve = installing.pip_resolve(site, pip.venv, pip.python, text)
            wish = self._wish("pip", (text,), resolve, state.vertex, node.key_span)
            hashed = "--hash=" in text  # pip then insists on hashes by itself
            locked = None if hashed else self._lowering.locks.pip(wish)
            op = installing.pip_install(site, pip.venv, pip.python, text, locked)
            self._add(state, op, (state.vertex,), node.key_span, f"PIP {told}")
            self._below = (*self._below, f"pip {pip.venv} {pip.python} {_digest(text)}")
        if texts:
            self._prepend_path(state, f"{pip.venv}/bin")

    def _npm(self, state: StageState, site: installing.Site) -> None:
        npm = self._spec.packages.npm
        node = self._node.at("packages", "npm")
        if node is None:
            return
        if not isinstance(npm, Npm):
            npm = Npm(install=npm)
        lists = node if isinstance(node.value, list) else node.get("install")
        check_absolute(npm.dest, "npm's destination", node.span_of("dest"))
        earlier: tuple[str, ...] = ()
        for packages in npm_sets(npm.install, lists):
            # One package.json for all sets so far: what it no longer names, npm would remove.
            every = (*earlier, *packages)
            manifest = installing.npm_manifest(every)
            resolve = installing.npm_resolve(site, npm.dest, manifest)
            wish = self._wish("npm", every, resolve, state.vertex, node.key_span)
            op = installing.npm_install(site, npm.dest, manifest, self._lowering.locks.npm(wish))
            self._add(state, op, (state.vertex,), node.key_span, f"NPM {' '.join(packages)}")
            earlier = every
            self._below = (*self._below, f"npm {npm.dest} {' '.join(packages)}")
        if earlier:
            self._prepend_path(state, f"{npm.dest}/node_modules/.bin")
            state.set_env([("NODE_PATH", f"{npm.dest}/node_modules")])

    def _npm_project(self, state: StageState, site: installing.Site) -> None:
        npm = self._spec.packages.npm
        node = self._node.at("packages", "npm")
        if node is None or not isinstance(npm, Npm) or not npm.project:
            return
        span = node.span_of("project")
        texts = [
            self._lowering.sources.read(f"{npm.project.rstrip('/') or '.'}/{name}", span)
            for name in ("package.json", "package-lock.json")
        ]
        dest = state.absolute(npm.project_dest or ".")
        if dest == "/":
            raise SpecError(
                "npm's project needs a place", span, hint="set workdir, or project-dest"
            )
        op = installing.npm_install(site, dest.rstrip("/"), *texts)
        self._add(state, op, (state.vertex,), span, f"NPM ci {npm.project}")

    def _wish(
        self,
        manager: str,
        packages: tuple[str, ...],
        resolve: RunOp,
        vertex: Vertex,
        span: SourceSpan,
    ) -> Wish:
        over = lineage([manager, *self._below])
        return Wish(over, packages, resolve, vertex, span)

    # -- users, directories, environment

    def _users(self, state: StageState) -> None:
        if not self._spec.users:
            return
        if len(self._spec.users) > MAX_USERS:
            raise limit_exceeded(self._node.span_of("users"), "too many users", MAX_USERS)
        users = []
        for name, user in sorted(self._spec.users.items()):
            span = self._node.span_of("users", name)
            home = user.home or f"/home/{name}"
            for what, text in (("user", name), *(("group", each) for each in user.groups)):
                if not USER_NAME.fullmatch(text):
                    raise SpecError(
                        f"{text!r} is not the name of a {what}", span,
                        hint="lower case letters, digits, _ and -, at most 32",
                    )  # fmt: skip
            check_absolute(home, "a home directory", span)
            if any(char in text for text in (home, user.shell, user.comment) for char in ":\n\r"):
                raise SpecError(f"the user {name!r} has a field with a colon or a line's end", span)
            if user.group and user.gid is not None:
                raise SpecError(f"the user {name!r} has a group and a gid: one says it", span)
            users.append(
                NewUser(
                    name, user.uid, user.gid, user.group, tuple(sorted(set(user.groups))),
                    home, user.shell, user.comment,
                )
            )  # fmt: skip
        names = " ".join(user.name for user in users)
        span = self._node.span_of("users")
        self._add(state, UsersOp(tuple(users)), (state.vertex,), span, f"USERS {names}")

    def _workdir(self, state: StageState) -> None:
        if not self._spec.workdir:
            return
        path = state.absolute(self._spec.workdir).rstrip("/") or "/"
        state.set_workdir(path)
        if path == "/":
            state.note(f"WORKDIR {path}")
            return
        owner = self._lowering.spec.user if self._name == FINAL else ""
        span = self._node.span_of("workdir")
        self._add(state, MkdirOp(path, owner), (state.vertex,), span, f"WORKDIR {path}")

    def _env(self, state: StageState) -> None:
        if not self._spec.env:
            return
        check_count(self._spec.env, self._node.span_of("env"))
        before = dict(state.env)
        node = _there(self._node.at("env"))
        pairs = []
        for name, value in sorted(self._spec.env.items()):
            span = node.span_of(name)
            check_variable(name, span)
            pairs.append((name, expand_environment(value, before, span)))
        state.set_env(pairs)

    def _prepend_path(self, state: StageState, directory: str) -> None:
        rest = state.env.get("PATH", "")
        state.set_env([("PATH", f"{directory}:{rest}" if rest else directory)])

    # -- files and commands

    def _step(self, state: StageState, step: StageSpec | Step, node: Node) -> None:
        if len(step.files) > MAX_STEPS or (
            len(step.run) > MAX_STEPS and not isinstance(step.run, str)
        ):
            raise limit_exceeded(node.key_span, "too many files or commands", MAX_STEPS)
        for dest, source in sorted(step.files.items()):
            record = FileSource(from_=source) if isinstance(source, str) else source
            self._file(state, dest, record, _there(node.at("files", dest)))
        commands = [step.run] if isinstance(step.run, str) else step.run
        for index, command in enumerate(commands):
            if not command:
                raise SpecError("a command is empty", node.span_of("run", index))
            record_ = Command(command=command) if isinstance(command, str) else command
            place = node.span_of("run", index)
            self._command(state, record_, place)

    def _file(self, state: StageState, dest: str, source: FileSource, node: Node) -> None:
        span = node.key_span
        patterns = (source.from_,) if isinstance(source.from_, str) else source.from_
        if (source.content is None) == (not patterns):
            raise SpecError(
                f"{dest} needs one of from and content", span,
                hint='"/srv/app" = "app", or "/etc/motd" = { content = "hello" }',
            )  # fmt: skip
        if not dest or any(not pattern for pattern in patterns):
            raise SpecError("a path is empty", span)
        if source.mode:
            check_mode(source.mode, node.span_of("mode"))
        documents: tuple[Document, ...] = ()
        inputs: tuple[Vertex, ...] = (state.vertex,)
        if source.content is not None:
            if source.stage or source.image or source.exclude or source.unpack:
                raise SpecError("content is the file itself: from nowhere, and whole", span)
            if dest.endswith("/"):
                raise SpecError(f"{dest} is a directory, content is a file", span)
            documents = (Document(dest.rpartition("/")[2], source.content),)
        else:
            inputs = (state.vertex, self._lowering.source(source.stage, source.image, span))
        op = CopyOp(
            sources=tuple(patterns),
            documents=documents,
            dest=state.absolute(dest),
            owner=source.owner,
            mode=source.mode,
            unpack=source.unpack,
            parents=False,
            link=source.link,
            exclude=source.exclude,
        )
        origin = source.stage or source.image
        words = [*patterns, *(["of", origin] if origin else []), *(["to"] if patterns else [])]
        told = " ".join(["FILES", *words, op.dest])
        self._add(state, op, inputs, span, told)

    def _command(self, state: StageState, command: Command, span: SourceSpan) -> None:
        args = arguments(state, command.command, span)
        check_count(command.env, span)
        for name in command.env:
            check_variable(name, span)
        env = {**state.env, **command.env}
        mounts = Mounts(self._lowering, state, span)
        op = RunOp(
            args=args,
            env=tuple(f"{name}={value}" for name, value in env.items()),
            cwd=state.absolute(command.workdir or ".").rstrip("/") or "/",
            user=command.user,
            network=self._lowering.options.network and command.network != "none",
            mounts=mounts.lower(command),
            extra_hosts=self._lowering.options.extra_hosts,
            one_id=self._lowering.options.one_id,
        )
        told = command.command if isinstance(command.command, str) else shlex.join(command.command)
        self._add(state, op, (state.vertex, *mounts.inputs), span, f"RUN {told}")

    def _add(
        self,
        state: StageState,
        op: Op,
        inputs: tuple[Vertex, ...],
        span: SourceSpan,
        told: str,
    ) -> None:
        shown = self._name or SHOWN_FINAL
        label = f"[{shown}] {' '.join(told.split())}"
        vertex = self._lowering.graph.vertex(op, inputs, span, label, told)
        vertex.no_cache |= shown in self._lowering.options.no_cache_stages
        state.add_layer(vertex, told)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _there(node: Node | None) -> Node:
    assert node is not None  # the records were decoded from it
    return node
