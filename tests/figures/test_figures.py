from __future__ import annotations

import dataclasses
import subprocess
import sys
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.data import Dataset
from pipeline.figures.curves import style_curves
from pipeline.figures.files import list_saved, render_png, save_figures
from pipeline.figures.parity import _times, count_ulps, draw_parity
from pipeline.figures.path import draw_path
from pipeline.figures.runs import draw_comparison, draw_overview, draw_run
from pipeline.figures.style import new_figure
from pipeline.naming import name_runs
from pipeline.parity.ladder import Rung
from pipeline.record.record import RunRecord
from tests.figures.conftest import NOISE
from tests.report.test_page import ERRORS, FINDING, GROWTH, OPEN, ROUNDING, WRONG, ladder


def legend(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def line(figure, label):
    return next(found for found in figure.axes[0].lines if found.get_label() == label)


def test_importing_loads_no_matplotlib_and_drawing_no_pyplot(tmp_path):
    code = (
        "import sys; from pipeline.figures import files, parity, runs, style, sweeps;"
        "assert 'matplotlib' not in sys.modules; files.render_png(style.new_figure(1, 1));"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("shape", [(), (1, 1)])
def test_a_whole_run_has_every_figure(make, dataset, shape):
    figures = draw_run(make(shape=shape), dataset)
    assert list(figures) == ["fit", "loss", "path", "residuals"]
    for figure in figures.values():
        assert render_png(figure).startswith(b"\x89PNG")


def test_the_learned_line_is_the_last_one_and_the_least_squares_line_is_there(make, dataset):
    record = make()
    figure = draw_run(record, dataset)["fit"]
    x, y = line(figure, "torch").get_data()
    w, b = record.arrays["last/w"].item(), record.arrays["last/b"].item()
    np.testing.assert_allclose(y, w * x + b, rtol=1e-12)
    x, y = line(figure, "least squares").get_data()
    np.testing.assert_allclose(y, 0.1 * x + 0.3)
    assert x.min() < dataset.arrays["x_train"].min()


def test_a_line_that_is_far_too_steep_is_drawn_upright_across_the_picture(make, dataset):
    record = make()
    record.arrays["last/w"], record.arrays["last/b"] = np.float32(-4e18), np.float32(1e16)
    figure = draw_run(record, dataset)["fit"]
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
    axes = draw_run(make(loss=loss), dataset)["loss"].axes[0]
    assert axes.get_yscale() == "log"
    (marked,) = [found for found in axes.lines if found.get_label().startswith("noise")]
    np.testing.assert_allclose(marked.get_ydata(), level)
    assert {"mse": "squared", "mae": "absolute"}[loss] in axes.get_ylabel()
    steps = axes.lines[0].get_xdata()
    assert (steps[0], steps[-1]) == (1, 30)


def test_no_noise_is_marked_where_none_is_known(make, dataset):
    record = make()
    record.about["data"]["facts"] = {}
    assert legend(draw_run(record, dataset)["loss"]) == ["torch"]


def test_contours_lie_about_the_minimum_of_the_training_loss(make, dataset):
    record = make()
    axes = draw_run(record, dataset)["path"].axes[0]
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
    w, b = line(draw_run(record, dataset)["path"], "torch").get_data()
    np.testing.assert_array_equal(w, record.arrays["param/w"].astype(float))
    np.testing.assert_array_equal(b, record.arrays["param/b"].astype(float))


def test_residuals_are_target_minus_prediction(make, dataset):
    record = make()
    axes = draw_run(record, dataset)["residuals"].axes[0]
    drawn = axes.collections[0].get_offsets()
    expected = dataset.arrays["y_test"] - record.arrays["prediction"].astype(float)
    np.testing.assert_allclose(drawn[:, 1], expected.reshape(-1))
    np.testing.assert_allclose(drawn[:, 0], dataset.arrays["x_test"].reshape(-1))


@pytest.mark.parametrize(
    ("missing", "left"),
    [
        (["prediction"], {"fit", "loss", "path"}),
        (["param/w", "param/b"], {"fit", "loss", "residuals"}),
        (["last/w", "last/b"], {"samples", "loss", "path", "residuals"}),
        (["loss"], {"fit", "path", "residuals"}),
    ],
)
def test_what_a_partial_record_lacks_is_left_out(make, dataset, missing, left):
    record = make()
    for key in missing:
        del record.arrays[key]
    assert set(draw_run(record, dataset)) == left
    render_png(draw_overview(record, dataset))


@pytest.mark.parametrize(
    ("loss", "scale", "model"),
    [
        (np.linspace(0.0225012, 0.0225013, 30), 1.0, "linear"),
        (np.geomspace(1, 1e-30, 30), 1e-9, "mlp"),
        (np.append(np.geomspace(1, 1e35, 29), np.inf), 1e7, "linear"),
        (np.append(np.geomspace(1e8, 1.001e8, 29), np.nan), 1e7, "mlp"),
    ],
)
def test_all_text_of_an_overview_is_inside_it_and_none_lies_on_other(
    make, dataset, loss, scale, model
):
    record = make("tensorflow", lr=0.00012345)
    record.arrays["loss"] = loss
    record.arrays |= {"val/step": np.arange(1, 31, 5), "val/mse": np.full(6, 0.5)}
    record.about["config"]["model"]["name"] = model
    arrays = {k: v * scale if k[0] == "y" else v for k, v in dataset.arrays.items()}
    if model == "mlp":
        record.arrays = {k: v for k, v in record.arrays.items() if k[:5] not in ("param", "last/")}
        arrays |= {k: np.repeat(v, 2, axis=1) for k, v in arrays.items() if k[0] == "x"}
        record.arrays["prediction"] = record.arrays["prediction"] * scale
    figure = draw_overview(record, Dataset(name="d", arrays=arrays, facts=dataset.facts))
    figure.draw_without_rendering()
    assert len(figure.axes) == 2
    (heading,) = figure.texts
    boxes = [heading.get_window_extent()]
    for axes in figure.axes:
        axis = axes.yaxis
        ticks = [t for t in axes.get_xticklabels() if axes.get_xlim()[0] <= t.get_position()[0]
                 <= axes.get_xlim()[1]]  # fmt: skip
        parts = [axes.get_legend(), axis.label, axis.get_offset_text(), *ticks]
        boxes += [part.get_window_extent() for part in parts]
    boxes = [box for box in boxes if box.width]
    for i, box in enumerate(boxes):
        assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert 0 <= box.y0 < box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[:i])


def test_an_empty_record_still_has_an_overview(make, dataset):
    record = make()
    record.arrays.clear()
    assert render_png(draw_overview(record, dataset)).startswith(b"\x89PNG")
    assert draw_comparison([record], dataset, pairs=[(record, record)]) == {}


def test_more_features_have_no_line_figures(make, dataset):
    arrays = {**dataset.arrays}
    for split in ("train", "test"):
        arrays[f"x_{split}"] = np.hstack([arrays[f"x_{split}"]] * 2)
    wide = Dataset(name="wide", arrays=arrays, facts={})
    record = make()
    record.arrays["last/w"] = np.zeros((2, 1), np.float32)
    assert set(draw_run(record, wide)) == {"loss", "residuals"}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_run_that_diverged_is_drawn_and_says_so(make, dataset, value):
    record = make()
    record.arrays["loss"][-2:] = [1e30, value]
    record.arrays["param/w"][-2:] = [1e18, np.nan]
    record.arrays["last/w"] = np.float32(np.nan)
    del record.arrays["prediction"]
    figures = draw_run(record, dataset)
    assert set(figures) == {"samples", "loss", "path"}
    assert "ended: loss not finite" in legend(figures["loss"])
    low, high = figures["path"].axes[0].get_xlim()
    assert high - low < 1  # the frame stays with the part that can be seen
    for figure in figures.values():
        render_png(figure)


def test_one_diverged_run_does_not_squeeze_the_others(make, dataset):
    good, bad = make(), make("tensorflow")
    bad.arrays["loss"][-3:] = [1e20, 1e30, np.inf]
    _, top = draw_comparison([good, bad], dataset, pairs=[])["loss"].axes[0].get_ylim()
    assert top < 100


def test_two_backends_differ_in_colour_dashes_and_width(make, dataset):
    figure = draw_comparison([make(), make("tensorflow")], dataset, pairs=[])["loss"]
    torch, tensorflow = line(figure, "torch"), line(figure, "tensorflow")
    assert torch.get_color() != tensorflow.get_color()
    assert torch.get_linestyle() == "-"
    assert tensorflow.get_linestyle() == "--"
    assert torch.get_linewidth() > 2 * tensorflow.get_linewidth()
    assert torch.get_zorder() < tensorflow.get_zorder()  # the thin one on top


def test_fit_has_a_look_of_its_own_and_its_loss_is_named(make, dataset):
    records = [make("tensorflow"), make("tensorflow", loop="fit", loss="mae")]
    figures = draw_comparison(records, dataset, pairs=[])
    assert legend(figures["loss"])[:2] == ["tensorflow: mse", "tensorflow (fit): mae"]
    colours = [found.get_color() for found in figures["loss"].axes[0].lines[:2]]
    assert colours[0] != colours[1]


def test_runs_of_one_label_are_told_apart_by_what_differs(make):
    records = [make(lr=0.1), make("tensorflow", lr=0.1), make(lr=0.2)]
    for record, title in zip(records, ("one", "one", "another"), strict=True):
        record.about["config"]["sweep"] = {"title": title}  # of a linked run it is another one's
    assert name_runs(records) == [
        "torch, optimizer.lr=0.1",
        "tensorflow",
        "torch, optimizer.lr=0.2",
    ]


def test_repeats_of_one_run_are_told_apart_by_their_ids(make):
    records = [make(), make()]
    for record, name in zip(records, ("aaaaaaaa1", "bbbbbbbb2"), strict=True):
        record.about["run"] = name
    assert name_runs(records) == ["torch, aaaaaaaa", "torch, bbbbbbbb"]
    among = ["torch, optimizer.lr=0.001, aaaaaaaa", "torch, optimizer.lr=0.001, bbbbbbbb"]
    assert name_runs([*records, make(lr=0.2)]) == [*among, "torch, optimizer.lr=0.2"]


def test_many_runs_have_one_legend_entry_a_label(make, dataset):
    records = [make(b, lr=lr) for lr in (1, 2, 3, 4, 5) for b in ("torch", "tensorflow")]
    figures = draw_comparison(records, dataset, pairs=[])
    assert legend(figures["loss"])[:2] == ["torch", "tensorflow"]
    assert sum("torch" in text for text in legend(figures["loss"])) == 1
    assert len(figures["loss"].axes[0].lines) >= len(records)


def test_ulps_are_counted_at_each_step_and_zero_has_its_place(make, dataset):
    a, b = make(), make("tensorflow")
    b.arrays["param/w"][5] = np.nextafter(b.arrays["param/w"][5], np.float32(9))
    figure = draw_comparison([a, b], dataset, pairs=[(a, b)])["ulps"]
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
    figure = draw_comparison(records, dataset, pairs=pairs)["ulps"]
    assert len(figure.axes) == 6
    assert "6 of 9 pairs" in figure.get_suptitle()
    assert "3 left out" in figure.get_suptitle()


def test_a_pair_that_cannot_be_compared_is_left_out(make, dataset):
    a, b = make(), make("tensorflow")
    b.arrays["param/w"] = b.arrays["param/w"].astype(np.float64)
    b.arrays["param/b"] = b.arrays["param/b"].astype(np.float64)
    assert "ulps" not in draw_comparison([a, b], dataset, pairs=[(a, b)])


def test_saving_writes_every_format_whole(make, dataset, tmp_path):
    figures = {"loss": draw_run(make(), dataset)["loss"]}
    paths = save_figures(figures, tmp_path / "plots", formats=["png", "svg", "pdf"])
    assert [path.name for path in paths] == ["loss.png", "loss.svg", "loss.pdf"]
    heads = [path.read_bytes()[:5] for path in paths]
    assert heads == [b"\x89PNG\r", b"<?xml", b"%PDF-"]
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == sorted(
        path.name for path in paths
    )


# Classes, minibatches, validation sets


@pytest.fixture
def digits():
    """A set of 3 classes that stays in a file: it has no training samples in memory."""
    truth = np.arange(30).reshape(-1, 1) % 3
    arrays = {"x_test": np.zeros((30, 4)), "y_test": truth}
    facts = {"classes": 3, "labels": ["setosa", "versicolor", "virginica"]}
    source = SimpleNamespace(inputs=(4,), rows=630)
    return Dataset(name="digits", arrays=arrays, facts=facts, source=source)


@pytest.fixture
def classify(make, digits):
    def record(backend="torch", *, wrong=(), loss="cross_entropy", steps=500, **about):
        found = make(backend, loss=loss, steps=steps)
        found.about["config"]["train"] |= {"batch": 32}
        found.about["data"]["facts"] = dict(digits.facts)
        logits = np.eye(3, dtype=np.float32)[digits.arrays["y_test"][:, 0]]
        for row in wrong:
            logits[row] = np.roll(logits[row], 1)
        kept = {"loss": found.arrays["loss"], "prediction": logits}
        kept |= {"grad_norm": np.ones(steps), "last/out.w": np.ones((4, 3), np.float32)}
        kept |= {"val/step": np.array([20, 40]), "val/log_loss": np.array([0.5, 0.25])}
        kept |= {"val/accuracy": np.array([0.75, np.nan])}
        return RunRecord(about=found.about, arrays=kept)

    return record


def drawn(figures):
    for figure in figures.values():
        figure.draw_without_rendering()
    return figures


def counts(axes):
    return {tuple(map(int, t.get_position()[::-1])): int(t.get_text()) for t in axes.texts}


def test_a_streamed_classifier_with_a_scalar_trace_has_its_own_figures(classify, digits):
    record = classify(wrong=[0])
    assert set(drawn(draw_run(record, digits))) == {"loss", "validation", "confusion"}
    assert len(draw_overview(record, digits).axes) == 2


def test_a_confusion_matrix_counts_true_classes_down_and_predicted_ones_across(classify, digits):
    axes = draw_run(classify(wrong=[0, 3, 4]), digits)["confusion"].axes[0]
    assert counts(axes) == {(0, 0): 8, (0, 1): 2, (1, 1): 9, (1, 2): 1, (2, 2): 10}
    assert axes.get_title(loc="left") == "torch: 27 of 30 right"
    assert [t.get_text() for t in axes.get_yticklabels()] == digits.facts["labels"]


def test_logits_of_two_classes_are_cut_at_zero_as_the_score_does(classify, digits):
    truth = np.array([[0], [0], [1], [1]])
    two = Dataset(
        name="moons",
        arrays={"x_test": truth, "y_test": truth},
        facts={"classes": 2},
        source=digits.source,
    )
    record = classify(loss="bce")
    record.arrays["prediction"] = np.array([[-1], [0], [0.1], [-2]], np.float32)
    figures = drawn(draw_run(record, two))
    assert counts(figures["confusion"].axes[0]) == {(0, 0): 2, (1, 0): 1, (1, 1): 1}
    assert "residuals" not in figures  # although the shapes are those of a regression


def test_a_pairs_disagreements_are_counted(classify, digits):
    a, b, c = classify(wrong=[0, 1]), classify("tensorflow", wrong=[1, 2, 3]), classify("numpy")
    figure = draw_comparison([a, b, c], digits, pairs=[(a, b), (a, c)])["confusion"]
    assert figure.get_suptitle().split("\n") == [
        "torch and tensorflow disagree on 3 of 30 test samples",
        "torch and numpy disagree on 2 of 30 test samples",
    ]
    assert len(figure.axes) == 3


def test_of_many_classifiers_six_are_drawn_and_it_is_said(classify, digits):
    records = [classify() for _ in range(10)]
    figures = draw_comparison(records, digits, pairs=[])
    assert len(figures["confusion"].axes) == 6
    assert "6 of 10 runs are drawn" in figures["confusion"].get_suptitle()


def test_logits_that_are_not_finite_have_no_confusion_matrix(classify, digits):
    good, bad = classify(), classify("tensorflow")
    bad.arrays["prediction"][0, 0] = bad.arrays["loss"][-1] = np.nan
    assert "confusion" not in drawn(draw_run(bad, digits))
    figure = draw_comparison([good, bad], digits, pairs=[(good, bad)])["confusion"]
    assert (len(figure.axes), figure.get_suptitle()) == (1, "")


def test_a_long_minibatch_loss_is_averaged_over_an_epoch_and_says_so(classify, digits):
    record = classify()  # 630 samples in batches of 32 are 20 steps
    figure = draw_run(record, digits)["loss"]
    steps, means = line(figure, "torch").get_data()
    loss = record.arrays["loss"].astype(float)
    assert (steps[0], steps[-1]) == (20, 500)
    np.testing.assert_allclose(means, [loss[k - 20 : k].mean() for k in steps], rtol=1e-12)
    faint = figure.axes[0].lines[0]
    np.testing.assert_array_equal(faint.get_ydata(), loss)
    assert faint.get_alpha() < 0.5
    assert "faint: each step; lines: mean of 20 steps" in legend(figure)


@pytest.mark.parametrize("change", [{"steps": 400}, {"batch": None}, {"accumulate": 40}])
def test_a_short_or_full_batch_loss_is_drawn_as_it_is(classify, digits, change):
    record = classify(steps=change.pop("steps", 500))
    record.about["config"]["train"] |= {"batch": 32} | change
    record.about["config"]["optimizer"] |= change  # accumulate: 40 batches make one update
    figure = draw_run(record, digits)["loss"]
    np.testing.assert_array_equal(line(figure, "torch").get_ydata(), record.arrays["loss"])
    assert not any("mean of" in text for text in legend(figure))


def test_an_average_stops_before_the_loss_that_is_not_finite(classify, digits):
    record = classify()
    record.arrays["loss"][-1] = np.inf
    steps, means = line(drawn(draw_run(record, digits))["loss"], "torch").get_data()
    assert steps[-1] == 499
    assert np.isfinite(means).all()


def test_a_validation_loss_is_dotted_in_its_runs_colour(classify, digits):
    figure = draw_comparison([classify(), classify("tensorflow")], digits, pairs=[])["loss"]
    short = [found for found in figure.axes[0].lines if len(found.get_xdata()) == 2]
    for label, other in zip(("torch", "tensorflow"), short[:2], strict=True):
        own = line(figure, label)
        assert other.get_color() == own.get_color()
        assert other._unscaled_dash_pattern != own._unscaled_dash_pattern
        assert other.get_linewidth() < own.get_linewidth()
        np.testing.assert_array_equal(other.get_xydata(), [[20, 0.5], [40, 0.25]])
    assert legend(figure)[:3] == ["torch", "tensorflow", "dotted: validation samples"]


def test_scores_that_the_loss_axis_cannot_show_have_their_own(classify, digits):
    figure = draw_run(classify(), digits)["validation"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["validation accuracy"]
    np.testing.assert_array_equal(line(figure, "torch").get_xydata(), [[20, 0.75]])
    assert len(draw_run(classify(loss="huber"), digits)["validation"].axes) == 2


@pytest.mark.parametrize("dtype", [np.float32, np.longdouble])
def test_a_regression_with_several_targets_is_drawn(make, dtype):
    y = np.random.default_rng(0).normal(size=(20, 3))
    arrays = {"x_train": y, "y_train": y, "x_test": y, "y_test": y}
    record = make()
    record.arrays = {
        "loss": record.arrays["loss"].astype(dtype),
        "prediction": (y + 1).astype(dtype),
    }
    record.arrays |= {key: np.ones((31, 3, 3), dtype) for key in ("param/w", "param/b")}
    dataset = Dataset(name="table", arrays=arrays, facts={})
    figures = drawn(draw_comparison([record, record], dataset, pairs=[(record, record)]))
    assert set(figures) >= {"loss", "residuals"}
    residuals = figures["residuals"].axes[0].collections[0].get_offsets()
    np.testing.assert_allclose(residuals[:, 1], -1, rtol=1e-6)
    assert len(residuals) == 60


def test_a_loss_that_hardly_falls_still_has_numbers_on_its_axis(make, dataset):
    record = make()
    record.arrays["loss"] = np.linspace(1.1, 0.62, 30)
    record.about["data"]["facts"] = {}
    figure = draw_run(record, dataset)["loss"]
    low, high = figure.axes[0].get_ylim()
    shown = [tick for tick in figure.axes[0].yaxis.get_majorticklocs() if low <= tick <= high]
    assert len(shown) >= 3


@pytest.mark.parametrize("tensors", [1, 30])
def test_the_legend_of_the_ulps_hides_no_curve(make, dataset, tensors):
    a, b = make(), make("tensorflow")
    for record, factor in ((a, 1), (b, 1 + 1e-4)):
        record.arrays = {"loss": record.arrays["loss"]}
        for i in range(tensors):
            rows = np.full((31, 2), factor * (1 + i), np.float32)
            record.arrays[f"param/encoder.block{i}.attention.query.kernel"] = rows
    for pairs in ([(a, b)], [(a, b)] * 4):
        figure = draw_comparison([a, b], dataset, pairs=pairs)["ulps"]
        figure.draw_without_rendering()
        for axes in figure.axes:
            top = axes.transData.transform(
                [(0, max(max(curve.get_ydata()) for curve in axes.lines))]
            )[0, 1]
            assert axes.get_legend().get_window_extent().y0 > top
    if tensors == 30:
        assert "7 of 30" in axes.get_legend().get_title().get_text()


def test_residuals_of_a_perfect_fit_are_drawn(make, dataset):
    record = make()
    record.arrays["prediction"] = dataset.arrays["y_test"] - 0.1
    drawn(draw_run(record, dataset))


@pytest.mark.parametrize("change", ["streamed", "classes"])
def test_samples_that_are_no_plane_in_memory_have_no_line_figures(make, dataset, digits, change):
    arrays, facts = dict(dataset.arrays), {}
    if change == "streamed":
        del arrays["x_train"], arrays["y_train"]
    else:
        arrays |= {"y_train": np.zeros((40, 1), int), "y_test": np.zeros((60, 1), int)}
        facts["classes"] = 2
    source = SimpleNamespace(inputs=(1,), rows=40)
    other = Dataset(name="other", arrays=arrays, facts=facts, source=source)
    last = {"streamed": "residuals", "classes": "confusion"}[change]
    assert set(drawn(draw_run(make(), other))) == {"loss", last}


# What was measured of a pair

RATIOS = {"w": np.array([0.0, 0.5, 2.0]), "b": np.zeros(3)}


@pytest.fixture
def pair(make):
    return make(), make("tensorflow")


def legend_of(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def widen(pair, *, apart=0):
    """Give the runs of a pair enough parameters for a histogram, the last of them so many ulps."""
    for record, ulps in zip(pair, (0, apart), strict=True):
        rows = np.ones((3, 60), np.float32)
        rows[-1] = (rows[-1].view(np.int32) + ulps).view(np.float32)
        record.arrays = {"loss": record.arrays["loss"], "param/w": rows}


def test_only_what_was_measured_of_a_pair_is_drawn(pair):
    measured = ladder(ROUNDING, ratios=RATIOS, errors=ERRORS)
    assert set(drawn(draw_parity([(pair, measured)]))) == {"distance", "ladder", "reference"}
    assert draw_parity([(pair, ladder(OPEN))]) == {}  # nothing but NaN
    assert draw_parity([(pair, ladder())]) == {}
    assert draw_parity([]) == {}
    widen(pair, apart=1)
    assert set(draw_parity([(pair, ladder())])) == {"ulp_histogram"}


def test_a_histogram_of_the_same_bits_or_of_few_numbers_says_nothing_of_its_own(pair):
    pair[1].arrays["param/w"] += np.float32(1e-3)
    assert draw_parity([(pair, ladder())]) == {}  # two parameters: each is in the figure ulps
    widen(pair)
    assert draw_parity([(pair, ladder())]) == {}  # 60 times the same bits


def test_distance_is_drawn_over_its_bound_tensor_by_tensor_at_each_step(pair):
    found = ladder(WRONG, findings=(FINDING,), growth=GROWTH, ratios=RATIOS)
    (axes,) = drawn(draw_parity([(pair, found)]))["distance"].axes
    lines = {curve.get_label(): curve for curve in axes.lines}
    np.testing.assert_array_equal(lines["w: at most 2"].get_xydata(), [[1, 0], [2, 0.5], [3, 2]])
    assert not lines["b: always 0"].get_ydata().any()
    assert lines["the bound"].get_ydata() == [1, 1]
    assert lines["first finding (meaning): update, step 3"].get_xdata() == [3, 3]
    assert axes.get_yscale() == "symlog"
    assert axes.get_yticklabels()[0].get_text() == "same bits"
    assert axes.get_ylim()[0] < 0
    place = axes.transData.transform([(1, 0), (2, 0.5), (3, 2)])[:, 1]
    assert place[1] - place[0] > 20  # points: zero is not the smallest number
    assert place[2] - place[1] > 40
    assert axes.get_legend().get_title().get_text() == "FAIL: torch and tensorflow"


def test_of_many_tensors_the_farthest_from_their_bounds_are_drawn_in_order(pair):
    ratios = {f"layer{i}.w": np.full(2, i / 100) for i in range(20)}
    (axes,) = drawn(draw_parity([(pair, ladder(ratios=ratios))]))["distance"].axes
    names = [curve.get_label().split(":")[0] for curve in axes.lines[:7]]
    assert names == [f"layer{i}.w" for i in range(13, 20)]
    assert "7 of 20 tensors" in axes.get_legend().get_title().get_text()


def test_a_distance_that_is_not_finite_ends_its_line_and_is_said(pair):
    ratios = {"w": np.array([0.25, np.inf, np.inf])}
    (axes,) = drawn(draw_parity([(pair, ladder(ratios=ratios))]))["distance"].axes
    assert "w: not finite at step 2" in legend_of(axes)
    assert axes.lines[0].get_xdata().tolist() == [1]
    assert axes.lines[0].get_marker() == "o"  # a line of one point would not be seen


def heat(found, pair):
    figure = drawn(draw_parity([(pair, found)]))["ladder"]
    axes, bar = figure.axes
    texts = {tuple(map(int, t.get_position()[::-1])): t for t in axes.texts}
    return axes, bar, texts, [t.get_text() for t in axes.get_yticklabels()]


def test_a_heat_map_shows_each_tensor_on_each_rung_in_the_order_of_the_model(pair):
    forward = Rung(name="forward", verdict="PASS", tensors={"out.w": np.inf, "lr": 0.0})
    axes, bar, texts, tensors = heat(ladder(ROUNDING, WRONG, OPEN, forward), pair)
    assert tensors == ["out.w", "lr", "out.b", "layer1.w"]
    shown = {place: text.get_text() for place, text in texts.items()}
    assert shown == {
        (0, 2): "∞", (0, 5): "0.5", (2, 5): "73", (3, 6): "0.21", (1, 2): "=", (1, 6): "=",
    }  # fmt: skip
    assert [t.get_text() for t in axes.get_xticklabels()][4:6] == [
        "gradients\nABSTAIN",
        "update\nFAIL",
    ]
    (unjudged,) = axes.collections  # out.b on the gradients
    assert unjudged.get_hatch()
    centre = unjudged.get_datalim(axes.transData).get_points().mean(axis=0)
    np.testing.assert_allclose(centre, [4, 2])
    framed = [curve for curve in axes.lines if len(curve.get_xdata()) == 5]
    assert {(f.get_ydata().mean().round(), f.get_xdata().max().round()) for f in framed} == {
        (0, 2),
        (2, 5),
    }
    image = axes.images[0]
    colours = {place: image.cmap(image.norm(image.get_array()[place])) for place in shown}
    assert colours[2, 5][0] > colours[2, 5][2]  # beyond: more red than blue
    assert sum(colours[0, 2][:3]) < sum(colours[2, 5][:3])  # infinitely far: darkest
    assert colours[0, 2][3] == 1
    assert all(colours[place][2] > colours[place][0] for place in ((0, 5), (3, 6)))
    assert sum(colours[1, 6][:3]) > sum(colours[3, 6][:3])  # the same bits: palest
    assert bar.get_yscale() == "log"


@pytest.mark.parametrize(("pairs", "most"), [(1, 30), (2, 15)])
def test_of_many_tensors_the_farthest_are_in_the_heat_map(pair, pairs, most):
    many = {f"layer{i}.w": i / 100 for i in range(50)}
    found = ladder(Rung(name="update", verdict="PASS", tensors=many))
    figure = drawn(draw_parity([(pair, found)] * pairs))["ladder"]
    labels = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert labels == [f"layer{i}.w" for i in range(50 - most, 50)]
    assert f"{most} of 50 tensors" in figure.axes[0].get_title(loc="left")


def test_numbers_in_a_heat_map_are_short():
    values = (0, 0.00004, 0.0123, 0.5, 8.18, 72.6, 285.4, 999.7, 12345.0, 1e12, np.inf)
    shown = [_times(value) for value in values]
    assert shown == ["=", "<.001", "0.012", "0.5", "8.2", "73", "285", "1000", "1e4", "1e12", "∞"]


def test_errors_of_both_sides_are_drawn_against_the_reference(pair):
    found = ladder(errors=ERRORS, reference="NumPy, longdouble")
    (axes,) = drawn(draw_parity([(pair, found)]))["reference"].axes
    assert legend_of(axes) == [
        "torch: 1.1 at the end, at most 1.5",
        "tensorflow: 2.25 at the end, at most 3",
    ]
    assert "against NumPy, longdouble" in axes.get_legend().get_title().get_text()
    np.testing.assert_array_equal(axes.lines[1].get_xydata(), [[0, 0], [1, 3], [2, 2.25]])
    assert axes.lines[0].get_color() != axes.lines[1].get_color()


def test_ulps_are_counted_in_doubling_bars_without_the_start(make, pair):
    rows = np.ones((11, 10, 10), np.float32)
    other = rows.view(np.int32).copy()
    other[1, 0, :4] += [1, 2, 3, 4]
    other[10, 0, 0] += 100
    for record, kept in zip(pair, (rows, other.view(np.float32)), strict=True):
        record.arrays = {"param/w": kept}
    (axes,) = drawn(draw_parity([(pair, ladder())]))["ulp_histogram"].axes
    every, first, last = (patch.get_data().values for patch in axes.patches)
    np.testing.assert_allclose(every, np.array([995, 1, 2, 1, 0, 0, 0, 1]) / 1000)
    np.testing.assert_allclose(first[:4], np.array([96, 1, 2, 1]) / 100)
    assert last[[0, 7]].tolist() == [0.99, 0.01]
    assert [t.get_text() for t in axes.get_xticklabels()] == [
        "0",
        "1",
        "2",
        "4",
        "8",
        "16",
        "32",
        "64",
    ]
    assert axes.get_xlabel() == "distance in ulps, bins double"
    assert axes.get_ylabel() == "fraction of parameter values"
    assert legend_of(axes) == [
        "all steps: median 0, 99 % within 0, at most 100",
        "step 1: median 0, 99 % within 3, at most 4",
        "step 10: median 0, 99 % within 0, at most 100",
    ]


def test_very_many_numbers_are_sampled_over_all_steps_and_it_is_said(pair, monkeypatch):
    monkeypatch.setattr("pipeline.figures.parity.MOST_SAMPLED", 1000)
    rows = np.ones((101, 100), np.float32)
    for record, last in zip(pair, (1, 1 + 2**-23), strict=True):
        record.arrays = {"param/w": rows.copy()}
        record.arrays["param/w"][-1] = last
    found = count_ulps(*pair)
    assert list(found) == ["all steps, 1000 of 10000", "step 1", "step 100"]
    assert found["all steps, 1000 of 10000"].sum() == 100
    assert found["step 100"].tolist() == [1] * 100
    for record in pair:  # one step alone is too much
        record.arrays["param/w"] = np.ones((3, 5000), np.float32)
    assert len(count_ulps(*pair)["all steps, 1000 of 10000"]) == 1000


def test_one_number_that_is_not_finite_has_its_bar(pair):
    widen(pair)
    pair[1].arrays["param/w"][-1, 0] = np.nan
    (axes,) = drawn(draw_parity([(pair, ladder())]))["ulp_histogram"].axes
    assert "at most inf" in legend_of(axes)[0]
    assert axes.patches[0].get_data().values[-1] > 0


def test_runs_without_comparable_parameters_have_no_histogram(pair):
    pair[1].arrays["param/w"] = pair[1].arrays["param/w"].astype(np.float64)
    assert draw_parity([(pair, ladder())]) == {}


def test_of_many_judged_pairs_the_worst_are_drawn_and_the_rest_counted(make):
    judged = [
        ((make(lr=lr), make("tensorflow", lr=lr)), ladder(errors=ERRORS, reference="x"))
        for lr in range(1, 9)
    ]
    judged[-1] = (judged[-1][0], ladder(WRONG, findings=(FINDING,), errors=ERRORS))
    judged[0] = (judged[0][0], ladder())
    figures = drawn(draw_parity(judged))
    figure = figures["reference"]
    assert len(figure.axes) == 6
    first = figure.axes[0].get_legend().get_title().get_text()
    assert first.startswith("FAIL: torch, optimizer.lr=8 and tensorflow")
    said = "6 of 8 pairs, the worst verdicts first; 2 left out (1 of them for want of numbers)"
    assert figure.get_suptitle() == said
    assert len(figures["ladder"].axes) == 2  # one pair, and its colours


def test_a_picture_that_fails_is_a_warning_and_the_others_are_drawn(
    make, dataset, tmp_path, monkeypatch, capsys
):
    def fail(*args, **kwargs):
        raise ValueError("no\nway")

    monkeypatch.setattr("pipeline.figures.runs.draw_path", fail)
    figures = draw_run(make(), dataset)
    assert list(figures) == ["fit", "loss", "residuals"]
    warning = "twingrad: warning: no picture 'path' (ValueError: no way)\n"
    assert capsys.readouterr().err == warning
    monkeypatch.setattr(figures["fit"], "set_dpi", fail)
    written = save_figures(figures, tmp_path, formats=["png"])
    assert [path.stem for path in written] == ["loss", "residuals"]
    assert "no picture 'fit.png'" in capsys.readouterr().err
    assert list(list_saved(figures, tmp_path, formats=["png"])) == ["loss", "residuals"]


def test_the_loss_behind_a_path_takes_no_more_memory_for_more_samples(make, dataset):
    """All samples of 3·10⁷ times 90 columns of the grid were 20 GiB."""
    few = {k: v[:1] if "train" in k else v for k, v in dataset.arrays.items()}
    many = {k: np.broadcast_to(v, (10**7, *v.shape[1:])) if "train" in k else v
            for k, v in few.items()}  # fmt: skip
    large = dataclasses.replace(dataset, arrays=many)
    tracemalloc.start()
    figure = new_figure(4, 4)
    draw_path(figure.add_subplot(), curves=style_curves([make()]), dataset=large)
    assert tracemalloc.get_traced_memory()[1] < 2e8
    tracemalloc.stop()
    assert any("every 500th sample" in text for text in legend(figure))
