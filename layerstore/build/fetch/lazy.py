"""A fetcher that is made when the first remote source needs one.

On the path of every build: imports next to nothing.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Self

from layerstore.build.errors import BuildCanceledError
from layerstore.net.lifelines import Lifelines

if TYPE_CHECKING:
    from collections.abc import Mapping

    from layerstore.build.fetch.fetcher import SourceFetcher
    from layerstore.build.graph import GitOp
    from layerstore.store.store import Store


class LazyFetcher:
    """See the module; use it in a ``with`` block. Several threads may ask.

    Args:
        store: Where fetched files go.
        environ: The caller's variables; those of proxies are heeded.
        secrets: Of the build; some are credentials of servers.
        ssh_agent: Socket of an agent that git sources may use; empty for none.
    """

    def __init__(
        self,
        store: Store,
        environ: Mapping[str, str],
        secrets: Mapping[str, bytes],
        ssh_agent: str = "",
    ) -> None:
        self._store = store
        self._environ = environ
        self._secrets = secrets
        self._ssh_agent = ssh_agent
        self._lock = threading.Lock()
        self._lifelines = Lifelines(BuildCanceledError)
        self._made: SourceFetcher | None = None

    def get(self) -> SourceFetcher:
        """Return the build's one fetcher."""
        from layerstore.build.fetch.fetcher import FetchSettings, SourceFetcher

        with self._lock:
            if self._made is None:
                settings = FetchSettings(
                    environ=self._environ,
                    secrets=self._secrets,
                    ssh_agent=self._ssh_agent,
                    lifelines=self._lifelines,
                )
                self._made = SourceFetcher(self._store, settings)
            return self._made

    @property
    def commits(self) -> Mapping[GitOp, str]:
        """What the refs of git sources meant that were asked for so far."""
        return self._made.commits if self._made is not None else {}

    def stop(self) -> None:
        """End what is being fetched, for the build ends."""
        self._lifelines.cut()

    def go_on(self) -> None:
        """Fetch again: everything that was to stop has stopped."""
        self._lifelines.is_cut = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._made is not None:
            self._made.__exit__(*exception)
