from __future__ import annotations

import base64
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from pipeline.leaderboard import SeedVerdict
from pipeline.parity import distance
from pipeline.parity.equivalence import equivalence
from pipeline.parity.growth import Growth
from pipeline.parity.verdict import RUNGS, Finding, Ladder, Rung
from pipeline.record.record import RunRecord
from pipeline.report.markdown import describe_sweep, tell_command
from pipeline.report.page import render_page
from pipeline.report.sentences import tell_beside
from pipeline.report.tables import (
    summarise_pair,
    summarise_runs,
    tabulate_ladder,
    tabulate_verdicts,
)

PNG = b"\x89PNG\r\n\x1a\n not really"


def make(backend="torch", *, dtype="float32", lr=0.001, **about):
    w = np.array([0.0, 0.05, 1 / 11], dtype)
    b = np.array([0.1, 0.2, 0.3], dtype)
    config = {
        "data": {"name": "linear"},
        "loss": {"name": "mse"},
        "optimizer": {"name": "gd", "lr": lr},
        "train": {"loop": "manual", "epochs": 2},
        "backend": {"name": backend, "dtype": dtype},
        "seed": 0,
    }
    known = {
        "config": config,
        "status": "FINISHED",
        "message": "",
        "versions": {backend: "1.2.3", "numpy": "2.0"},
        "data": {"digest": "ab" * 32, "facts": {"truth": {"w": 0.1, "b": 0.3}, "noise": 0.1}},
        "least_squares": {"w": [[0.09]], "b": [0.31]},
        "scores": {"mse": 0.0225123456},
        "time": {"step_us": 72.34},
    }
    arrays = {
        "loss": np.array([0.5, 0.25], dtype),
        "param/w": w,
        "param/b": b,
        "last/w": w[-1],
        "last/b": b[-1],
    }
    return RunRecord(about=known | about, arrays=arrays)


def cells(records, row=0):
    header, rows = summarise_runs(records)
    assert all(len(each) == len(header) for each in rows)
    return dict(zip(header, rows[row], strict=True))


def html(records, **changes):
    given = {"pairs": [], "images": {}, "title": "A title", "notes": []} | changes
    given = {"ladders": [ladder() for _ in given["pairs"]]} | given
    return render_page(records, **given)


def ladder(*rungs, **changes):
    """A ladder of given rungs among others that pass by bits."""
    own = {rung.name: rung for rung in rungs}
    given = {
        "a": "torch", "b": "tensorflow", "findings": (), "growth": None, "distances": {},
        "errors": {}, "reference": "", "notes": (), "facts": {},
    }  # fmt: skip
    bits = [
        Rung(name=n, verdict="PASS", by="bits", source="bits", why="the same bits") for n in RUNGS
    ]
    found = tuple(own.get(rung.name, rung) for rung in bits)
    return Ladder(rungs=found, **given | changes)


ROUNDING = Rung(
    name="trajectory", verdict="PASS", by="rounding", tensor="layer1.w", step=15, distance=2e-7,
    bound=9.54e-7, source="noise floor, each step from equal states", why="0.21 of the bound",
    tensors={"layer1.w": 0.21, "lr": 0.0},
)  # fmt: skip
WRONG = Rung(
    name="update", verdict="FAIL", kind="meaning", tensor="out.b", step=3, distance=6.9e-5, bound=9.5e-7,
    source="noise floor", why="72.6 times its bound, and 6.9e-05 apart in float64",
    tensors={"out.b": 72.6, "out.w": 0.5},
)  # fmt: skip
OPEN = Rung(
    name="gradients", verdict="ABSTAIN", tensor="out.b", step=1, distance=1e-7,
    source="noise floor", why="other bits, and no evidence; python -m pipeline 'stages=[probe]'",
    tensors={"out.b": np.nan},
)  # fmt: skip
FINDING = Finding(
    kind="meaning", rung="update", phase="update", step=3, tensor="out.b", index=(9,), a=1.0, b=2.0, absolute=1.0,
    relative=0.5, ulp=8388608.0, agreed="data, init",
)  # fmt: skip
GROWTH = Growth(kind="power", rate=0.67, step=None, text="linear, as rounding adds up")
ERRORS = {"a": np.array([0.0, 1.5, 1.1]), "b": np.array([0.0, 3.0, 2.25])}


