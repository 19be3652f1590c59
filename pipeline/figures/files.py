"""Figures as files."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pipeline import storage
from pipeline.figures.style import DPI, warn_of_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_figures(
    figures: Mapping[str, Figure], folder: Path, *, formats: Sequence[str], dpi: int = DPI
) -> list[Path]:
    """Write every figure as ``<name>.<format>``, each file whole or not at all."""
    paths = []
    for name, figure in figures.items():
        for kind in formats:
            path = folder / f"{name}.{kind}"
            try:
                storage.write_atomic(path, partial(_write, figure=figure, kind=kind, dpi=dpi))
            except Exception as error:
                if isinstance(error, OSError):  # no room for a picture is no room for anything
                    raise
                warn_of_picture(path.name, error)
                continue
            paths.append(path)
    return paths


def list_saved(
    figures: Mapping[str, Figure], folder: Path, *, formats: Sequence[str]
) -> dict[str, bytes]:
    """Save figures, and return each one as the bytes of a PNG file, drawn once."""
    written = save_figures(figures, folder, formats=formats)
    images = {}
    for name, figure in figures.items():
        path = folder / f"{name}.png"
        if path in written:
            images[name] = path.read_bytes()
        elif "png" not in formats:
            images[name] = render_png(figure)
    return images


def render_png(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    _write(buffer, figure=figure, kind="png", dpi=DPI)
    return buffer.getvalue()


def _write(file: BinaryIO, *, figure: Figure, kind: str, dpi: int) -> None:
    """Write a figure; pixels at once, where `savefig` draws everything twice."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    if kind == "png":
        figure.set_dpi(dpi)
        FigureCanvasAgg(figure).print_png(file)
    else:
        figure.savefig(file, format=kind, dpi=dpi)
