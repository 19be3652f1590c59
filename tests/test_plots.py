from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from pipeline import plots
from pipeline.data import Dataset
from pipeline.record import RunRecord

NOISE = 0.15


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(0)
    arrays = {}
    for split, n in (("train", 40), ("test", 60)):
        x = rng.uniform(-10, 10, (n, 1))
        arrays[f"x_{split}"] = x
        arrays[f"y_{split}"] = 0.1 * x + 0.3 + rng.normal(0, NOISE, (n, 1))
    facts = {"truth": {"w": 0.1, "b": 0.3}, "noise": NOISE}
    return Dataset(name="linear", arrays=arrays, facts=facts)


@pytest.fixture
def make(dataset):
    def record(backend="torch", *, loop="manual", loss="mse", lr=0.001, shape=(), steps=30):
        t = np.linspace(0, 1, steps + 1)
        w = (-0.05 + 0.15 * t).astype(np.float32).reshape(-1, *shape)
        b = (0.05 + 0.25 * t).astype(np.float32).reshape(len(t), *shape[1:])
        prediction = dataset.arrays["x_test"] * w[-1].item() + b[-1].item()
        about = {
            "config": {
                "model": {"name": "linear"},
                "loss": {"name": loss},
                "optimizer": {"name": "gd", "lr": lr},
                "train": {"loop": loop},
                "backend": {"name": backend},
            },
            "data": {"facts": dict(dataset.facts)},
            "least_squares": {"w": 0.1, "b": 0.3},
        }
        arrays = {
            "loss": np.geomspace(1, 0.02, steps).astype(np.float32),
            "param/w": w,
            "param/b": b,
            "last/w": w[-1],
            "last/b": b[-1],
            "prediction": prediction.astype(np.float32),
        }
        return RunRecord(about=about, arrays=arrays)

    return record


