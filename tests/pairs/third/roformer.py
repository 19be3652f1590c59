"""RoFormer as transformers has it: PyTorch freezes its table of positions, TensorFlow trains it."""

import numpy as np


def make_config():
    from transformers import RoFormerConfig

    return RoFormerConfig(
        vocab_size=50, embedding_size=16, hidden_size=16, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=32, max_position_embeddings=16, num_labels=3,
    )  # fmt: skip


def torch_model():
    from transformers import RoFormerForSequenceClassification

    return RoFormerForSequenceClassification(make_config())


def tensorflow_model():
    from transformers import TFRoFormerForSequenceClassification

    return TFRoFormerForSequenceClassification(make_config())


def batches(rng):
    while True:
        tokens = rng.integers(1, 50, (4, 8)).astype(np.int32)
        yield {"input_ids": tokens, "y": rng.integers(0, 3, 4)}
