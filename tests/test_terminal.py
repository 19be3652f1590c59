from __future__ import annotations

import dataclasses
import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from pipeline import terminal
from pipeline.parity.verdict import Accepted
from pipeline.report.sentences import tell_leftovers, tell_summary, tell_training_end
from tests.report.test_page import (
    ERRORS,
    FINDING,
    GROWTH,
    OPEN,
    ROUNDING,
    UNJUDGED,
    WRONG,
    classifier,
    ladder,
    make,
    own_starts,
    scalars,
)


def test_a_classifiers_table_has_its_scores_and_no_empty_line(capsys):
    terminal.run(classifier(accuracy=349 / 359, log_loss=0.125))
    shown = capsys.readouterr().out
    assert "97.21 %" in shown
    assert "0.125" in shown
    assert "µs/step" in shown
    assert "MSE" not in shown
    assert "–" not in shown


@pytest.mark.parametrize("runs", [2, 3])
def test_a_comparison_says_what_stood_in_for_the_parameters(capsys, runs):
    records = [scalars(), scalars("tensorflow", w=2.0**-23), scalars("numpy")][:runs]
    where = "compare.runs=[" + "a" * 200 + "]"
    unjudged = dataclasses.replace(OPEN, why=f"{OPEN.why} {where}")
    result = SimpleNamespace(
        records=records, pairs=[records[:2]], ladders=[ladder(unjudged)], alone=records[2:],
        board=([], []), equal={}, unreadable={}, by_seeds=(),
    )  # fmt: skip
    terminal.comparison(result, notes=[])
    shown = capsys.readouterr().out
    assert "w, at the end" in shown
    assert "2×1" in shown
    # A bracket is no markup, and a command stays in one line.
    sentence = "ABSTAIN: gradients cannot be judged: other bits, and no evidence; "
    assert f"{sentence}python -m pipeline 'stages=[probe]' {where}.\n" in shown
    assert ("Without a partner: numpy" in shown) == (runs == 3)


@pytest.mark.parametrize(("runs", "shown"), [(40, 40), (41, 20)])
def test_of_hundreds_of_runs_the_first_are_listed(capsys, runs, shown):
    rows = [[f"setting {i}", "0.5"] for i in range(runs)]
    result = SimpleNamespace(
        records=[scalars()], pairs=[], ladders=[], alone=[], board=(["lr", "mse"], rows),
        equal={}, unreadable={}, by_seeds=(),
    )  # fmt: skip
    terminal.comparison(result, notes=[])
    text = capsys.readouterr().out
    assert text.count("setting") == shown
    assert (f"{runs - shown} more are in the report." in text) == (runs > shown)


@pytest.mark.parametrize("width", [60, 80, 110, 200])
def test_numbers_of_a_table_of_runs_stay_whole_in_a_narrow_terminal(width):
    header = ["run", "w", "|w − true|", "first loss", "last loss", "test MSE", "µs/step"]
    rows = [[f"torch, optimizer.lr=0.001, seed={i}", "0.0965395570", "0.00346", "0.748712",
             "0.0753334", "0.0762353", "71.9"] for i in range(3)]  # fmt: skip
    out = Console(width=width, file=io.StringIO())
    terminal._runs(out, header, rows)
    shown = out.file.getvalue()
    assert max(map(len, shown.splitlines())) <= width
    left = " ".join(shown.partition("too wide for here: ")[2].split()).rstrip(".").split(", ")
    assert [name in left for name in header] == [
        False, False, width < 110, width < 110, False, False, width < 80
    ]  # fmt: skip
    for name, number in zip(header[1:], rows[0][1:], strict=True):
        assert shown.count(number) == (0 if name in left else 3)


def test_leftovers_stay_a_line():
    named = [f"run {i}" for i in range(100)]
    assert tell_leftovers(named[:2], pairs=1) == "Without a partner: run 0; run 1"
    assert tell_leftovers(named, pairs=1).endswith("run 7; 92 more are in parity.json")
    assert tell_leftovers(named, pairs=0).startswith("No two of the 100 runs are a pair")
    assert tell_leftovers(["torch"], pairs=0) == "Without a partner: torch"


def printed(monkeypatch, capsys, found, *, width, color_system=None, show="all"):
    """What a terminal of some columns shows of a ladder."""
    out = Console(width=width, force_terminal=True, color_system=color_system, _environ={})
    monkeypatch.setattr(terminal, "console", lambda: out)
    pair = scalars(), scalars("tensorflow")
    result = SimpleNamespace(
        records=pair,
        pairs=[pair],
        ladders=[found],
        alone=[],
        board=([], []),
        equal={},
        unreadable={},
        by_seeds=(),
    )
    terminal.comparison(result, notes=[], show=show)
    return capsys.readouterr().out


