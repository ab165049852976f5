"""How much an untrusted layer may cost; see :mod:`layerstore.formats.tar_limits`."""

from __future__ import annotations

from layerstore.formats.tar_limits import Limits

__all__ = ["Limits"]
