"""Folders of images: the right numbers, or one line that says what is wrong."""

from __future__ import annotations

import struct
import zlib
from functools import partial

import numpy as np
import pytest
from PIL import Image

from pipeline import data, seeds
from pipeline.config.signatures import check_settings
from pipeline.config.types import ConfigError
from pipeline.data import images, memory

SETTINGS = {"size": None, "channels": 3, "validation": 0, "test": 0.25, "standardise": False}


def made(path, seed=0, **changes):
    settings = {"path": str(path), **SETTINGS, **changes}
    return data.make("images", settings=settings, stream=partial(seeds.stream, seed))


def refused(path, **changes):
    with pytest.raises(ConfigError) as caught:
        made(path, **changes)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text.replace(str(path), path.name)


def pixels_of(number, height=2, width=3):
    """An image whose every value tells which one it is and where it stands."""
    return (np.arange(height * width * 3).reshape(height, width, 3) + 20 * number).astype(np.uint8)


def folders(root, classes=("cat", "dog"), each=4, kind=".png"):
    for c, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(each):
            Image.fromarray(pixels_of(c * each + i)).save(root / name / f"{i}{kind}")
    return root


def together(dataset, kind):
    return np.concatenate([dataset.arrays[f"{kind}_{s}"] for s in ("train", "test")])


@pytest.mark.parametrize("kind", [".png", ".bmp", ".PNG"])
def test_every_image_is_there_with_its_class_and_its_values(tmp_path, kind):
    dataset = made(folders(tmp_path, kind=kind))
    x, y = together(dataset, "x"), together(dataset, "y")[:, 0]
    order = np.argsort(x[:, 0, 0, 0])
    wanted = np.stack([pixels_of(i) for i in range(8)]) / 255
    np.testing.assert_array_equal(x[order], wanted)
    assert y[order].tolist() == [0] * 4 + [1] * 4
    assert (dataset.inputs, dataset.classes) == ((2, 3, 3), 2)
    assert dataset.facts["labels"] == ["cat", "dog"]
    assert dataset.arrays["y_train"].dtype == np.int64
    assert sorted(dataset.arrays["y_test"][:, 0]) == [0, 1]  # stratified


def test_a_jpeg_is_read_as_near_as_its_loss_allows(tmp_path):
    for name, value in (("a", 40), ("b", 200)):
        (tmp_path / name).mkdir()
        for i, kind in enumerate((".jpg", ".jpeg", ".JPG")):
            flat = np.full((8, 8, 3), value, np.uint8)
            Image.fromarray(flat).save(tmp_path / name / f"{i}{kind}", format="JPEG", quality=95)
    dataset = made(tmp_path)
    for image, (label,) in zip(together(dataset, "x"), together(dataset, "y"), strict=True):
        np.testing.assert_allclose(image, [40 / 255, 200 / 255][label], atol=2 / 255)


