"""The stage compare: which runs are a pair, and what becomes of those that are none."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys

import pairs
import pytest
from commands import environment

from pipeline.record.record import RunRecord
from pipeline.record.trace import NonFiniteLossError
from pipeline.stages import compare as compare_stage
from pipeline.stages.compare import compare, paired
from pipeline.sweeps.publish import publish_comparison
from pipeline.tracking import run as tracking_run

SMALL = ("data.n=20", "data.n_test=10", "train.epochs=5")


@pytest.fixture(scope="module")
def runs():
    return {name: pairs.recorded(f"backend={name}", *SMALL) for name in ("torch", "numpy")}


@pytest.fixture
def undrawn(monkeypatch):
    """No pictures, which take most of a comparison's time."""
    for name in ("comparison", "parity", "sweep"):
        monkeypatch.setattr(compare_stage, f"draw_{name}", lambda *records, **how: {})


def other(record, **about):
    changed = RunRecord(about=copy.deepcopy(record.about) | about, arrays=dict(record.arrays))
    return changed


def with_rate(record, lr):
    changed = other(record)
    changed.about["config"] = copy.deepcopy(changed.config)
    changed.about["config"]["optimizer"]["lr"] = lr
    return changed


def judged(records, folder, **how):
    how = {"rtol": None, "atol": None} | how
    return compare(records, folder=folder, title="a test", formats=["png"], **how)


def test_of_two_runs_of_one_job_the_newest_counts_and_the_other_is_listed(runs):
    first, again, twin = runs["torch"], other(runs["torch"]), runs["numpy"]
    assert paired([first, again, twin]) == ([(again, twin)], [first])
    assert paired([first, again]) == ([], [first, again])
    assert paired([first, again], together=True) == ([(first, again)], [])


@pytest.mark.usefixtures("undrawn")
def test_a_leftover_is_listed_in_page_and_file(runs, tmp_path):
    left = with_rate(runs["torch"], 0.5)
    left.about["run"] = "the left one"
    found = judged([*runs.values(), left], tmp_path)
    assert (found.alone, found.exit_code) == ([left], 3)  # nobody probed the pair
    assert json.loads((tmp_path / "parity.json").read_text())["alone"] == ["the left one"]
    page = (tmp_path / "report.html").read_text()
    assert "Without a partner: torch, optimizer.lr=0.5" in page


@pytest.mark.usefixtures("undrawn")
def test_of_data_sets_of_many_seeds_a_few_are_drawn_the_worst_first(runs, tmp_path, monkeypatch):
    drawn = []

    def noted(judged):
        drawn.extend(pair[0].config["seed"] for pair, _ in judged)
        return {}

    monkeypatch.setattr(compare_stage, "draw_parity", noted)
    records = []
    for seed in range(6):
        for record in runs.values():
            own = other(record, data=record.about["data"] | {"digest": f"{seed}" * 64})
            own.about["config"] = copy.deepcopy(own.config) | {"seed": seed}
            records.append(own)
    records[-1].arrays["loss"] = records[-1].arrays["loss"] + 1
    found = judged(records, tmp_path, rtol=1e-3, atol=1e-3)
    assert [ladder.verdict for ladder in found.ladders] == ["PASS"] * 5 + ["FAIL"]
    assert drawn == [0, 1, 5]
    assert "Pictures of 3 of 6 data sets" in (tmp_path / "report.html").read_text()


@pytest.mark.usefixtures("undrawn")
def test_two_that_were_named_are_judged_whatever_they_are_of(runs, tmp_path):
    a = runs["torch"]
    same = judged([a, a], tmp_path / "same", together=True)
    assert (same.worst, same.exit_code) == ("PASS", 0)
    assert "every bit" in same.verdicts[0][1]
    apart = judged([a, with_rate(a, 0.5)], tmp_path / "apart", together=True)
    assert (apart.worst, apart.exit_code) == ("ABSTAIN", 3)
    assert "the configs differ in optimizer.lr" in apart.verdicts[0][1]


@pytest.mark.usefixtures("undrawn")
def test_what_cannot_be_read_is_an_error_beside_a_pass(runs, tmp_path):
    found = judged(list(runs.values()), tmp_path, unreadable={"C": "was altered"})
    assert (found.worst, found.exit_code) == ("ERROR", 1)
    kept = json.loads((tmp_path / "parity.json").read_text())
    assert kept["unreadable"] == {"C": "was altered"}
    assert "C cannot be read: was altered" in (tmp_path / "report.html").read_text()
    nothing = judged([], tmp_path / "none", unreadable={"C": "was altered"})
    assert nothing.exit_code == 1