LONG = ladder(
    ROUNDING, OPEN, WRONG, findings=(FINDING,), growth=GROWTH, errors=ERRORS,
    reference="NumPy, longdouble", notes=tuple(f"note {i}" for i in range(7)),
)  # fmt: skip


@pytest.mark.parametrize("width", [100, 160])
def test_a_ladder_has_a_line_a_rung_and_then_what_it_comes_to(monkeypatch, capsys, width):
    shown = printed(monkeypatch, capsys, LONG, width=width)
    lines = [line.rstrip() for line in shown.splitlines()]
    assert max(map(len, lines)) <= width
    rungs = {line.split()[0]: line.split() for line in lines if line[1:2].islower()}
    cells = rungs["trajectory"]
    assert cells[1:7] == ["PASS", "rounding", "layer1.w", "15", "2e-07", "9.5e-07"]
    assert rungs["update"][1:7] == ["FAIL", "meaning", "out.b", "3", "6.9e-05", "9.5e-07"]
    text = " ".join(" ".join(lines).split())
    assert "FAIL: The first difference of meaning is in update at step 3: out.b[9] is 1" in text
    assert "Distance over the steps: linear, as rounding adds up." in text
    assert "torch is at most 1.5 ulp off (last step 1.1), tensorflow 3 (2.25)." in text
    assert "note 4 Note: 2 more notes are in parity.json" in text
    assert "note 5" not in text
    assert "Gradients: python -m pipeline 'stages=[probe]'." in text
    below = "Bounds from: noise floor (update, trajectory)."
    assert (below in text) == (width == 100)
    assert ("bound from" in text) == (width == 160)
    assert "each step from equal" not in text  # too long for either


def test_verdicts_are_coloured_on_a_terminal_only(monkeypatch, capsys):
    shown = printed(monkeypatch, capsys, LONG, width=100, color_system="standard")
    for code, verdict in (("32", "PASS"), ("33", "ABSTAIN"), ("1;31", "FAIL")):
        assert f"\x1b[{code}m{verdict}" in shown
    assert "\x1b" not in printed(monkeypatch, capsys, LONG, width=100)


def test_columns_that_no_rung_fills_are_left_out(monkeypatch, capsys):
    shown = printed(monkeypatch, capsys, ladder(), width=100)
    assert "PASS: The runs are the same in every bit that was compared." in shown
    header = next(line for line in shown.splitlines() if "verdict" in line)
    assert header.split() == ["rung", "verdict", "by", "why"]
    assert "Bounds from" not in shown
    assert "Note" not in shown


def test_a_pair_that_passes_is_one_line_and_one_that_does_not_is_not(monkeypatch, capsys):
    shown = printed(monkeypatch, capsys, ladder(ROUNDING), width=100, show="auto")
    line = next(line for line in shown.splitlines() if line.startswith("PASS"))
    assert line.startswith("PASS  torch against tensorflow: at most 0.21 of a bound (trajectory")
    assert "rung" not in shown
    assert "rung" in printed(monkeypatch, capsys, LONG, width=100, show="auto")


def test_a_folded_line_hides_nothing_that_is_to_know(monkeypatch, capsys):
    def line(found):
        shown = printed(monkeypatch, capsys, found, width=200, show="auto")
        return next(
            (line.strip() for line in shown.splitlines() if line.startswith("PASS  ")), None
        )

    assert line(ladder()).endswith("against tensorflow: the same bits on every rung")
    rung = dataclasses.replace(ROUNDING, by="tolerance", distance=None, bound=None)
    assert line(ladder(rung)).endswith("against tensorflow: by tolerance")
    assert line(ladder(ROUNDING, notes=("a", "b"))).endswith("; 2 notes, with parity.show=all")
    proved = ladder(ROUNDING, facts={"prove": {"native": 1e-6, "float64": 1e-15, "ratio": 1e9}})
    assert line(proved) is None  # who asked for it sees the whole ladder
    known = (Accepted(name="update", reason="Keras", rungs=("update",)),)
    assert "; accepted: update" in line(ladder(ROUNDING, accepted=known))


