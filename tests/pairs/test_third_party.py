"""Pairs of transformers' two implementations, mapped without a hint, trained with dropout and Adam.

``make test-pairs`` runs them; they need the extra ``third-party``.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from foreign import mapped_here, rung_verdicts, verified

HERE = Path(__file__).parent / "third"
pytestmark = pytest.mark.third


@pytest.fixture(scope="module", autouse=True)
def here(tmp_path_factory):
    pytest.importorskip("transformers")
    with mapped_here(tmp_path_factory.mktemp("third")):
        yield


def judged(name, *overrides):
    loss = () if name in ("gpt2", "t5") else ("loss=cross_entropy",)
    return verified(HERE / f"{name}.py", *loss, *overrides, steps=3)


@pytest.mark.parametrize("name", ["bert", "gpt2", "vit", "resnet", "convnext", "t5", "swin"])
def test_a_right_pair_passes(name):
    (torch, _), ladder = judged(name)
    assert ladder.verdict == "PASS", ladder.sentence()
    assert set(rung_verdicts(ladder).values()) == {"PASS"}
    about = torch.about["pair"]
    assert about["proof"]["holds"]
    assert not any(trained for each in about["left_over"].values() for *_, trained in each)


def test_what_one_side_alone_trains_is_named():
    _, ladder = judged("roformer")
    assert ladder.finding.rung == "structure"
    assert ladder.finding.tensor == "roformer.encoder.embed_positions.weight"
    assert "trained in TensorFlow and frozen in PyTorch" in ladder.finding.detail


def test_a_side_without_float64_is_judged_by_the_others_and_said():
    _, ladder = judged("swin")
    (note,) = [note for note in ladder.notes if "does not run in float64" in note]
    assert note.startswith("tensorflow")


def test_a_bert_in_float64_passes():
    _, ladder = judged("bert", "backend.dtype=float64")
    assert ladder.verdict == "PASS", ladder.sentence()
