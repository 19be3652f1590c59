from __future__ import annotations

import itertools

import numpy as np
import pytest
from tiers import tiered

from pipeline.figures.curves import style_curves
from pipeline.figures.runs import draw_comparison
from pipeline.figures.settings import list_settings, name_shortly, round_numbers, select_spread
from pipeline.figures.sweeps import draw_sweep


@pytest.fixture
def member(make):
    """A run of a sweep; with a score of None it diverged."""

    def run(backend="numpy", *, lr=0.001, seed=0, mse=0.5, steps=30, **settings):
        record = make(backend, lr=lr, steps=steps)
        record.about["config"] |= {"seed": seed} | settings
        scores = {} if mse is None else {"mse": mse}
        status = "FAILED" if mse is None else "FINISHED"
        record.about |= {"status": status, "scores": scores, "time": {"train_s": 0.5 + seed}}
        if mse is None:
            record.about["message"] = "the loss became inf at step 26 (learning rate 0.1)"
            record.arrays["loss"][-2:] = [1e30, np.inf]
            del record.arrays["prediction"]
        return record

    return run


def sweep_rates(member, count, **changes):
    """Runs over rates that spread evenly; the best is the one nearest to 0.02."""
    rates = np.geomspace(1e-5, 1e-1, count)
    scores = [None if r > 0.05 else 0.02 + np.log10(r / 0.02) ** 2 for r in rates.tolist()]
    return [member(lr=r, mse=s, **changes) for r, s in zip(rates.tolist(), scores, strict=True)]


