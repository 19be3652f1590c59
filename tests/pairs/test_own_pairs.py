"""Pairs that are not ours: right ones pass, faults are named at their rung and module."""

from __future__ import annotations

import json
from pathlib import Path

import foreign
import jsonschema
import numpy as np
import pairs
import pytest
import yaml
from foreign import mapped_here, rung_verdicts
from tiers import tiered

from pipeline.align import worker
from pipeline.config.types import ConfigError
from pipeline.pairs.own.source import digest_code, list_names, load_functions
from pipeline.stages.compare import compare
from pipeline.stages.probe import probe_pair

HERE = Path(__file__).parent / "own"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def here(tmp_path_factory):
    with mapped_here(tmp_path_factory.mktemp("own")):
        yield


def verified(file, *overrides, steps=2):
    return foreign.verified(HERE / file, *overrides, steps=steps)


@pytest.mark.parametrize(
    "file",
    tiered(
        ["images.py", "rules.py", "tokens.py", "adversary.py", "cancels.py", "deep.py"],
        short=lambda i, _: i < 2,
    ),
)
def test_a_right_pair_passes(file):
    _, ladder = verified(file)
    assert set(rung_verdicts(ladder).values()) == {"PASS"}, ladder.sentence()
    assert [rung.name for rung in ladder.rungs][:3] == ["structure", "settings", "data"]


FAULTS = {
    ("images.py", "padding"): ("forward", "conv2"),
    ("images.py", "flatten"): ("forward", "fc"),
    ("images.py", "epsilon"): ("forward", "bn1"),
    ("images.py", "momentum"): ("update", "bn1.running_mean"),
    ("images.py", "unbiased"): ("update", "bn1.running_var"),
    ("tokens.py", "epsilon"): ("forward", "norm"),
    ("tokens.py", "gelu"): ("forward", "head"),
    ("tokens.py", "softmax"): ("forward", "output"),
    ("tokens.py", "rate"): ("forward", "head"),
    ("tokens.py", "summed"): ("loss", "loss"),
    ("adversary.py", "transposed"): ("structure", ""),
    ("adversary.py", "extra"): ("structure", "extra"),
    ("adversary.py", "untracked"): ("structure", ""),
    ("adversary.py", "frozen"): ("structure", "w"),
}


SHORT = {"extra"}


@pytest.mark.parametrize(("file", "fault"), tiered(FAULTS, short=lambda i, case: case[1] in SHORT))
def test_a_fault_is_named_at_its_rung_and_module(file, fault):
    rung, tensor = FAULTS[file, fault]
    _, ladder = verified(file, f"+model.settings.torch.fault={fault}")
    if fault == "transposed":  # a map that reads w transposed makes the pair right again
        assert ladder.verdict == "PASS"
        return
    assert ladder.verdict == "FAIL"
    assert ladder.finding.rung == rung, ladder.sentence()
    assert tensor in ladder.finding.tensor


CASES = {
    ("columns.py", "tensorflow", "column"): "loss",
    ("upsampling.py", "torch", "crop"): "forward",
    ("modes.py", "tensorflow", "inference"): "loss",
}


@pytest.mark.long
@pytest.mark.parametrize(("file", "side", "fault"), CASES)
def test_a_public_case_is_named_at_its_rung_and_its_right_twin_passes(file, side, fault):
    _, ladder = verified(file)
    assert ladder.verdict == "PASS", ladder.sentence()
    _, ladder = verified(file, f"+model.settings.{side}.fault={fault}")
    assert ladder.verdict == "FAIL"
    assert ladder.finding.rung == CASES[file, side, fault], ladder.sentence()


@pytest.mark.long
def test_branches_that_only_training_tells_apart_are_mapped_by_training():
    (a, _), ladder = verified("corners.py")
    assert ladder.verdict == "PASS", ladder.sentence()
    assert a.named("layer").keys() >= {"left", "right", "out"}


@pytest.mark.long
def test_a_constant_of_other_values_is_a_fault_of_the_structure():
    _, ladder = verified("corners.py", "+model.settings.tensorflow.kind=constant")
    assert (ladder.verdict, ladder.finding.rung) == ("FAIL", "structure")
    assert ladder.finding.tensor == "mean"


def test_losses_that_a_keras_model_adds_itself_are_refused():
    with pytest.raises(ConfigError, match="adds losses of its own"):
        verified("corners.py", "+model.settings.tensorflow.kind=regularizer")


