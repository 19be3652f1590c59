"""T5 as transformers has it in both frameworks, tiny and with random weights."""

import numpy as np


def make_config():
    from transformers import T5Config

    return T5Config(
        vocab_size=40, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, use_cache=False,
        decoder_start_token_id=0,
    )  # fmt: skip


def torch_model():
    from transformers import T5ForConditionalGeneration

    return T5ForConditionalGeneration(make_config())


def tensorflow_model():
    from transformers import TFT5ForConditionalGeneration

    return TFT5ForConditionalGeneration(make_config())


def torch_output(result):
    return result.logits


def tensorflow_output(result):
    return result.logits


def batches(rng):
    while True:
        source = rng.integers(1, 40, (3, 7)).astype(np.int32)
        target = rng.integers(1, 40, (3, 6)).astype(np.int32)
        yield {"input_ids": source, "decoder_input_ids": target[:, :-1], "y": target[:, 1:]}


def torch_loss(model, batch):
    from torch.nn.functional import cross_entropy

    logits = model(batch["input_ids"], decoder_input_ids=batch["decoder_input_ids"]).logits
    return cross_entropy(logits.transpose(1, 2), batch["y"].long())


def tensorflow_loss(model, batch):
    import tensorflow as tf

    logits = model(
        batch["input_ids"], decoder_input_ids=batch["decoder_input_ids"], training=True
    ).logits
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(batch["y"], logits))
