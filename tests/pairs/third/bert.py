"""BERT as transformers has it in both frameworks, tiny and with random weights."""

import numpy as np


def make_config():
    from transformers import BertConfig

    return BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=16, num_labels=3,
    )  # fmt: skip


def torch_model():
    from transformers import BertForSequenceClassification

    return BertForSequenceClassification(make_config())


def tensorflow_model():
    from transformers import TFBertForSequenceClassification

    return TFBertForSequenceClassification(make_config())


def batches(rng):
    mask = np.ones((4, 8), np.int32)
    mask[1, 5:] = mask[3, 3:] = 0
    while True:
        tokens = rng.integers(1, 50, (4, 8)).astype(np.int32)
        yield {"input_ids": tokens, "attention_mask": mask, "y": rng.integers(0, 3, 4)}