def legend_of(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def list_overlapping(figure):
    """Return the pairs of tick labels of one axis that lie on each other."""
    figure.draw_without_rendering()
    overlapping = []
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = axis.get_major_ticks() + axis.get_minor_ticks()
            # A hair of the interval: of a logarithmic axis too.
            labels = [
                t.label1 for t in ticks if low * (1 - 1e-9) <= t.get_loc() <= high * (1 + 1e-9)
            ]
            boxes = [(label.get_text(), label.get_window_extent()) for label in labels
                     if label.get_text() and label.get_visible() and not label.get_rotation()]  # fmt: skip
            overlapping += [(a, b) for (a, one), (b, other) in itertools.combinations(boxes, 2)
                            if one.overlaps(other)]  # fmt: skip
    return overlapping


def bars_of(figure):
    return [axes for axes in figure.axes if axes.get_label() == "<colorbar>"]


# One backend, a number swept


def test_the_runs_of_one_backend_are_coloured_by_a_number_on_a_scale(member, dataset):
    runs = sweep_rates(member, 8)
    figures = draw_comparison(runs, dataset, pairs=[])
    (bar,) = bars_of(figures["loss"])
    assert bar.get_ylabel() == "optimizer.lr"
    assert bar.get_yscale() == "log"
    colours = [style["color"] for _, style in style_curves(runs)]
    assert len(set(map(tuple, colours))) == 8
    brightness = [sum(colour[:3]) for colour in colours]
    assert brightness == sorted(brightness)  # a scale steps through the greys too
    assert all(len(bars_of(figures[name])) == 1 for name in ("fit", "path", "residuals"))


def test_several_backends_keep_their_colours(member, dataset):
    runs = [member(b, lr=lr) for b in ("torch", "tensorflow") for lr in (0.1, 0.2)]
    figure = draw_comparison(runs, dataset, pairs=[])["loss"]
    assert bars_of(figure) == []
    assert len({line.get_color() for line in figure.axes[0].lines[:4]}) == 2


def test_names_that_were_swept_have_colours_and_a_legend(member, dataset):
    runs = [member(optimizer={"name": n, "lr": 0.1}) for n in ("gd", "adam", "rmsprop")]
    figure = draw_comparison(runs, dataset, pairs=[])["loss"]
    assert bars_of(figure) == []
    named = [text for text in legend_of(figure.axes[0]) if "optimizer=" in text]
    assert len(named) == 3
    assert len({line.get_color() for line in figure.axes[0].lines[:3]}) == 3
    cost = draw_sweep(runs)["cost"].axes[0]
    assert legend_of(cost)[:3] == [f"numpy, optimizer={n}" for n in ("gd", "adam", "rmsprop")]


def test_of_fifty_rates_the_best_one_is_found_in_every_picture(member, dataset):
    runs = sweep_rates(member, 50)
    best = min((run for run in runs if run.about["scores"]), key=lambda r: r.about["scores"]["mse"])
    said = f"best: optimizer.lr={best.config['optimizer']['lr']:.3g} (mse 0.02"
    figures = draw_comparison(runs, dataset, pairs=[]) | draw_sweep(runs)
    for name in ("loss", "fit", "path", "residuals", "sensitivity", "cost"):
        assert any(text.startswith(said) for text in legend_of(figures[name].axes[0])), name
    axes = figures["sensitivity"].axes[0]
    (star,) = [c for c in axes.collections if c.get_label().startswith("best")]
    np.testing.assert_allclose(
        star.get_offsets(), [(best.config["optimizer"]["lr"], best.about["scores"]["mse"])]
    )
    loss = figures["loss"].axes[0]
    widest = max(loss.lines, key=lambda line: line.get_linewidth())
    assert widest.get_label().startswith(said)


def test_of_many_settings_the_best_and_evenly_spread_ones_are_drawn(member, dataset):
    runs = sweep_rates(member, 50)
    chosen = select_spread(runs)
    assert len(chosen) == 12
    assert min(runs, key=lambda r: r.about["scores"].get("mse", np.inf)) in chosen
    places = [next(i for i, run in enumerate(runs) if run is one) for one in chosen]
    assert (places[0], places[-1]) == (0, 49)
    assert max(np.diff(places)) <= 5
    figure = draw_comparison(runs, dataset, pairs=[])["loss"]
    assert figure.get_suptitle() == "12 of 50 settings: the best and evenly spread ones"
    assert "curves" not in draw_sweep(runs)  # the colours of the figure loss tell them apart
    assert select_spread(runs[:12]) == runs[:12]


def test_runs_that_diverged_stand_at_the_edge_and_squeeze_nobody(member, dataset):
    runs = sweep_rates(member, 8)
    lost = [run for run in runs if not run.about["scores"]]
    runs[5].arrays["loss"][-1] = 1e20  # finite, and as lost as the others
    runs[5].about["scores"]["mse"] = 1e22
    figures = draw_sweep(runs)
    for figure in (figures["sensitivity"], figures["cost"]):
        axes = figure.axes[0]
        figure.draw_without_rendering()
        (crosses,) = [c for c in axes.collections if c.get_label() == "diverged"]
        places = crosses.get_offsets()
        assert len(places) == len(lost) + 1
        np.testing.assert_allclose(places[:, 1], axes.get_ylim()[1])
        low, high = axes.get_xlim()
        assert all(low <= place <= high for place in places[:, 0])
        assert axes.get_ylim()[1] < 100
    assert figures["sensitivity"].axes[0].get_yscale() == "log"
    drawn = draw_comparison(runs, dataset, pairs=[])
    assert drawn["loss"].axes[0].get_ylim()[1] < 100
    assert {"diverged", "ended: loss not finite"} <= set(legend_of(drawn["loss"].axes[0]))
    assert "2 runs diverged: beyond" in legend_of(drawn["residuals"].axes[0])
    assert "2 runs diverged: beyond" in legend_of(drawn["path"].axes[0])


# Several backends


def test_a_dot_stands_for_each_run_and_the_rates_are_on_a_logarithmic_axis(member):
    rates = (0.001, 0.01, 0.1)
    backends = ("torch", "tensorflow")
    runs = [member(b, lr=lr, mse=1 + i + lr) for i, b in enumerate(backends) for lr in rates]
    figures = draw_sweep(runs)
    assert list(figures) == ["sensitivity", "cost"]  # of six runs the figure loss has markers
    (axes,) = figures["sensitivity"].axes  # one of the backends would show the same scores again
    assert axes.get_xlabel() == "optimizer.lr"
    dots = np.concatenate([c.get_offsets() for c in axes.collections if c.get_label() in backends])
    assert sorted(map(tuple, dots.tolist())) == sorted(
        (lr, 1 + i + lr) for i in range(2) for lr in rates
    )
    assert axes.get_xscale() == "log"
    joined = [line for line in axes.lines if len(line.get_xdata()) == 3]
    assert len(joined) == 2
    assert all((np.diff(line.get_xdata()) > 0).all() for line in joined)
    assert all(line.get_marker() == "None" for line in joined)  # one marker a run: its dot
    cost = [c.get_offsets() for c in figures["cost"].axes[0].collections]
    assert sorted({float(y) for offsets in cost for _, y in offsets}) == sorted(
        run.about["scores"]["mse"] for run in runs
    )
    assert legend_of(figures["cost"].axes[0])[:2] == ["torch", "tensorflow"]


def test_names_are_not_joined_by_lines(member):
    runs = [
        member(b, optimizer={"name": n, "lr": 0.1}, mse=i + 1.0)
        for b in ("torch", "tensorflow")
        for i, n in enumerate(("gd", "adam", "rmsprop"))
    ]
    (axes,) = draw_sweep(runs)["sensitivity"].axes
    assert axes.lines == [] or len(axes.lines) == 0
    assert [t.get_text() for t in axes.get_xticklabels()] == ["gd", "adam", "rmsprop"]


def test_a_sweep_over_many_rates_and_backends_has_a_panel_for_each_setting(member):
    runs = [r for b in ("torch", "tensorflow") for r in sweep_rates(member, 20, backend=b)]
    figure = draw_sweep(runs)["curves"]
    assert len(figure.axes) == 12
    assert all(len(axes.lines) == 2 for axes in figure.axes)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[1] == "optimizer.lr=2.64e-05"
    bold = [a for a in figure.axes if a._left_title.get_weight() == "bold"]
    assert [a.get_title(loc="left") for a in bold] == ["optimizer.lr=0.0234"]
    assert "12 of 20 settings" in figure.legends[0].get_title().get_text()
    assert "best: torch, optimizer.lr=0.0234" in figure.legends[0].get_title().get_text()
    top = figure.axes[0].get_ylim()[1]
    assert top < 100
    last = figure.axes[-1].collections  # diverged, in both
    assert [c.get_offsets()[0, 1] for c in last] == [top, top]


def test_a_sweep_over_seeds_has_no_curves_of_its_own(member):
    both = [member(b, seed=s, mse=s + 1) for b in ("torch", "tensorflow") for s in range(3)]
    assert list(draw_sweep(both)) == ["sensitivity", "cost"]
    assert "best: torch, seed=0 (mse 1)" in legend_of(draw_sweep(both)["cost"].axes[0])
    assert list(draw_sweep(both[:3])) == ["cost"]
    assert draw_sweep(both[:2]) == {}


# What is left out, and what is written


def test_a_setting_that_repeats_another_has_no_panel(member):
    optimizers = {"gd": 0.1, "adam": 0.001, "rmsprop": 0.01}
    runs = [member(optimizer={"name": n, "lr": lr}) for n, lr in optimizers.items()]
    assert list(list_settings(runs)) == ["optimizer.name"]
    scaled = [member(lr=0.01 * k, batch=32 * k) for k in (1, 2, 4)]
    assert list(list_settings(scaled)) == ["optimizer.lr"]
    crossed = [member(lr=lr, batch=b) for lr in (0.1, 0.2) for b in (32, 64)]
    assert list(list_settings(crossed)) == ["optimizer.lr", "batch"]
    searched = [member(lr=lr, batch=b) for lr, b in ((0.1, 64), (0.2, 16), (0.3, 32))]
    assert list(list_settings(searched)) == ["optimizer.lr", "batch"]
    assert [a.get_xlabel() for a in draw_sweep(crossed)["sensitivity"].axes] == [
        "optimizer.lr",
        "batch",
    ]


def test_there_is_no_empty_frame(member, dataset):
    lost = member(mse=None)
    lost.arrays["loss"][:] = np.nan
    assert "loss" not in draw_comparison([lost], dataset, pairs=[])
    lost.arrays |= {"val/step": np.array([1, 2]), "val/mae": np.full(2, np.nan)}
    assert "validation" not in draw_comparison([lost], dataset, pairs=[])
    runs = sweep_rates(member, 4)
    for run in runs:
        run.about["time"] = {}
    assert "cost" not in draw_sweep(runs)
    runs = [r for b in ("torch", "tensorflow") for r in sweep_rates(member, 5, backend=b)]
    for run in runs[:1] + runs[5:6]:
        run.arrays["loss"][:] = np.nan
    assert all(len(axes.lines) for axes in draw_sweep(runs)["curves"].axes)


def test_a_run_of_one_step_is_seen(member, dataset):
    run = member(steps=1)
    (curve,) = [c for c in draw_comparison([run], dataset, pairs=[])["loss"].axes[0].lines
                if c.get_label() == "numpy"]  # fmt: skip
    assert curve.get_marker() == "o"
    run.arrays |= {name: run.arrays[name][:1] for name in ("param/w", "param/b")}
    path = draw_comparison([run], dataset, pairs=[])["path"].axes[0]
    assert [c.get_label() for c in path.collections if c.get_label() in ("start", "end")] == ["end"]


def test_rates_are_rounded_where_that_tells_runs_apart(member):
    assert round_numbers("optimizer.lr=1.2067926e-05, batch=1024") == (
        "optimizer.lr=1.21e-05, batch=1024"
    )
    runs = [member(lr=lr) for lr in (0.0123456, 0.0654321)]
    assert name_shortly(runs) == ["numpy, optimizer.lr=0.0123", "numpy, optimizer.lr=0.0654"]
    runs = [member(lr=lr) for lr in (0.0123456, 0.0123457)]
    assert name_shortly(runs) == ["numpy, optimizer.lr=0.0123456", "numpy, optimizer.lr=0.0123457"]


@pytest.mark.parametrize(
    ("scores", "seconds"),
    tiered(
        [
            ((0.021, 0.031), (0.1, 3.0)),
            ((0.02, 0.5), (0.0027, 0.0067)),
            ((1e-5, 10.0), (1.0, 1e5)),
            ((0.5, 0.5001), (1.0, 1.001)),
        ],
        short=lambda number, _: number == 0,
    ),
)
def test_no_tick_label_lies_on_another(member, dataset, scores, seconds):
    rates = np.geomspace(1e-4, 3e-2, 10)
    runs = [member(b, lr=lr) for b in ("torch", "tensorflow") for lr in rates.tolist()]
    for runs_of in (runs, runs[:10]):
        for i, run in enumerate(runs_of):
            part = i / (len(runs_of) - 1)
            mse = float(scores[0] ** (1 - part) * scores[1] ** part)
            run.about |= {"scores": {"mse": mse}}
            run.about["time"] = {"train_s": seconds[0] ** (1 - part) * seconds[1] ** part}
            run.arrays["loss"] = np.geomspace(scores[1], scores[0], 30)
        figures = draw_sweep(runs_of) | draw_comparison(runs_of, dataset, pairs=[])
        for name, figure in figures.items():
            assert list_overlapping(figure) == [], name
