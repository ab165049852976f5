"""Carries out operations over the layers they were handed, whatever their kind, side by side.

What steps share is in :mod:`layerstore.build.resources`; COPY, ADD and WORKDIR are
:mod:`layerstore.build.copying`, RUN is :mod:`layerstore.build.running`.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Self

from layerstore.build.copying import Copying
from layerstore.build.errors import BuildCanceledError, BuildStepError
from layerstore.build.graph import CopyOp, GitOp, HttpOp, MkdirOp, RunOp, UsersOp
from layerstore.build.merging import stand_alone
from layerstore.build.resources import BuildResources
from layerstore.build.running import Running
from layerstore.build.solver import Made, Source
from layerstore.errors import BuildError, InputError, LayerstoreError, MountError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from layerstore.build.contexts import Contexts
    from layerstore.build.facts import Selection
    from layerstore.build.fetch.lazy import LazyFetcher
    from layerstore.build.graph import Vertex
    from layerstore.build.run.settings import RunSettings
    from layerstore.build.solver import Result
    from layerstore.build.ui import BuildUi
    from layerstore.digest import DiffId
    from layerstore.store.store import Store
    from layerstore.store.writing.session import WriteSession


class BuildExecutor:
    """See the module; use it in a ``with`` block.

    Args:
        store: Where layers come from and go to.
        contexts: The build contexts.
        fetcher: Brings remote sources.
        settings: Shared by all RUN steps.
        ui: Gets the output of commands.
        epoch: SOURCE_DATE_EPOCH: no time in a layer is later.

    Attributes:
        resources: What the steps share, for those who finish the image.
    """

    def __init__(
        self,
        store: Store,
        contexts: Contexts,
        fetcher: LazyFetcher,
        settings: RunSettings,
        ui: BuildUi,
        *,
        epoch: int | None,
    ) -> None:
        self.resources = BuildResources(store, contexts, ui, epoch=epoch)
        self._fetcher = fetcher
        self._copying = Copying(self.resources)
        self._running = Running(self.resources, settings)

    def __enter__(self) -> Self:
        self.resources.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._running.close()
        self.resources.__exit__(*exception)
        self._fetcher.go_on()

    @property
    def session(self) -> WriteSession:
        """The build's one write session, begun when first asked for."""
        return self.resources.session

    @property
    def commits(self) -> Mapping[GitOp, str]:
        """What the refs of git sources meant that were asked for so far."""
        return self._fetcher.commits

    def fetch(
        self, vertex: Vertex, *, fresh: bool, told: Callable[[int, int | None], object]
    ) -> Source:
        """Return a remote source's layer, fetched if what is known of it is not current.

        ``told`` hears how many bytes of a file there are, and of how many.

        Raises:
            BuildStepError: It cannot be had.
        """
        with _blaming(vertex):
            op = vertex.op
            fetcher = self._fetcher.get()
            if isinstance(op, HttpOp):
                return Source(*fetcher.http(op, fresh=fresh, told=told))
            assert isinstance(op, GitOp)
            return Source(*fetcher.git(op, fresh=fresh))

    def content_key(self, vertex: Vertex, inputs: Sequence[Result]) -> list[str]:
        """Return how the files that a vertex takes from its inputs are named in its key.

        Raises:
            BuildStepError: A file that is asked for does not exist or cannot be read.
        """
        with _blaming(vertex):
            op = vertex.op
            if isinstance(op, CopyOp):
                return self._copying.copy_key(op, vertex, inputs)
            if isinstance(op, RunOp):
                return self._running.run_key(op, vertex, inputs)
            return []

    def selections(self, vertex: Vertex, inputs: Sequence[Result]) -> list[Selection]:
        """Return the files that a vertex takes from its inputs, as its content key has them."""
        with _blaming(vertex):
            if isinstance(vertex.op, CopyOp):
                return self._copying.selections(vertex.op, vertex, inputs)
            if isinstance(vertex.op, RunOp):
                return self._running.selections(vertex.op, vertex, inputs)
            return []

    def expect(self, commands_over: Mapping[int, int]) -> None:
        """Hear what commands there are."""
        self._running.expect(commands_over)

    def solved(self, number: int, vertex: Vertex, result: Result) -> None:
        """Hear of a vertex that has a result."""
        self._running.solved(number, vertex, result)

    def execute(self, number: int, vertex: Vertex, inputs: Sequence[Result]) -> Made:
        """Carry out an operation and publish its layer.

        Raises:
            BuildStepError: It failed; the message begins with the instruction's place.
        """
        with _blaming(vertex):
            self._hold(inputs)
            self._running.prepare_beside(vertex, inputs)
            match vertex.op:
                case MkdirOp() as op:
                    diff_id = self._copying.mkdir(op, inputs[0])
                case UsersOp() as op:
                    from layerstore.build.accounts import create_users

                    diff_id = create_users(self.resources, op, inputs[0])
                case CopyOp() as op:
                    diff_id = self._copying.copy(op, vertex, inputs)
                case RunOp() as op:
                    diff_id = self._running.run(number, op, vertex, inputs)
                case _:
                    raise AssertionError(f"{vertex.op} is not executed")
            return Made(diff_id, *self.resources.take_written())

    @property
    def stopping(self) -> threading.Event:
        """Set when the build ends early."""
        return self.resources.stopping

    def stop(self, *, abort: bool) -> None:
        """End what runs: containers are killed, waits end, nothing new begins.

        Args:
            abort: Layers that are being written are given up, too.
        """
        self.resources.stopping.set()
        if abort:
            self.resources.abort()
        self._fetcher.stop()
        self._running.stop()

    def stand_alone(
        self, shared: Sequence[DiffId], below: Sequence[DiffId], layer: DiffId
    ) -> DiffId | None:
        """Return what replaces a layer in a merge; None when it may stay."""
        self.session.hold_layers(sorted({*shared, *below, layer}))
        return stand_alone(self.resources, shared, below, layer)

    def _hold(self, inputs: Sequence[Result]) -> None:
        layers = {diff_id for each in inputs for diff_id in each.layers}
        if layers:
            self.session.hold_layers(sorted(layers))


@contextlib.contextmanager
def _blaming(vertex: Vertex) -> Iterator[None]:
    """Put the instruction's place in front of what went wrong while it was carried out."""
    try:
        yield
    except (BuildStepError, BuildCanceledError):
        raise
    except (BuildError, InputError) as err:
        raise BuildStepError(err.message, vertex.span, vertex.label, hint=err.hint) from err
    except MountError:
        raise
    except LayerstoreError as err:
        place = f"{vertex.span}: " if vertex.span is not None else ""
        if not err.message.startswith(place):
            err.message = f"{place}{err.message}"
            err.args = (err.message,)
        raise
