"""GPT-2 as transformers has it in both frameworks, tiny and with random weights."""

import numpy as np


def make_config():
    from transformers import GPT2Config

    return GPT2Config(
        vocab_size=40, n_positions=16, n_embd=16, n_layer=2, n_head=2, use_cache=False
    )


def torch_model():
    from transformers import GPT2LMHeadModel

    return GPT2LMHeadModel(make_config())


def tensorflow_model():
    from transformers import TFGPT2LMHeadModel

    return TFGPT2LMHeadModel(make_config())


def batches(rng):
    while True:
        tokens = rng.integers(0, 40, (4, 9)).astype(np.int32)
        yield {"input_ids": tokens[:, :-1], "y": tokens[:, 1:]}


def torch_loss(model, batch):
    from torch.nn.functional import cross_entropy

    return cross_entropy(model(batch["input_ids"]).logits.transpose(1, 2), batch["y"].long())


def tensorflow_loss(model, batch):
    import tensorflow as tf

    # transformers has no argument for the mode in a loss; training=True is how its models are told
    logits = model(batch["input_ids"], training=True).logits
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(batch["y"], logits))