def test_grey_is_one_channel_and_colour_is_three(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.fromarray(np.full((2, 2, 3), 100, np.uint8)).save(tmp_path / name / f"{i}.png")
            Image.fromarray(np.full((2, 2), 100, np.uint8)).save(tmp_path / name / f"g{i}.png")
            Image.fromarray(np.full((2, 2, 4), (100, 100, 100, 9), np.uint8)).save(tmp_path / name / f"t{i}.png")  # fmt: skip
            Image.fromarray(np.full((2, 2), 100, np.uint8)).convert("P").save(tmp_path / name / f"p{i}.png")  # fmt: skip
    for channels in (1, 3):
        dataset = made(tmp_path, channels=channels)
        assert dataset.inputs == (2, 2, channels)
        np.testing.assert_array_equal(together(dataset, "x"), 100 / 255)


def test_resized_by_a_bilinear_filter(tmp_path):
    """Half the size: an output lies between two pixels and weighs them alike."""
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.fromarray(np.array([[0, 100], [100, 200]], np.uint8)).save(tmp_path / name / f"{i}.png")  # fmt: skip
            Image.fromarray(np.array([[100]], np.uint8)).save(tmp_path / name / f"one{i}.png")
    small = made(tmp_path, size=[1, 1], channels=1)
    np.testing.assert_array_equal(together(small, "x"), 100 / 255)
    tall = made(tmp_path, size=[2, 1], channels=1)
    assert tall.inputs == (2, 1, 1)
    wanted = {(50, 150), (100, 100)}
    assert {tuple(np.rint(i.reshape(-1) * 255).astype(int)) for i in together(tall, "x")} == wanted


def test_standardised_by_the_training_images_pixel_by_pixel(tmp_path):
    folders(tmp_path)
    raw, scaled = made(tmp_path), made(tmp_path, standardise=True)
    train = raw.arrays["x_train"]
    wanted = (raw.arrays["x_test"] - train.mean(axis=0)) / train.std(axis=0)
    np.testing.assert_allclose(scaled.arrays["x_test"], wanted, rtol=1e-12)


def test_what_is_no_image_is_ignored_and_links_are_followed(tmp_path):
    plain = made(folders(tmp_path / "plain"))
    folders(tmp_path / "other", classes=("cat",))
    (tmp_path / "other/dog").symlink_to(tmp_path / "plain/dog")
    (tmp_path / "other/cat/0.png").unlink()
    (tmp_path / "other/cat/0.png").symlink_to(tmp_path / "plain/cat/0.png")
    for name in ("cat/notes.txt", "cat/.hidden.png", "cat/._0.png", "top.png", "Thumbs.db"):
        (tmp_path / "other" / name).write_bytes(b"no image")
    (tmp_path / "other/cat/deeper.png").mkdir()
    (tmp_path / "other/.git").mkdir()
    assert made(tmp_path / "other").digest == plain.digest


def test_the_same_seed_makes_the_same_split(tmp_path):
    folders(tmp_path)
    assert made(tmp_path).digest == made(tmp_path).digest != made(tmp_path, seed=1).digest


def test_images_of_two_sizes_need_one_to_be_given(tmp_path):
    folders(tmp_path)
    Image.fromarray(pixels_of(0, height=5)).save(tmp_path / "dog/2.png")
    assert refused(tmp_path) == (
        f"data.path={tmp_path.name}/dog/2.png: has 5 × 3 pixels (height × width), 0.png has 2 × 3; "
        "'data.size=[2,3]' resizes all"
    )
    assert made(tmp_path, size=[2, 3]).inputs == (2, 3, 3)


def _bomb(path):
    """A PNG of a few bytes that says it has 10^10 pixels."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"\0" * 10_000)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body)


def _large(path):
    Image.new("1", (10_000, 10_000)).save(path)


def _deep(path):
    Image.fromarray(np.full((2, 3), 1000, np.uint16)).save(path)


def _cut(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 50, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])


def _gif(path):
    Image.fromarray(pixels_of(0)).save(path, format="GIF")


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda path: path.write_bytes(b""), "cannot be read: it is no BMP, JPEG, PNG image"),
        (lambda path: path.write_bytes(b"text" * 99), "cannot be read: it is no BMP, JPEG, PNG image"),
        (_gif, "cannot be read: it is no BMP, JPEG, PNG image"),
        (_cut, "cannot be read: "),
        (_bomb, "cannot be read: Image size (10000000000 pixels) exceeds limit"),
        (_large, "has 1e+08 pixels; at most 6.71e+07 are unpacked"),
        (_deep, "has more than 8 bits a channel (I;16); save it with 8"),
    ],
)  # fmt: skip
def test_an_image_that_cannot_be_used_is_named(tmp_path, write, says, recwarn):
    folders(tmp_path)
    write(tmp_path / "dog/3.png")
    assert refused(tmp_path).startswith(f"data.path={tmp_path.name}/dog/3.png: {says}")
    assert not recwarn


def test_folders_that_make_no_classes(tmp_path):
    where = tmp_path / "here"
    assert refused(where) == "data.path=here: there is no such folder"
    where.write_text("a file")
    assert refused(where) == "data.path=here: there is no such folder"
    where.unlink()
    where.mkdir()
    assert refused(where) == "data.path=here: has no folder in it; each class has one"
    (where / "cat").mkdir()
    (where / "cat/notes.txt").write_text("none")
    says = "has no image in it; one ends in .bmp, .jpeg, .jpg, .png"
    assert refused(where) == f"data.path=here/cat: {says}"
    Image.fromarray(pixels_of(0)).save(where / "cat/0.png")
    assert refused(where) == "data.path=here: holds one class only, cat"


def test_images_beyond_memory_are_refused_before_they_are_read(tmp_path, monkeypatch):
    folders(tmp_path)
    assert "needs about" in refused(tmp_path, size=[10**6, 10**6])
    monkeypatch.setattr(memory, "measure_memory", lambda: 3 * 8 * (8 * 2 * 3 * 3) - 1)
    assert refused(tmp_path).endswith("; a smaller data.size needs less")
    assert made(tmp_path, size=[2, 2]).inputs == (2, 2, 3)


@pytest.mark.parametrize(
    ("key", "bad"),
    [("size", [8]), ("size", [0, 8]), ("size", "8x8"), ("size", [8, 8, 3]), ("channels", 2),
     ("channels", "3"), ("path", ""), ("test", 0), ("standardise", 1)],
)  # fmt: skip
def test_a_wrong_setting_is_one_line(key, bad):
    given = {"path": "here", **SETTINGS}
    assert check_settings("data", images.images, given | {"size": [8, 8]})["size"] == (8, 8)
    with pytest.raises(ConfigError, match=f"^data.{key}") as caught:
        check_settings("data", images.images, given | {key: bad})
    assert len(str(caught.value).splitlines()) == 1