@pytest.mark.long
def test_an_idle_bfloat16_excuses_nothing():
    _, ladder = verified("idle.py")
    assert (ladder.verdict, ladder.finding.rung) == ("FAIL", "loss")


@pytest.mark.long
@pytest.mark.parametrize("order", ["qkv", "vqk"])  # of the definition: names say nothing of vqk
def test_what_one_side_holds_as_one_is_mapped(order):
    (torch, _), ladder = verified("joined.py", f"+model.settings.torch.order={order}")
    assert ladder.verdict == "PASS", ladder.sentence()
    assert torch.about["pair"]["proof"]["holds"]
    notes = [note for note in ladder.notes if "as TensorFlow holds the same numbers" in note]
    assert any("attention.in_proj_weight is held in 3 parts" in note for note in notes)
    assert any("gru.bias_ih_l0, gru.bias_hh_l0 is held as one" in note for note in notes)


RESNET_FAULTS = {
    "stride_in=2": "blocks.1.conv2",  # the stride in the other convolution of the bottleneck
    "epsilon=1e-5": "norm",  # for Keras's 1.001e-5
    "pad=[2,4]": "stem",  # a strided convolution's padding on the other side
}


@pytest.mark.long
def test_keras_own_resnet_and_one_written_after_its_paper_agree():
    (torch, _), ladder = verified("resnet50.py", "loss=cross_entropy")
    assert ladder.verdict == "PASS", ladder.sentence()
    assert torch.about["pair"]["proof"]["holds"]


@pytest.mark.long
@pytest.mark.parametrize("fault", RESNET_FAULTS)
def test_a_wrong_resnet_is_found_at_its_layer(fault):
    _, ladder = verified("resnet50.py", "loss=cross_entropy", f"+model.settings.torch.{fault}")
    assert (ladder.verdict, ladder.finding.rung) == ("FAIL", "forward"), ladder.sentence()
    assert ladder.finding.tensor == RESNET_FAULTS[fault]
    misfit = any(note.startswith("blocks.1.conv1 returns the shape") for note in ladder.notes)
    assert misfit == (fault == "stride_in=2")


@pytest.mark.long
def test_a_fault_behind_what_is_held_as_one_is_found():
    _, ladder = verified("joined.py", "+model.settings.torch.fault=key")
    assert (ladder.verdict, ladder.finding.rung) == ("FAIL", "forward")


def test_a_float32_that_moves_nothing_excuses_no_small_difference():
    _, ladder = verified("idle_float32.py")
    assert (ladder.verdict, ladder.finding.rung, ladder.kind) == ("FAIL", "loss", "meaning")


def test_a_hint_that_names_nothing_is_refused(tmp_path):
    file = tmp_path / "hinted.py"
    file.write_text((HERE / "rules.py").read_text() + "\n\nsame = {'nothing': 'dense'}\n")
    with pytest.raises(ConfigError, match="same: the torch model has no parameter nothing"):
        verified(file)


RULES = {
    "adam": ("update", "0.weight"),  # Keras has the epsilon beside the uncorrected root
    "decay": ("update", "0.weight (slot v)"),
    "schedule": ("trajectory", "lr (as used)"),
}


@pytest.mark.parametrize("rule", tiered(RULES, short=lambda i, _: i == 0))
def test_optimizers_that_a_pair_brings_are_judged_by_their_own_steps(rule):
    rung, tensor = RULES[rule]
    named = (f"+model.settings.{side}.rule={rule}" for side in ("torch", "tensorflow"))
    (a, _), ladder = verified("rules.py", *named)
    assert (ladder.verdict, ladder.finding.rung, ladder.finding.tensor) == ("FAIL", rung, tensor)
    assert a.named("slot/v" if rule != "adam" else "slot/m")
    differing = [each[2] for each in a.about["pair"]["settings"]]
    assert differing == {"decay": ["weight decay"], "schedule": ["schedule"]}.get(rule, [])


@pytest.mark.long
def test_settings_that_differ_are_suspects_with_their_place():
    (a, _), ladder = verified("images.py", "+model.settings.torch.fault=epsilon")
    (differs,) = [each for each in a.about["pair"]["settings"] if each[2] == "epsilon"]
    assert differs[0] == "bn1"
    assert differs[3:] == [1e-5, 1e-3]
    assert any("another epsilon: 1e-05 in torch (bn1) and 0.001" in note for note in ladder.notes)