def test_a_ladders_table_has_a_row_a_rung_and_its_numbers():
    header, rows = tabulate_ladder(ladder(ROUNDING, OPEN))
    assert [row[0] for row in rows] == list(RUNGS)
    assert dict(zip(header, rows[6], strict=True)) == {
        "rung": "trajectory", "verdict": "PASS", "by": "rounding", "tensor": "layer1.w",
        "step": "15", "distance": "2e-07", "bound": "9.5e-07",
        "bound from": "noise floor, each step from equal states", "why": "0.21 of the bound",
    }  # fmt: skip
    bits, unjudged = (dict(zip(header, rows[i], strict=True)) for i in (0, 4))
    assert (bits["distance"], bits["bound from"]) == ("", "")
    assert unjudged["bound from"] == ""  # there was none


def test_what_was_measured_beside_a_verdict_is_said():
    checked = {"central differences": {"w": 5e-12}, "largest": 5e-12, "hand-derived": {"w": 2e-16}}
    facts = {
        "prove": {"native": 3.6e-8, "float64": 1.2e-16, "ratio": 3e8},
        "gradcheck": {"a": checked, "b": {"why": "this loop hands out no gradients"}},
    }
    found = ladder(growth=GROWTH, errors=ERRORS, reference="NumPy, longdouble", facts=facts)
    assert tell_beside(found) == [
        "Distance over the steps: linear, as rounding adds up.",
        "Against NumPy, longdouble: torch is at most 1.5 ulp off (last step 1.1), "
        "tensorflow 3 (2.25). torch is nearer.",
        "Both again in float64: at most 1.2e-16 apart; as they were run 3.6e-08, 3e+08 times as far "
        "(rounding in float32 alone gives about 5e+08).",
        "Gradients of torch: at most 5e-12 from central differences, 2e-16 from those derived by hand.",
        "Gradients of tensorflow: not checked, this loop hands out no gradients.",
    ]
    assert tell_beside(ladder()) == []


@pytest.mark.parametrize(
    ("b", "said"),
    [
        ([0, 1.0, 0.5], "tensorflow is nearer."),
        ([0, 1.45, 1.0], "Neither is clearly nearer."),
        ([0, 1.0, 1.1], "Neither is clearly nearer."),
        ([0, np.inf, np.inf], "torch is nearer."),
        ([0, 1.0, np.nan], "Neither is clearly nearer."),
    ],
)
def test_nearer_is_who_is_so_at_most_and_at_the_end(b, said):
    errors = {"a": ERRORS["a"], "b": np.array(b)}
    assert tell_beside(ladder(errors=errors, reference="x"))[0].endswith(said)


def test_a_pairs_ladder_is_in_the_file_with_its_verdict_coloured():
    notes = tuple(f"note {i}" for i in range(7))
    found = ladder(ROUNDING, OPEN, WRONG, findings=(FINDING,), growth=GROWTH, errors=ERRORS,
                   reference="NumPy, longdouble", notes=notes)  # fmt: skip
    text = html([make(), make("tensorflow")], pairs=[(make(), make("tensorflow"))], ladders=[found])
    assert text.count('<td class="FAIL">FAIL</td>') == 1
    assert text.count('<td class="ABSTAIN">ABSTAIN</td>') == 1
    assert text.count('<td class="PASS">PASS</td>') == 6
    assert re.search(r'<span class="FAIL">FAIL</span>\s+torch against tensorflow', text)
    for expected in ("out.b[9] is 1 in torch and 2 in tensorflow", "72.6 times its bound",
                     "linear, as rounding adds up", "torch is nearer", "note 6",
                     "Notes (7)", "noise floor, each step from equal states"):  # fmt: skip
        assert expected in text
    assert "<details>\n<summary>Notes" in text  # many are folded, few are not
    few = html([make()], pairs=[(make(), make("tensorflow"))], ladders=[ladder(notes=("one",))])
    assert "<details open>\n<summary>Notes (1)" in few
    for name in ("PASS", "FAIL", "ERROR", "ABSTAIN"):
        assert f".{name}" in text
    assert not Parsed(text).open


