"""Images of the user's own: a folder for each class.

Shape legend: n images of H × W pixels with C channels.
"""

from __future__ import annotations

import math
import os
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, Strict

from pipeline.config.types import ConfigError, Fraction, Size
from pipeline.data.memory import check_room
from pipeline.data.prepare import Made, Share, Stream, check_labels, prepared

KINDS = (".bmp", ".jpeg", ".jpg", ".png")
_FORMATS = ("BMP", "JPEG", "PNG")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")  # 8 bits a channel or fewer
_MOST_PIXELS = 1 << 26  # of one image; unpacked it takes up to 256 MB

Foldername = Annotated[str, Field(min_length=1)]
HeightWidth = Annotated[tuple[Size, Size], Strict(False)]


def images(
    stream: Stream,
    *,
    path: Foldername,
    size: HeightWidth | None,
    channels: Literal[1, 3],
    validation: Fraction,
    test: Share,
    standardise: bool,
) -> Made:
    """Images in folders, one for each class, split by the seed; values 0..255 divided by 255.

    Folders and the images in them are taken in sorted order. A sample is height × width × channels.

    Raises
    ------
    ConfigError
        Naming the first image that cannot be read or has another size, or what else is wrong.
    """
    folder = Path(os.path.expanduser(path))
    try:
        files = _list_images(folder)
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
        raise ConfigError("data.path", error.filename or path, problem) from None
    labels = list(files)
    check_labels(np.array(labels), key="data.path", name=path)
    x = _read_all(
        [file for each in files.values() for file in each],
        size=None if size is None else (size[0], size[1]),
        channels=channels,
    )
    y = np.repeat(np.arange(len(labels)), [len(each) for each in files.values()])
    pixels = np.ndindex(x.shape[1:]) if standardise else ()
    arrays, facts = prepared(
        stream,
        x.reshape(len(x), -1),
        y[:, None],
        names=[f"pixel{list(index)}" for index in pixels],
        targets=["class"],
        labels=labels,
        validation=validation,
        test=test,
        standardise=standardise,
    )
    for name in [name for name in arrays if name.startswith("x_")]:
        arrays[name] = arrays[name].reshape(-1, *x.shape[1:])
    return arrays, facts


def _list_images(folder: Path) -> dict[str, list[Path]]:
    """Return the images of each class, both in sorted order; hidden ones are none."""
    if not folder.is_dir():
        raise ConfigError("data.path", folder, "there is no such folder")
    classes = sorted(
        each for each in folder.iterdir() if each.is_dir() and not each.name.startswith(".")
    )
    if not classes:
        raise ConfigError("data.path", folder, "has no folder in it; each class has one")
    files = {each.name: sorted(filter(_is_image, each.iterdir())) for each in classes}
    for name, images_of_class in files.items():
        if not images_of_class:
            problem = f"has no image in it; one ends in {', '.join(KINDS)}"
            raise ConfigError("data.path", folder / name, problem)
    return files


def _is_image(path: Path) -> bool:
    """Whether a file's name says that it is an image that can be read."""
    return path.suffix.lower() in KINDS and not path.name.startswith(".") and path.is_file()


def _read_all(files: list[Path], *, size: tuple[int, int] | None, channels: int) -> np.ndarray:
    """Return all images, shape ``(n, H, W, C)``, float64 in 0..1; without `size`, of one size."""
    shape = None if size is None else (*size, channels)
    x = None if shape is None else _make_room(files, shape)
    for i, file in enumerate(files):
        pixels = _read_pixels(file, size=size, channels=channels)
        if x is None:
            x = _make_room(files, pixels.shape)
        if pixels.shape != x.shape[1:]:
            (height, width), (h, w) = pixels.shape[:2], x.shape[1:3]
            problem = (
                f"has {height} × {width} pixels (height × width), {files[0].name} has {h} × {w}; "
                f"'data.size=[{h},{w}]' resizes all"
            )
            raise ConfigError("data.path", file, problem)
        np.divide(pixels, 255, out=x[i])
    assert x is not None  # there is an image
    return x


def _make_room(files: list[Path], shape: tuple[int, ...]) -> np.ndarray:
    """Return an array for images of one shape, or refuse more than the memory holds."""
    needed = 8 * len(files) * math.prod(shape)
    folder = files[0].parent.parent
    check_room(needed, key="data.path", value=folder, instead="a smaller data.size needs less")
    return np.empty((len(files), *shape))


def _read_pixels(file: Path, *, size: tuple[int, int] | None, channels: int) -> np.ndarray:
    """Return an image's values 0..255, shape ``(H, W, C)``; resized by a bilinear filter."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its size, which is held against a bound below
            with Image.open(file, formats=_FORMATS) as image:
                _check_image(file, mode=image.mode, pixels=image.width * image.height)
                image.load()
                plain: Any = image.convert("L" if channels == 1 else "RGB")
        if size is not None and (plain.height, plain.width) != size:
            plain = plain.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    except ConfigError:
        raise
    except UnidentifiedImageError:
        problem = f"cannot be read: it is no {', '.join(_FORMATS)} image"
        raise ConfigError("data.path", file, problem) from None
    except Exception as error:  # each format has errors of its own for a damaged file
        text = (str(error) or type(error).__name__).splitlines()[0]
        raise ConfigError("data.path", file, f"cannot be read: {text}") from None
    return np.asarray(plain).reshape(plain.height, plain.width, channels)


def _check_image(file: Path, *, mode: str, pixels: int) -> None:
    """Refuse an image that would take much memory, or whose values are not 0..255."""
    if pixels > _MOST_PIXELS:
        problem = f"has {pixels:.3g} pixels; at most {_MOST_PIXELS:.3g} are unpacked"
        raise ConfigError("data.path", file, problem)
    if mode not in _MODES:
        problem = f"has more than 8 bits a channel ({mode}); save it with 8"
        raise ConfigError("data.path", file, problem)