@pytest.mark.long
def test_a_momentum_is_translated_before_it_is_compared():
    (a, _), _ = verified("images.py")
    assert not [each for each in a.about["pair"]["settings"] if each[2] == "decay"]
    (a, _), _ = verified("images.py", "+model.settings.torch.fault=momentum")
    (differs,) = [each for each in a.about["pair"]["settings"] if each[2] == "decay"]
    assert differs[3:] == [pytest.approx(0.1), 0.9]


@pytest.mark.long
def test_values_decide_where_names_and_shapes_do_not():
    (a, _), _ = verified("adversary.py")
    proof = a.about["pair"]["proof"]
    assert proof["holds"]
    assert set(proof["changed"]) == {"w", "v"}
    assert not proof["interchangeable"]


@pytest.mark.long
def test_the_start_can_be_either_sides_own():
    (a, b), ladder = verified("tokens.py", "model.init=tensorflow", steps=2)
    assert ladder.verdict == "PASS"
    for name, value in a.named("first").items():
        assert np.array_equal(value, b.named("first")[name])
    (other, _), _ = verified("tokens.py")
    assert not np.array_equal(a.named("first")["head.weight"], other.named("first")["head.weight"])


@pytest.mark.parametrize(
    "suffix", tiered([".weights.h5", ".safetensors", ".pt"], short=lambda i, _: i == 0)
)
def test_a_checkpoint_of_either_side_is_the_start_of_both(tmp_path, suffix):
    import keras
    import torch
    from safetensors.torch import save_file

    path = tmp_path / f"start{suffix}"
    spec = {"path": str(HERE / "rules.py"), "torch": None, "tensorflow": None, "settings": {}}
    side = "tensorflow" if suffix == ".weights.h5" else "torch"
    model = load_functions(spec, side).make()
    if suffix == ".weights.h5":
        model.save_weights(path)
        wanted = keras.ops.convert_to_numpy(model.layers[0].kernel).T
    else:
        state = {name: tensor.detach().float() for name, tensor in model.state_dict().items()}
        save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
        wanted = state["0.weight"].numpy()
    (a, b), ladder = verified("rules.py", f"model.weights={path}", steps=1)
    assert ladder.verdict == "PASS"
    for record in (a, b):
        assert np.array_equal(record.named("first")["0.weight"], wanted.astype(np.float32))


def test_a_checkpoint_that_does_not_fit_is_one_line(tmp_path):
    import torch

    torch.save({"other.weight": torch.ones(3)}, tmp_path / "a.pt")
    with pytest.raises(ConfigError, match="does not fit the torch model") as caught:
        verified("rules.py", f"model.weights={tmp_path / 'a.pt'}")
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="must be a file that ends with"):
        verified("rules.py", f"model.weights={tmp_path / 'a.pkl'}")


def test_integers_stay_integers_and_floats_have_the_precision_of_the_run(tmp_path):
    file = tmp_path / "kinds.py"
    file.write_text(
        "import numpy as np\n"
        "seen = []\n"
        "def torch_model():\n"
        "    import torch\n"
        "    class Net(torch.nn.Module):\n"
        "        def __init__(self):\n"
        "            super().__init__()\n"
        "            self.fc = torch.nn.Linear(3, 2)\n"
        "        def forward(self, ids, x, mask):\n"
        "            assert (ids.dtype, mask.dtype) == (torch.int64, torch.bool)\n"
        "            assert x.dtype == self.fc.weight.dtype\n"
        "            return self.fc(x) * mask[:, None] + ids[:, None]\n"
        "    return Net()\n"
        "def tensorflow_model():\n"
        "    import keras, tensorflow as tf\n"
        "    class Net(keras.Model):\n"
        "        def __init__(self):\n"
        "            super().__init__()\n"
        "            self.fc = keras.layers.Dense(2)\n"
        "        def call(self, ids, x=None, mask=None):\n"
        "            assert (ids.dtype, mask.dtype) == (tf.int64, tf.bool)\n"
        "            z = self.fc(x)\n"
        "            return z * tf.cast(mask, z.dtype)[:, None] + tf.cast(ids, z.dtype)[:, None]\n"
        "    return Net()\n"
        "def batches(rng):\n"
        "    while True:\n"
        "        yield {'ids': rng.integers(0, 9, size=6), 'x': rng.normal(size=(6, 3)),\n"
        "               'mask': rng.random(6) > 0.5, 'y': rng.normal(size=(6, 2))}\n"
    )
    _, ladder = verified(file, steps=3)
    assert ladder.verdict == "PASS", ladder.sentence()


