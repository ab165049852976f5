"""The schemes and their growth as a picture in a file, by matplotlib.

For slides and papers; the report in HTML draws its own pictures and needs none of this. The
library is an extra, and nothing but this module imports it.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any, BinaryIO

from layerstore.errors import InputError, UnsupportedError
from layerstore.measure.savings import SCHEME_LABELS, Savings, Scheme
from layerstore.units import format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.measure.savings import SchemeSize

KINDS = ("png", "svg")

# Okabe and Ito's, as in the report on white: layerstore/measure/report/style.py.
COLOURS = {
    Scheme.FULL_COPIES: "#6f7782",
    Scheme.PLAIN_LAYERS: "#c45500",
    Scheme.COMPRESSED_LAYERS: "#a87400",
    Scheme.WHOLE_FILES: "#b05a8c",
    Scheme.FIXED_BLOCKS: "#3185bd",
    Scheme.CHUNKS: "#0060a0",
    Scheme.STORED: "#00865f",
    Scheme.OPTIMIZED: "#005c42",
}
_INK, _SOFT, _GRID = "#1a1d21", "#5b626c", "#e3e6ea"
_OURS = (Scheme.STORED, Scheme.OPTIMIZED)
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "font.family": "sans-serif",
    "svg.fonttype": "none",
    "svg.hashsalt": "layerstore",
    "text.color": _INK,
    "axes.edgecolor": _SOFT,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def require_plots(path: str) -> None:
    """Check that a picture can be drawn into a file of this name.

    Raises:
        InputError: Its name does not say which kind of picture.
        UnsupportedError: The library is not installed.
    """
    if path.rpartition(".")[2].lower() not in KINDS:
        raise InputError(f"{path} is no name of a picture", hint="FILE.png or FILE.svg")
    if importlib.util.find_spec("matplotlib") is None:
        raise UnsupportedError(
            "pictures in files need matplotlib, which is not installed",
            hint="pip install 'layerstore[plots]', or --html FILE, which needs nothing",
        )


def draw(savings: Savings, out: BinaryIO, kind: str) -> None:
    """Draw what the schemes take, and how they grow, without full copies.

    Args:
        savings: The comparison.
        out: Gets the picture.
        kind: ``png`` or ``svg``; the latter is the same for the same numbers.
    """
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    with mpl.rc_context(_STYLE):
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(13, 4.6), width_ratios=(1.15, 1), layout="constrained"
        )
        try:
            _bars(left, savings)
            _curves(right, [s for s in savings.schemes if s.scheme is not Scheme.FULL_COPIES])
            dated = {"Date": None} if kind == "svg" else None
            figure.savefig(out, format=kind, dpi=160, metadata=dated)
        finally:
            plt.close(figure)


def _bars(axes: Any, savings: Savings) -> None:  # noqa: ANN401 - matplotlib has no types
    schemes = list(reversed(savings.schemes))
    axes.barh(
        [item.label for item in schemes],
        [item.size for item in schemes],
        color=[COLOURS[item.scheme] for item in schemes],
        height=0.62,
    )
    largest = max((item.size for item in schemes), default=0) or 1
    for row, item in enumerate(schemes):
        text = f"{format_size(item.size)}  {savings.ratio(item.scheme):.1f}x"
        weight = "bold" if item.scheme in _OURS else "normal"
        axes.text(item.size + largest * 0.012, row, text, va="center", weight=weight)
    images, containers = len(savings.images), savings.containers
    axes.set_title(f"{images} images as {containers} containers, bytes on disk", loc="left")
    axes.set_xlim(0, largest * 1.24)
    _measure(axes.xaxis)
    axes.tick_params(axis="y", length=0, labelcolor=_INK)


def _curves(axes: Any, schemes: Sequence[SchemeSize]) -> None:  # noqa: ANN401
    for item in schemes:
        points = range(len(item.growth) + 1)
        axes.plot(
            points,
            (0, *item.growth),
            color=COLOURS[item.scheme],
            linewidth=2.6 if item.scheme in _OURS else 1.6,
            label=SCHEME_LABELS[item.scheme],
        )
    axes.set_title("as images are added, without full copies", loc="left")
    axes.set_xlabel("images, in their order", color=_SOFT)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    _measure(axes.yaxis)
    if schemes and schemes[0].growth:
        axes.legend(frameon=False, fontsize=9, loc="upper left")


def _measure(axis: Any) -> None:  # noqa: ANN401
    axis.set_major_formatter(lambda value, _: format_size(value))
    axis.grid(visible=True, color=_GRID)
    axis.axes.set_axisbelow(True)