def test_every_figure_of_a_pair_has_a_caption():
    for name in ("distance", "ladder", "reference", "ulp_histogram", "ulps"):
        assert f"{name} (1a2b): {name}" not in html([make()], images={f"{name} (1a2b)": PNG})


def test_importing_loads_no_matplotlib_mlflow_or_framework():
    names = ("matplotlib", "mlflow", "torch", "tensorflow")
    code = f"import sys; import pipeline.report; print([n for n in {names} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_parameters_are_written_so_that_their_bits_can_be_read_back(dtype):
    record = make(dtype=dtype)
    text = cells([record])["w"]
    assert np.dtype(dtype).type(text) == record.arrays["last/w"]
    assert len(text.lstrip("0.")) <= {"float32": 9, "float64": 17}[dtype]


def test_a_row_holds_the_records_numbers():
    record = make()
    row = cells([record])
    w = float(record.arrays["last/w"])
    assert row["run"] == "torch"
    assert float(row["|w − true|"]) == pytest.approx(abs(w - 0.1), rel=1e-2)
    assert float(row["|w − least squares|"]) == pytest.approx(abs(w - 0.09), rel=1e-2)
    assert float(row["|b − least squares|"]) == pytest.approx(0.01, rel=1e-2)
    assert (row["first loss"], row["last loss"]) == ("0.5", "0.25")
    assert float(row["test MSE"]) == pytest.approx(0.0225123456, rel=1e-5)
    assert row["µs/step"] == "72.3"


def test_there_is_a_row_a_run_in_their_order():
    _, rows = summarise_runs([make(lr=1), make("tensorflow"), make(lr=2)])
    assert [row[0] for row in rows] == [
        "torch, optimizer.lr=1",
        "tensorflow",
        "torch, optimizer.lr=2",
    ]


def test_what_is_missing_is_a_dash():
    bare = RunRecord(about={"config": make().about["config"]})
    row = cells([make(), bare], row=1)
    assert row.pop("run").startswith("torch")
    assert set(row.values()) == {"–"}


def test_distances_from_unknown_goals_have_no_column():
    header, _ = summarise_runs([make(least_squares=None, data={"facts": {}})])
    assert header == ["run", "w", "b", "first loss", "last loss", "test MSE", "µs/step"]


def test_elements_of_a_tensor_are_numbered_and_large_models_have_no_columns():
    record = make()
    record.arrays["last/w"] = np.arange(2, dtype=np.float32)
    assert cells([record])["w.1"] == "1"
    record.arrays["last/w"] = np.zeros(8, np.float32)
    assert "b" not in cells([record])


def test_a_loss_that_is_not_finite_is_shown_as_it_is():
    record = make()
    record.arrays["loss"][-1] = np.nan
    assert cells([record])["last loss"] == "nan"


def test_a_pair_is_measured_as_parity_measures_it():
    a, b = make(), make("tensorflow")
    b.arrays["param/w"][1] = np.nextafter(b.arrays["param/w"][1], np.float32(1))
    _, rows = summarise_pair(a, b)
    gap = distance.trajectories(a, b)[0]
    name, shape, first, absolute, relative, ulp, step = rows[0]
    assert (name, shape, first, ulp, step) == ("w", "scalar", "step 1", "1", "1")
    assert float(absolute) == pytest.approx(gap.absolute, rel=1e-2)
    assert float(relative) == pytest.approx(gap.relative, rel=1e-2)
    assert rows[1] == ["b", "scalar", "never", "0", "0", "0", "–"]