def test_runs_whose_data_are_gone_are_judged_without_pictures_of_them(runs, tmp_path):
    records = []
    for run in runs.values():
        lost = other(run, data=run.about["data"] | {"digest": "0" * 64})
        records.append(lost)
    found = judged(records, tmp_path)
    assert [ladder.rungs[0].verdict for ladder in found.ladders] == ["PASS"]
    drawn = {path.stem for path in (tmp_path / "plots").glob("*.png")}
    assert "ulps" in drawn
    assert "fit" not in drawn
    assert "no pictures of it" in (tmp_path / "report.html").read_text()


@pytest.mark.usefixtures("undrawn")
def test_the_page_names_every_field_of_parity_json(runs, tmp_path):
    judged(list(runs.values()), tmp_path, rtol=0.0)
    kept = json.loads((tmp_path / "parity.json").read_text())
    page = (pairs.CONF.parent / "docs/parity.md").read_text().split("## parity.json")[1]
    named = set(re.findall(r"`(\w+)`", page))
    (one,) = kept["pairs"]
    parts = (one["rungs"][0], one["finding"], one["growth"], one["distances"], one["facts"])
    there = {*kept, *one}.union(*parts)
    assert there <= named


def over_seeds(runs, *, many=6, apart=0.0, init="framework", diverged=0):
    """Runs over seeds, the second backend's with other starts and scores; its first ones diverged."""
    records = []
    for seed in range(many):
        for name, run in runs.items():
            digest = {"digest": f"{seed}" * 64}
            copied = other(run, data=run.about["data"] | digest, run=f"{name} {seed}")
            copied.about["config"] = copy.deepcopy(copied.config) | {"seed": seed}
            copied.about["config"]["model"]["init"] = init
            copied.about["scores"] = {"mse": 1.0 + seed}
            if name == "numpy":
                copied.about["scores"] = {"mse": 1.0 + seed + apart}
                if init == "framework":
                    for key in (key for key in copied.arrays if key.startswith("first/")):
                        copied.arrays[key] = copied.arrays[key] + 1
                if seed < diverged:
                    message = str(NonFiniteLossError(3, 0.1, float("nan")))
                    copied.about |= {"status": "FAILED", "message": message, "scores": {}}
            records.append(copied)
    return records


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("changes", "margin", "verdict", "code"),
    [({}, 0.01, "PASS", 0), ({"apart": 0.5}, 0.01, "FAIL", 1), ({"many": 3}, 0.01, "ABSTAIN", 3),
     ({"many": 1}, 0.01, "ABSTAIN", 3), ({}, None, "ABSTAIN", 3),
     ({"diverged": 2}, 0.01, "ABSTAIN", 3), ({"diverged": 3}, 0.01, "FAIL", 1),
     ({"diverged": 6}, 0.01, "FAIL", 1)],
)  # fmt: skip
def test_of_own_starts_the_test_over_seeds_is_the_exit_code(
    runs, tmp_path, changes, margin, verdict, code
):
    result = judged(over_seeds(runs, **changes), tmp_path, margin=margin)
    assert {ladder.verdict for ladder in result.ladders} <= {"ABSTAIN"}
    assert (result.worst, result.exit_code) == (verdict, code)
    assert {kind for kind, _ in result.verdicts} <= {verdict}
    (group,) = result.by_seeds
    assert group.covers == tuple(range(len(result.pairs)))
    assert ("parity.margin" in group.sentence) == (margin is None)
    (told,) = json.loads((tmp_path / "parity.json").read_text())["over_seeds"]
    assert (told["verdict"], told["sentence"]) == (verdict, group.sentence)


