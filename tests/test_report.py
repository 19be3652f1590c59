from __future__ import annotations

import base64
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from pipeline import report
from pipeline.parity import distance
from pipeline.record import RunRecord

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
    header, rows = report.summary(records)
    assert all(len(each) == len(header) for each in rows)
    return dict(zip(header, rows[row], strict=True))


def html(records, **changes):
    given = {"pairs": [], "images": {}, "title": "A title", "notes": []} | changes
    return report.render(records, **given)


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
    _, rows = report.summary([make(lr=1), make("tensorflow"), make(lr=2)])
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
    header, _ = report.summary([make(least_squares=None, data={"facts": {}})])
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
    _, rows = report.pair_summary(a, b)
    gap = distance.trajectories(a, b)[0]
    name, first, absolute, relative, ulp, step = rows[0]
    assert (name, first, ulp, step) == ("w", "step 1", "1", "1")
    assert float(absolute) == pytest.approx(gap.absolute, rel=1e-2)
    assert float(relative) == pytest.approx(gap.relative, rel=1e-2)
    assert rows[1] == ["b", "never", "0", "0", "0", "–"]


def test_a_pair_that_cannot_be_compared_says_why():
    header, rows = report.pair_summary(make(), make("tensorflow", dtype="float64"))
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
    header, rows = report.summary([a, b])
    for cell in [*header, *rows[0], *rows[1], *report.pair_summary(a, b)[1][0]]:
        assert cell in text
    assert "Identical bits in every parameter at every step." in text


def test_the_sentence_on_a_pair_names_the_farthest_parameter():
    a, b = make(), make("tensorflow")
    b.arrays["param/b"][2] = np.nextafter(b.arrays["param/b"][2], np.float32(1))
    text = html([a, b], pairs=[(a, b)])
    assert "first bit differs at step 2; the farthest apart is b, by 1 ulps at step 2" in text


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