def legend(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def line(figure, label):
    return next(found for found in figure.axes[0].lines if found.get_label() == label)


def test_importing_loads_no_matplotlib_and_drawing_no_pyplot(tmp_path):
    code = (
        "import sys; from pipeline import plots; assert 'matplotlib' not in sys.modules;"
        "plots.png(plots._new(1, 1)); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("shape", [(), (1, 1)])
def test_a_whole_run_has_every_figure(make, dataset, shape):
    figures = plots.single(make(shape=shape), dataset)
    assert list(figures) == ["samples", "fit", "loss", "path", "residuals"]
    for figure in figures.values():
        assert plots.png(figure).startswith(b"\x89PNG")


def test_the_learned_line_is_the_last_one_and_the_least_squares_line_is_there(make, dataset):
    record = make()
    figure = plots.single(record, dataset)["fit"]
    x, y = line(figure, "torch").get_data()
    w, b = record.arrays["last/w"].item(), record.arrays["last/b"].item()
    np.testing.assert_allclose(y, w * x + b, rtol=1e-12)
    x, y = line(figure, "least squares").get_data()
    np.testing.assert_allclose(y, 0.1 * x + 0.3)
    assert x.min() < dataset.arrays["x_train"].min()


def test_a_line_that_is_far_too_steep_is_drawn_upright_across_the_picture(make, dataset):
    record = make()
    record.arrays["last/w"], record.arrays["last/b"] = np.float32(-4e18), np.float32(1e16)
    figure = plots.single(record, dataset)["fit"]
    x, y = line(figure, "torch").get_data()
    np.testing.assert_allclose(x, 1e16 / 4e18, rtol=1e-6)
    targets = dataset.arrays["y_train"]
    assert y[0] < targets.min()
    assert y[1] > targets.max()
    assert max(map(abs, y)) < 10


@pytest.mark.parametrize(
    ("loss", "level"), [("mse", NOISE**2), ("mae", NOISE * np.sqrt(2 / np.pi))]
)
def test_the_loss_has_a_logarithmic_axis_with_the_noise_marked(make, dataset, loss, level):
    axes = plots.single(make(loss=loss), dataset)["loss"].axes[0]
    assert axes.get_yscale() == "log"
    (marked,) = [found for found in axes.lines if found.get_label().startswith("noise")]
    np.testing.assert_allclose(marked.get_ydata(), level)
    assert {"mse": "squared", "mae": "absolute"}[loss] in axes.get_ylabel()
    steps = axes.lines[0].get_xdata()
    assert (steps[0], steps[-1]) == (1, 30)


def test_no_noise_is_marked_where_none_is_known(make, dataset):
    record = make()
    record.about["data"]["facts"] = {}
    assert legend(plots.single(record, dataset)["loss"]) == ["torch"]


def test_contours_lie_about_the_minimum_of_the_training_loss(make, dataset):
    record = make()
    axes = plots.single(record, dataset)["path"].axes[0]
    contours = axes.collections[-1]
    x, y = (dataset.arrays[key].reshape(-1) for key in ("x_train", "y_train"))
    checked = 0
    for level, path in zip(contours.levels, contours.get_paths(), strict=True):
        for w, b in path.vertices[::10]:
            assert np.mean((w * x + b - y) ** 2) == pytest.approx(level, rel=0.05)
            checked += 1
    assert checked > 20


def test_the_path_is_the_recorded_one(make, dataset):
    record = make()
    w, b = line(plots.single(record, dataset)["path"], "torch").get_data()
    np.testing.assert_array_equal(w, record.arrays["param/w"].astype(float))
    np.testing.assert_array_equal(b, record.arrays["param/b"].astype(float))


def test_residuals_are_target_minus_prediction(make, dataset):
    record = make()
    axes = plots.single(record, dataset)["residuals"].axes[0]
    drawn = axes.collections[0].get_offsets()
    expected = dataset.arrays["y_test"] - record.arrays["prediction"].astype(float)
    np.testing.assert_allclose(drawn[:, 1], expected.reshape(-1))
    np.testing.assert_allclose(drawn[:, 0], dataset.arrays["x_test"].reshape(-1))


@pytest.mark.parametrize(
    ("missing", "left"),
    [
        (["prediction"], {"samples", "fit", "loss", "path"}),
        (["param/w", "param/b"], {"samples", "fit", "loss", "residuals"}),
        (["last/w", "last/b"], {"samples", "loss", "path", "residuals"}),
        (["loss"], {"samples", "fit", "path", "residuals"}),
    ],
)
def test_what_a_partial_record_lacks_is_left_out(make, dataset, missing, left):
    record = make()
    for key in missing:
        del record.arrays[key]
    assert set(plots.single(record, dataset)) == left
    plots.png(plots.overview(record, dataset))


def test_an_empty_record_still_has_an_overview(make, dataset):
    record = make()
    record.arrays.clear()
    assert plots.png(plots.overview(record, dataset)).startswith(b"\x89PNG")
    assert plots.comparison([record], dataset, pairs=[(record, record)]) == {}


def test_more_features_have_no_line_figures(make, dataset):
    arrays = {**dataset.arrays}
    for split in ("train", "test"):
        arrays[f"x_{split}"] = np.hstack([arrays[f"x_{split}"]] * 2)
    wide = Dataset(name="wide", arrays=arrays, facts={})
    record = make()
    record.arrays["last/w"] = np.zeros((2, 1), np.float32)
    assert set(plots.single(record, wide)) == {"loss", "residuals"}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_run_that_diverged_is_drawn_and_says_so(make, dataset, value):
    record = make()
    record.arrays["loss"][-2:] = [1e30, value]
    record.arrays["param/w"][-2:] = [1e18, np.nan]
    record.arrays["last/w"] = np.float32(np.nan)
    del record.arrays["prediction"]
    figures = plots.single(record, dataset)
    assert set(figures) == {"samples", "loss", "path"}
    assert "ended: loss not finite" in legend(figures["loss"])
    low, high = figures["path"].axes[0].get_xlim()
    assert high - low < 1  # the frame stays with the part that can be seen
    for figure in figures.values():
        plots.png(figure)


def test_one_diverged_run_does_not_squeeze_the_others(make, dataset):
    good, bad = make(), make("tensorflow")
    bad.arrays["loss"][-3:] = [1e20, 1e30, np.inf]
    _, top = plots.comparison([good, bad], dataset, pairs=[])["loss"].axes[0].get_ylim()
    assert top < 100


def test_two_backends_differ_in_colour_dashes_and_width(make, dataset):
    figure = plots.comparison([make(), make("tensorflow")], dataset, pairs=[])["loss"]
    torch, tensorflow = line(figure, "torch"), line(figure, "tensorflow")
    assert torch.get_color() != tensorflow.get_color()
    assert torch.get_linestyle() == "-"
    assert tensorflow.get_linestyle() == "--"
    assert torch.get_linewidth() > 2 * tensorflow.get_linewidth()
    assert torch.get_zorder() < tensorflow.get_zorder()  # the thin one on top


def test_fit_has_a_look_of_its_own_and_its_loss_is_named(make, dataset):
    records = [make("tensorflow"), make("tensorflow", loop="fit", loss="mae")]
    figures = plots.comparison(records, dataset, pairs=[])
    assert legend(figures["loss"])[:2] == ["tensorflow: mse", "tensorflow (fit): mae"]
    colours = [found.get_color() for found in figures["loss"].axes[0].lines[:2]]
    assert colours[0] != colours[1]


def test_runs_of_one_label_are_told_apart_by_what_differs(make):
    records = [make(lr=0.1), make("tensorflow", lr=0.1), make(lr=0.2)]
    assert plots.names(records) == [
        "torch, optimizer.lr=0.1",
        "tensorflow",
        "torch, optimizer.lr=0.2",
    ]


def test_repeats_of_one_run_are_told_apart_by_their_ids(make):
    records = [make(), make()]
    for record, name in zip(records, ("aaaaaaaa1", "bbbbbbbb2"), strict=True):
        record.about["run"] = name
    assert plots.names(records) == ["torch, aaaaaaaa", "torch, bbbbbbbb"]


def test_many_runs_have_one_legend_entry_a_label(make, dataset):
    records = [make(b, lr=lr) for lr in (1, 2, 3, 4, 5) for b in ("torch", "tensorflow")]
    figures = plots.comparison(records, dataset, pairs=[])
    assert legend(figures["loss"])[:2] == ["torch", "tensorflow"]
    assert sum("torch" in text for text in legend(figures["loss"])) == 1
    assert len(figures["loss"].axes[0].lines) >= len(records)


def test_ulps_are_counted_at_each_step_and_zero_has_its_place(make, dataset):
    a, b = make(), make("tensorflow")
    b.arrays["param/w"][5] = np.nextafter(b.arrays["param/w"][5], np.float32(9))
    figure = plots.comparison([a, b], dataset, pairs=[(a, b)])["ulps"]
    axes = figure.axes[0]
    w = line(figure, "w: at most 1").get_ydata()
    assert np.flatnonzero(w).tolist() == [5]
    assert w[5] == 1
    assert not line(figure, "b: always 0").get_ydata().any()
    assert axes.get_yscale() == "symlog"
    assert axes.get_ylim()[0] < 0
    assert axes.get_title(loc="left") == "tensorflow against torch"


def test_of_many_pairs_six_are_drawn_and_the_rest_counted(make, dataset):
    pairs = [(make(lr=lr), make("tensorflow", lr=lr)) for lr in range(1, 10)]
    records = [record for pair in pairs for record in pair]
    figure = plots.comparison(records, dataset, pairs=pairs)["ulps"]
    assert len(figure.axes) == 6
    assert "6 of 9 pairs" in figure.get_suptitle()
    assert "3 left out" in figure.get_suptitle()


def test_a_pair_that_cannot_be_compared_is_left_out(make, dataset):
    a, b = make(), make("tensorflow")
    b.arrays["param/w"] = b.arrays["param/w"].astype(np.float64)
    b.arrays["param/b"] = b.arrays["param/b"].astype(np.float64)
    assert "ulps" not in plots.comparison([a, b], dataset, pairs=[(a, b)])


def test_saving_writes_every_format_whole(make, dataset, tmp_path):
    figures = {"loss": plots.single(make(), dataset)["loss"]}
    paths = plots.save(figures, tmp_path / "plots", formats=["png", "svg", "pdf"])
    assert [path.name for path in paths] == ["loss.png", "loss.svg", "loss.pdf"]
    heads = [path.read_bytes()[:5] for path in paths]
    assert heads == [b"\x89PNG\r", b"<?xml", b"%PDF-"]
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == sorted(
        path.name for path in paths
    )