@pytest.mark.usefixtures("undrawn")
def test_of_shared_starts_the_test_over_seeds_is_said_and_judges_nothing(runs, tmp_path):
    result = judged(over_seeds(runs, apart=0.5, init="shared"), tmp_path, margin=0.01)
    (test,) = result.equal.values()
    assert (test.outcome, result.by_seeds) == ("different", [])
    assert (result.worst, result.exit_code) == ("ABSTAIN", 3)  # nobody probed the pairs


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("changes", "tolerance", "worst"),
    [({}, 10.0, "PASS"), ({}, 0.0, "FAIL"), ({}, None, "ABSTAIN"), ({"many": 3}, 10.0, "ABSTAIN"),
     ({"many": 3}, 0.0, "FAIL"), ({"apart": 0.5}, None, "FAIL")],
)  # fmt: skip
def test_of_pairs_and_groups_the_worst_counts(runs, tmp_path, changes, tolerance, worst):
    records = [*over_seeds(runs, **changes), *over_seeds(runs, many=1, init="shared")]
    result = judged(records, tmp_path, margin=0.01, rtol=tolerance, atol=tolerance)
    assert len(result.by_seeds) == 1
    assert result.worst == worst


@pytest.mark.usefixtures("undrawn")
def test_of_several_groups_the_worst_counts(runs, tmp_path):
    slow = [with_rate(record, 0.5) for record in over_seeds(runs, apart=0.5)]
    result = judged([*over_seeds(runs), *slow], tmp_path, margin=0.01)
    assert [group.verdict for group in result.by_seeds] == ["PASS", "FAIL"]
    assert [verdict for verdict, _ in result.verdicts] == ["PASS"] * 6 + ["FAIL"] * 6
    assert (result.worst, result.exit_code) == ("FAIL", 1)


@pytest.mark.usefixtures("undrawn")
def test_named_runs_with_own_starts_are_too_few_seeds(runs, tmp_path):
    result = judged(over_seeds(runs, many=1), tmp_path, margin=0.01, together=True)
    assert (result.worst, result.exit_code) == ("ABSTAIN", 3)
    assert "too few seeds: 1 pair" in result.verdicts[0][1]


class Tags:
    """Stands in for a run of the store and keeps its tags."""

    def __init__(self):
        self.tags, self.note = {}, ""

    def log_tags(self, tags):
        self.tags |= tags

    def describe(self, text):
        self.note = text

    def __getattr__(self, name):
        return lambda *values, **options: None


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("apart", "verdict"), [(0.0, "PASS"), (0.5, "FAIL")])
def test_a_sweeps_runs_and_its_parent_are_tagged_with_the_verdict_over_seeds(
    runs, tmp_path, monkeypatch, apart, verdict
):
    children = {}
    monkeypatch.setattr(tracking_run, "reopen_run", lambda run: children.setdefault(run, Tags()))
    result = judged(over_seeds(runs, apart=apart), tmp_path, margin=0.01)
    parent = Tags()
    publish_comparison(parent, result, overrides=[], jobs=12, notes=[])
    assert len(children) == 12
    assert {child.tags["parity.verdict"] for child in children.values()} == {verdict}
    assert parent.tags["parity.verdict"] == verdict
    assert f"**{verdict}**: {result.by_seeds[0].sentence}" in parent.note
    assert "ABSTAIN" not in parent.note


@pytest.mark.usefixtures("undrawn")
def test_a_group_without_any_pair_is_tagged_too(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking_run, "reopen_run", lambda run: None)
    parent = Tags()
    result = judged(over_seeds(runs, diverged=6), tmp_path, margin=0.01)
    publish_comparison(parent, result, overrides=[], jobs=12, notes=[])
    assert (result.pairs, parent.tags["parity.verdict"]) == ([], "FAIL")


def _flip(folder):
    path = folder / "param/w.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "altered": (_flip, "altered"),
    "cut short": (lambda folder: (folder / "record.json").unlink(), "no readable record"),
}


@pytest.mark.long
@pytest.mark.parametrize("what", DAMAGE)
def test_the_command_says_of_a_damaged_record_what_is_wrong_with_it(runs, tmp_path, what):
    """And loads no framework to find out."""
    damage, why = DAMAGE[what]
    for name, run in runs.items():
        run.save(tmp_path / name)
    damage(tmp_path / "numpy")
    code = (
        "import sys, atexit\n"
        "heavy = {'torch', 'tensorflow', 'keras'}\n"
        "atexit.register(lambda: print('HEAVY', sorted(heavy & set(sys.modules))))\n"
        "sys.argv[1:] = ['stages=[compare]', 'compare.runs=[torch,numpy]']\n"
        "from pipeline.cli.main import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
        env=environment(PYTHONPATH=str(pairs.CONF.parent)),
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("ERROR"))
    assert why in line
    assert "HEAVY []" in done.stdout