def test_the_last_line_counts_verdicts_and_names_the_best():
    counted = {"over_seeds": [], "runs": 8, "unfinished": 0, "best": ""}
    assert tell_summary(["PASS"] * 4, **counted) == "4 pairs: 4 PASS"
    assert tell_summary(["PASS", "FAIL", "PASS"], **counted) == "3 pairs: 2 PASS, 1 FAIL"
    both = tell_summary(["FAIL"], **counted | {"over_seeds": ["PASS"]})
    assert both == "1 pair: 1 FAIL; 1 test over seeds: 1 PASS"
    rest = counted | {"unfinished": 2, "best": "best optimizer.lr=0.1 (eval/mse 1), run a"}
    assert tell_summary([], **rest) == (
        "8 runs; 2 not finished; best optimizer.lr=0.1 (eval/mse 1), run a"
    )


def test_a_training_that_validated_says_its_best_epoch_and_an_early_stop():
    about = {
        "config": {"train": {"epochs": 10, "patience": 3}}, "updates_per_epoch": 4,
        "best": {"step": 12, "score": "mse", "mse": 0.25},
    }  # fmt: skip
    assert tell_training_end(about, steps=40) == "best val/mse 0.25 after epoch 3 (step 12)"
    assert tell_training_end(about, steps=24) == (
        "stopped early after epoch 6 of 10, as the last 3 scores were no better; "
        "best val/mse 0.25 after epoch 3 (step 12)"
    )
    assert tell_training_end({"best": None}, steps=24) == ""


def test_a_progress_line_has_the_validation_score(capsys):
    with terminal.progress(100) as told:
        told(20, 0.5, None)
        told(40, 0.25, ("accuracy", 0.75))
    assert capsys.readouterr().out.splitlines() == [
        "step  20/100  loss 0.5", "step  40/100  loss 0.25  val/accuracy 0.75",
    ]  # fmt: skip


def test_pairs_of_a_sweep_are_told_apart(capsys):
    records = [make(backend, lr=lr) for lr in (1, 2) for backend in ("torch", "tensorflow")]
    pairs = [records[:2], records[2:]]
    result = SimpleNamespace(
        records=records,
        pairs=pairs,
        ladders=[ladder(), ladder()],
        alone=[],
        board=([], []),
        equal={},
        unreadable={},
        by_seeds=(),
    )
    terminal.comparison(result, notes=[])
    shown = capsys.readouterr().out
    for lr in (1, 2):
        assert f"torch, optimizer.lr={lr} against tensorflow" in shown


def told(capsys, by_seeds, ladders, notes=()):
    """The lines that a comparison of so many pairs with verdicts over seeds prints."""
    a, b = make(), make("tensorflow")
    result = SimpleNamespace(
        records=[a, b], pairs=[(a, b)] * len(ladders), ladders=ladders, alone=[], board=([], []),
        equal={group.title: group.test for group in by_seeds}, unreadable={"C": "was altered"},
        by_seeds=by_seeds,
    )  # fmt: skip
    terminal.comparison(result, notes=notes)
    return capsys.readouterr().out.rstrip().splitlines()


def test_of_own_starts_the_verdict_over_seeds_is_the_last_line_and_no_ladder_is_shown(capsys):
    group = own_starts()
    lines = told(capsys, [group], [UNJUDGED] * 5, notes=["lr=3 FAILED"])
    assert lines[-1] == f"PASS: {group.sentence}"
    assert not any("ABSTAIN" in line for line in lines)
    assert not any("drew its own start" in line for line in lines)
    assert sum("equivalent: " in line for line in lines) == 1


def test_ladders_of_other_pairs_are_shown_beside_verdicts_over_seeds(capsys):
    lines = told(capsys, [own_starts()], [*[UNJUDGED] * 5, ladder(WRONG)])
    assert any("72.6 times its bound" in line for line in lines)
    assert lines[-1].startswith("PASS: eval/mse")


def test_of_several_groups_the_last_line_is_the_worst(capsys):
    kinds = ["FAIL", "PASS", "ABSTAIN"]
    groups = [own_starts(kind, covers=(), title=f"mse {kind}") for kind in kinds]
    lines = told(capsys, groups, [])
    assert [line.split(":")[0] for line in lines[-3:]] == ["PASS", "ABSTAIN", "FAIL"]
    many = [own_starts("PASS", covers=(), title=f"mse {i}") for i in range(100)]
    lines = told(capsys, [groups[0], *many], [])
    assert sum(line.startswith(("PASS", "FAIL")) for line in lines) == 20
    assert lines[-1].startswith("FAIL")
    assert "  81 more verdicts are in the report." in lines