@pytest.mark.long
def test_a_verdict_file_is_as_its_schema_says(tmp_path):
    (a, b), _ = verified("images.py", "+model.settings.torch.fault=padding")
    compare(
        [a, b], folder=tmp_path, title="t", formats=["png"], rtol=None, atol=None,
        evidence=probe_pair,
    )  # fmt: skip
    verdict = json.loads((tmp_path / "verdict.json").read_text())
    jsonschema.validate(verdict, json.loads((ROOT / "docs" / "verdict.schema.json").read_text()))
    assert (verdict["verdict"], verdict["exit_code"]) == ("FAIL", 1)
    assert verdict["map"]["holds"] is False


BAD = {
    "raises": ("def torch_model():\n    raise RuntimeError('no such weights')\n", "no such weights"),
    "no model": ("def torch_model():\n    return 3\n", "returned a int, no nn.Module"),
    "import": ("import no_such_package\ndef torch_model(): ...\n", "no_such_package"),
    "no factory": ("def other(): ...\n", "has no torch_model()"),
    "no Python": ("def torch_model(:\n", "is no Python"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_pair_file_is_one_line(tmp_path, case):
    text, expected = BAD[case]
    file = tmp_path / "bad.py"
    file.write_text(text + (HERE / "tokens.py").read_text().partition("\n\n\ndef tensorflow")[2].join(
        ["def tensorflow", ""]))  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        verified(file)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="is no file"):
        verified(tmp_path / "none.py")


def test_an_edited_file_is_another_pair(tmp_path):
    file = tmp_path / "port.py"
    file.write_text((HERE / "tokens.py").read_text())
    settings = {"path": str(file), "torch": None, "tensorflow": None}
    before = digest_code(settings)
    (tmp_path / "beside.py").write_text("x = 1\n")
    assert digest_code(settings) == before  # nobody imports it
    file.write_text("from beside import x\n" + file.read_text())
    with_beside = digest_code(settings)
    (tmp_path / "beside.py").write_text("x = 2\n")
    assert len({before, with_beside, digest_code(settings)}) == 3


def test_what_a_record_names_is_not_run_unless_the_command_names_it(tmp_path, monkeypatch):
    from pipeline.pairs.own import source
    from pipeline.probe.measure import open_sides

    sides, _ = verified("rules.py")
    monkeypatch.setattr(source, "_allowed", set())
    with pytest.raises(ConfigError, match="only by a command"):
        open_sides(*sides)
    settings = sides[0].config["model"]
    source.allow(settings)
    open_sides(*sides)
    other = dict(sides[0].about["environment"], pair="0" * 64)
    monkeypatch.setitem(sides[0].about, "environment", other)
    with pytest.raises(ConfigError, match="not the code that was run"):
        open_sides(*sides)


@pytest.mark.long
def test_the_example_of_the_docs_has_the_fault_that_they_find(tmp_path):
    text = (ROOT / "docs" / "examples" / "port.py").read_text()
    code = text.partition("def torch_model")[2]
    page = (ROOT / "docs" / "own-pairs.md").read_text()
    assert "nn.LayerNorm(32)" in code
    assert "nn.LayerNorm(32)" in page
    _, ladder = verified(ROOT / "docs" / "examples" / "port.py")
    assert (ladder.finding.rung, ladder.finding.tensor) == ("forward", "1")
    assert any("another epsilon: 1e-05 in torch (1) and 0.001" in note for note in ladder.notes)
    right = tmp_path / "port.py"
    right.write_text(text.replace("LayerNormalization()", "LayerNormalization(epsilon=1e-5)"))
    assert verified(right)[1].verdict == "PASS"


def test_a_name_inside_a_function_is_none_of_the_file(tmp_path):
    file = tmp_path / "port.py"
    file.write_text("if True:\n    def batches(): ...\ndef f():\n    torch_loss = 1\n")
    assert list_names(file) == {"batches", "f"}


def test_an_edited_map_that_does_not_hold_is_refused_and_unseen_layers_are_named(tmp_path):
    (a, _), ladder = verified("rules.py")
    assert a.about["pair"]["unseen"] == ["0"]  # Keras has its activation inside
    assert any("not compared one by one" in note for note in ladder.notes)
    names = [f"{layer}/{part}" for layer in ("query", "key") for part in ("kernel", "bias")]
    crossed = zip(("key.weight", "key.bias", "query.weight", "query.bias"), names, strict=True)
    entries = [{"torch": one, "tensorflow": other} for one, other in crossed]
    (tmp_path / "map.yaml").write_text(yaml.safe_dump({"parameters": entries}))
    with pytest.raises(ConfigError, match="does not hold"):
        verified("adversary.py", f"model.map={tmp_path / 'map.yaml'}", steps=1)


def test_inference_alone_is_judged_where_that_is_asked_for():
    _, ladder = verified("inference.py", "verify.train=false")
    assert ladder.verdict == "PASS", ladder.sentence()
    assert [*rung_verdicts(ladder)] == [
        "structure", "settings", "data", "init", "forward", "evaluation",
    ]  # fmt: skip
    assert any("inference alone is judged" in note for note in ladder.notes)
    _, ladder = verified("inference.py", "verify.train=false", "+model.settings.torch.epsilon=1e-5")
    assert (ladder.verdict, ladder.finding.rung, ladder.finding.tensor) == ("FAIL", "forward", "1")


INPUTS = "model.inputs={ids: {shape: [5], dtype: int32, range: [0, 20]}, scale: {shape: [6]}}"


def test_inputs_are_drawn_for_a_pair_that_makes_none():
    (torch, _), ladder = verified("no_batches.py", INPUTS)
    assert ladder.verdict == "PASS", ladder.sentence()
    assert torch.about["pair"]["proof"]["holds"]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("{ids: {shape: [5], dtype: int32}}", "integers need a range of integers"),
        ("{ids: {shape: [0]}}", "shape must be a list of lengths"),
        ("{ids: {shape: [2], range: [3, 1]}}", "range must be two numbers that rise"),
        ("{ids: {shape: [2], dtype: text}}", "dtype must be one of"),
        ("{ids: {size: [2]}}", "must have shape"),
    ],
)
def test_an_input_that_is_none_is_refused(given, reason):
    with pytest.raises(ConfigError, match=f"model.inputs.ids=.*{reason}"):
        verified("no_batches.py", f"model.inputs={given}")