def test_a_pair_that_cannot_be_compared_says_why():
    header, rows = summarise_pair(make(), make("tensorflow", dtype="float64"))
    ((reason, *rest),) = rows
    assert "float32" in reason
    assert "float64" in reason
    assert rest == ["–"] * (len(header) - 1)


class Parsed(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.attributes = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in {"meta", "img", "br", "link"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_file_is_well_formed_and_needs_nothing_else():
    a, b = make(), make("tensorflow")
    text = html([a, b], pairs=[(a, b)], images={"loss": PNG, "fit (1a2b)": PNG}, notes=["A note."])
    parsed = Parsed(text)
    assert not parsed.open
    assert not {"script", "link", "iframe", "object", "embed"} & set(parsed.tags)
    assert not any(key.startswith("on") or key == "href" for key, _ in parsed.attributes)
    sources = [value for key, value in parsed.attributes if key == "src"]
    assert len(sources) == 2
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert base64.b64decode(sources[0].split(",")[1]) == PNG
    assert not re.search(r"https?://|url\(|@import", text)


def test_it_says_the_command_that_repeats_it_the_machine_and_where_each_run_is():
    known = {"environment": {"cpu": "x86_64 AuthenticAMD X86_V3", "device": "cpu"}}
    runs = [make(run="1a2b", **known), make("tensorflow", run="3c4d", **known)]
    runs[1].about["environment"] = known["environment"] | {"device": "cuda"}
    command = tell_command(["backend=torch,tensorflow"], multirun=True)
    text = html(
        runs, command=command, address="http://127.0.0.1:5000/#/experiments/1/runs?mode=a&b=c"
    )
    assert "<pre>python -m pipeline -m \\\n  backend=torch,tensorflow</pre>" in text
    links = [value for key, value in Parsed(text).attributes if key == "href"]
    assert links == [
        "http://127.0.0.1:5000/#/experiments/1/runs?mode=a&b=c",
        "http://127.0.0.1:5000/#/experiments/1/runs/1a2b?mode=a",
        "http://127.0.0.1:5000/#/experiments/1/runs/3c4d?mode=a",
    ]
    assert not Parsed(text).open
    assert "<dt>machine</dt><dd>x86_64 AuthenticAMD X86_V3</dd>" in text
    assert "<dt>machine</dt><dd>x86_64 AuthenticAMD X86_V3, device cuda</dd>" in text
    assert "torch 1.2.3" in text
    assert "href" not in html(runs, address="javascript:alert(1)")


def test_the_command_has_no_secret_and_nothing_that_the_program_adds_by_itself():
    given = ["hydra.mode=MULTIRUN", "hydra/sweeper=optuna", "++hydra.job.env_set.A='1'",
             "hydra.job.config.override_dirname.exclude_keys=[sweep]",
             "tracking.uri=https://me:word@host/?token=abc", "seed=range(3)"]  # fmt: skip
    command = tell_command(given, multirun=True)
    assert command.split(" \\\n  ") == [
        "python -m pipeline -m", "hydra/sweeper=optuna",
        "'tracking.uri=https://***@host/?token=***'", "'seed=range(3)'",
    ]  # fmt: skip
    assert tell_command(["'stages=[compare]'"], multirun=False).startswith("python -m pipeline ")


def test_hostile_text_is_only_text():
    evil = "<script>alert('x')</script>\"'&"
    record = make(status="FAILED", message=evil, versions={evil: evil}, run=evil)
    record.about["config"]["data"]["name"] = evil
    text = html([record, make(evil)], title=evil, notes=[evil], images={evil: PNG})
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert not Parsed(text).open


def test_it_says_what_was_run_with_what_and_what_failed():
    bad = make("tensorflow", lr=0.5, status="FAILED", message="the loss became inf at step 18")
    text = html([make(), bad], notes=["Seen first."])
    for expected in (
        "<h1>A title</h1>",
        "Seen first.",
        "<dt>learning rate</dt><dd>0.001, 0.5</dd>",
        "FAILED: the loss became inf at step 18",
        "torch 1.2.3",
        "tensorflow 1.2.3",
    ):
        assert expected in text
    assert "did not finish" not in html([make()])


def test_every_number_of_the_table_is_in_the_file():
    a, b = make(), make("tensorflow")
    text = html([a, b], pairs=[(a, b)])
    header, rows = summarise_runs([a, b])
    for cell in [*header, *rows[0], *rows[1], *summarise_pair(a, b)[1][0]]:
        assert cell in text
    assert "Identical bits in every parameter at every step." in text


def test_the_sentence_on_a_pair_names_the_farthest_parameter():
    a, b = make(), make("tensorflow")
    b.arrays["param/b"][2] = np.nextafter(b.arrays["param/b"][2], np.float32(1))
    text = html([a, b], pairs=[(a, b)])
    assert "first bit differs at step 2; the farthest apart is b, by 1 ulp at step 2" in text


def test_the_whole_config_is_there_with_what_differs_first():
    text = html([make(), make("tensorflow")])
    configs = re.findall(r"<pre>(.*?)</pre>", text, re.DOTALL)
    assert len(configs) == 2
    for name, found in zip(("torch", "tensorflow"), configs, strict=True):
        differing, whole = found.split("\n\n")
        assert f"backend.name: {name}" in differing
        assert "optimizer.lr" not in differing
        assert "optimizer:\n  name: gd\n  lr: 0.001\n" in whole


def test_a_record_with_nothing_but_its_config_is_rendered():
    bare = RunRecord(about={"config": make().about["config"]})
    assert "<h1>" in html([bare, make("tensorflow")], pairs=[(bare, make("tensorflow"))])


def classifier(backend="torch", **scores):
    record = make(backend, scores=scores)
    record.arrays["prediction"] = np.zeros((359, 10), np.float32)
    return record


def test_a_classifier_shows_its_scores_and_no_mse():
    row = cells([classifier(accuracy=349 / 359, log_loss=0.1234567)])
    assert row["test accuracy"] == "97.21 %"
    assert row["test log loss"] == "0.123457"
    assert "test MSE" not in row
    assert "test accuracy" not in cells([make()])


@pytest.mark.parametrize("samples", [10, 359, 10_000, 25_000])
def test_one_test_sample_more_or_less_changes_the_accuracy_shown(samples):
    shown = set()
    for right in range(samples - 3, samples + 1):
        record = classifier(accuracy=right / samples)
        record.arrays["prediction"] = np.zeros((samples, 1), np.float32)
        shown.add(cells([record])["test accuracy"])
    assert len(shown) == 4
    assert "100.00" in max(shown, key=len)


def test_classifiers_and_regressions_in_one_table_each_have_their_scores():
    records = [classifier(accuracy=0.5, log_loss=0.7), make()]
    assert (cells(records)["test MSE"], cells(records, row=1)["test accuracy"]) == ("–", "–")


def test_what_no_run_has_has_no_column():
    bare = RunRecord(about={"config": make().about["config"]})
    assert summarise_runs([bare, bare])[0] == ["run"]


def test_a_longdouble_is_written_so_that_its_bits_can_be_read_back():
    record = make()
    record.arrays["last/w"] = np.longdouble(1) / np.longdouble(3)
    assert np.longdouble(cells([record])["w"]) == record.arrays["last/w"]
    assert html([record, record], pairs=[(record, record)])


def many(backend, *, tensors, shape=(2, 3)):
    record = make(backend)
    record.arrays = {"loss": record.arrays["loss"]}
    for i in range(tensors):
        record.arrays[f"param/layer{i}.w"] = np.ones((3, *shape), np.float32)
        record.arrays[f"last/layer{i}.w"] = np.ones(shape, np.float32)
    return record


def test_a_tensors_shape_is_shown_without_its_steps():
    pair = [many(backend, tensors=40, shape=(2, 3)) for backend in ("torch", "tensorflow")]
    _, rows = summarise_pair(*pair)
    assert [row[:2] for row in rows] == [[f"layer{i}.w", "2×3"] for i in range(40)]


def test_of_very_many_tensors_the_farthest_are_shown_and_the_others_counted():
    a, b = (many(backend, tensors=50) for backend in ("torch", "tensorflow"))
    for i in range(50):
        b.arrays[f"param/layer{i}.w"][-1, 1, 2] += np.float32(i * 2.0**-23)
    header, rows = summarise_pair(a, b)
    assert [row[0] for row in rows[:40]] == [f"layer{i}.w" for i in range(49, 9, -1)]
    assert rows[40][0] == "10 more, none farther apart than 10 ulps"
    assert {len(row) for row in rows} == {len(header)}


def scalars(backend="torch", *, loss=0.0, w=0.0):
    record = make(backend)
    del record.arrays["param/w"], record.arrays["param/b"]
    record.arrays["loss"] = np.array([1, 1 + loss], np.float32)
    record.arrays["last/w"] = np.full((2, 1), 1 + w, np.float32)
    return record


def test_without_parameters_at_each_step_losses_and_ends_are_compared():
    a, b = scalars(), scalars("tensorflow", loss=2.0**-23, w=2.0**-21)
    _, rows = summarise_pair(a, b)
    assert [[*row[:3], *row[-2:]] for row in rows] == [
        ["loss", "scalar", "step 2", "1", "2"],
        ["w, at the end", "2×1", "step 2 or before", "4", "2"],
        ["b, at the end", "scalar", "never", "0", "–"],
    ]
    text = html([a, b], pairs=[(a, b)])
    assert "No parameters were kept step by step" in text
    assert "Identical" not in text
    same = html([a, scalars("tensorflow")], pairs=[(a, scalars("tensorflow"))])
    assert "Identical bits in every loss and in every parameter at the end." in same
    assert "at every step" not in same


@pytest.mark.parametrize("change", ["loss", "last/b"])
def test_scalar_traces_that_do_not_match_say_why(change):
    a, b = scalars(), scalars("tensorflow")
    del b.arrays[change]
    ((reason, *_),) = summarise_pair(a, b)[1]
    assert reason.startswith("cannot be compared: ")
    assert html([a, b], pairs=[(a, b)])


def test_a_description_says_in_markdown_what_was_asked_and_what_it_came_to():
    runs = [make(backend, lr=lr) for lr in range(1, 13) for backend in ("torch", "tensorflow")]
    pairs = [tuple(runs[i : i + 2]) for i in range(0, len(runs), 2)]
    ladders = [ladder(WRONG, findings=(FINDING,)), *(ladder() for _ in pairs[1:])]
    board = (["backend.name", "mse"], [["torch", str(i)] for i in range(24)])
    text = describe_sweep(
        runs, overrides=["backend=torch,tensorflow", "optimizer.lr=range(1, 13)"], jobs=25,
        notes=["lr=3 FAILED: " + "x" * 1000], pairs=pairs, ladders=ladders, board=board,
        note="For the meeting.", linked=[("lr=1", "#/experiments/1/runs/ab")],
    )  # fmt: skip
    assert text.startswith("For the meeting.\n\n**Sweep**, 25 jobs")
    assert "by an earlier sweep:**\n\n- [lr=1](#/experiments/1/runs/ab)" in text
    command = (
        "python -m pipeline -m \\\n  backend=torch,tensorflow \\\n  'optimizer.lr=range(1, 13)'"
    )
    assert f"```\n{command}\n```" in text
    assert "**Parity of 12 pairs:** 11 PASS, 1 FAIL." in text
    assert text.count("- torch") == 1  # only what did not pass is listed
    assert "first 8 of 24" in text
    assert text.count("\n| torch | ") == 8
    assert "\n| backend.name | mse |\n| --- | --- |\n" in text
    assert "lr=3 FAILED: xxx" in text
    assert len(text) < 5000  # what MLflow takes


def test_verdicts_are_a_table_of_pairs():
    a, b = make(), make("tensorflow")
    header, rows = tabulate_verdicts([a, b], [(a, b)], [ladder(WRONG, findings=(FINDING,))])
    assert header == ["a", "b", "verdict", "why"]
    assert rows[0][:3] == ["torch", "tensorflow", "FAIL"]
    assert tabulate_verdicts([a], [], []) == (header, [])


UNJUDGED = ladder(
    *(Rung(name=name, verdict="ABSTAIN", why="each framework drew its own start")
      for name in RUNGS[1:])
)  # fmt: skip


def own_starts(verdict="PASS", *, covers=range(5), title="mse of tensorflow and torch"):
    """A verdict over seeds on the pairs at some positions."""
    test = equivalence([1.0] * 5, [1.0] * 5, margin=0.1)
    return SeedVerdict(
        title=title, verdict=verdict, sentence=f"eval/{title} over 5 seeds: {test.sentence()}",
        covers=tuple(covers), test=test,
    )  # fmt: skip


def test_a_file_has_the_verdict_over_seeds_at_the_top_and_folds_the_ladders_it_covers():
    a, b = make(), make("tensorflow")
    group = own_starts()
    text = html([a, b], pairs=[(a, b)] * 6, ladders=[*[UNJUDGED] * 5, ladder(WRONG)],
                by_seeds=[group], equal={group.title: group.test})  # fmt: skip
    assert not Parsed(text).open
    top = text.partition("What was run")[0]
    assert re.search(rf'<span class="PASS">PASS</span> {re.escape(group.sentence)}', top)
    assert (
        len(re.findall(r'<span class="\w+">', top)) == 2
    )  # the group, and the pair that it is not of
    unfolded = re.sub(
        r"<details>.*?</details>", "", text.partition("Settings</h2>")[0], flags=re.DOTALL
    )
    assert text.count('<td class="ABSTAIN">') == 5 * 7
    assert '<td class="ABSTAIN">' not in unfolded
    assert unfolded.count('<td class="FAIL">') == 1
    assert "The ladders of mse of tensorflow and torch" in text


def test_a_description_says_the_verdict_over_seeds_and_counts_the_other_pairs():
    a, b = make(), make("tensorflow")
    groups = [own_starts(), own_starts("FAIL", covers=(), title="mse of numpy and torch")]
    given = {
        "overrides": ["seed=range(5)"], "jobs": 10, "notes": [], "by_seeds": groups,
        "equal": {group.title: group.test for group in groups},
    }  # fmt: skip
    text = describe_sweep([a, b], pairs=[(a, b)] * 5, ladders=[UNJUDGED] * 5, **given)
    passed, failed = (f"- **{group.verdict}**: {group.sentence}" for group in groups)
    assert f"**Verdict over seeds:**\n\n{failed}\n{passed}" in text  # the worst first
    assert "Parity of" not in text
    assert "ABSTAIN" not in text
    assert text.count("equivalent: ") == 2  # each is said once
    mixed = [*[UNJUDGED] * 5, ladder(WRONG, findings=(FINDING,))]
    text = describe_sweep([a, b], pairs=[(a, b)] * 6, ladders=mixed, **given)
    assert "**Parity of 1 pair:** 1 FAIL." in text


def test_the_table_of_verdicts_has_the_group_for_a_pair_that_it_covers():
    a, b = make(), make("tensorflow")
    ladders = [UNJUDGED, UNJUDGED, ladder()]
    rows = tabulate_verdicts([a, b], [(a, b)] * 3, ladders, [own_starts("FAIL", covers=(1,))])[1]
    assert [row[2] for row in rows] == ["ABSTAIN", "FAIL", "PASS"]
    assert "over 5 seeds" in rows[1][3]