def test_inputs_go_without_batches_and_other_data():
    with pytest.raises(ConfigError, match="model.inputs=.*goes without batches"):
        verified("tokens.py", INPUTS)
    given = ("experiment=verify", f"model.path={HERE / 'no_batches.py'}", INPUTS)
    with pytest.raises(ConfigError, match="model.inputs=.*goes without data=digits"):
        pairs.recorded(*given, "data=digits", "backend=torch")
    with pytest.raises(ConfigError, match="give model.inputs, or data="):
        verified("no_batches.py")


def test_gates_that_are_written_out_in_another_order_are_mapped():
    (torch, _), ladder = verified("gates.py")
    assert ladder.verdict == "PASS", ladder.sentence()
    assert torch.about["pair"]["proof"]["holds"]


@pytest.mark.long
def test_a_reset_gate_before_the_product_is_another_function():
    _, ladder = verified("gates.py", "+model.settings.tensorflow.reset=before")
    assert (ladder.verdict, ladder.finding.rung) == ("FAIL", "forward")


def test_several_blocks_that_are_held_as_one_are_mapped_together():
    (torch, _), ladder = verified("blocks.py")
    assert ladder.verdict == "PASS", ladder.sentence()
    assert torch.about["pair"]["proof"]["holds"]


@pytest.mark.long
def test_what_a_hook_sees_is_not_held_otherwise():
    _, ladder = verified("joined.py", "+model.settings.torch.fault=hook")
    assert ladder.rung("structure").verdict == "ABSTAIN"


def test_what_the_pairs_own_loss_sees_is_not_held_otherwise(tmp_path):
    file = tmp_path / "lossy.py"
    losses = "".join(f"def {side}_loss(model, batch): ...\n" for side in ("torch", "tensorflow"))
    file.write_text((HERE / "blocks.py").read_text() + losses)
    request = {"model": {"path": str(file), "torch": None, "tensorflow": None, "train": True},
               "loss": "own", "optimizer": "adam"}  # fmt: skip
    assert worker.find_safe_regroups(request, None, {}, {}) == []


def test_a_side_without_float64_is_judged_by_the_other_sides():
    _, ladder = verified("narrow.py")
    assert ladder.verdict == "PASS", ladder.sentence()
    assert any("torch does not run in float64" in note for note in ladder.notes)


def test_a_fault_beside_a_side_without_float64_is_undecided():
    _, ladder = verified("narrow.py", "+model.settings.torch.fault=1e-3")
    assert (ladder.verdict, ladder.kind) == ("FAIL", "undecided")
    assert (ladder.finding.rung, ladder.finding.tensor) == ("forward", "b")
