"""A vision transformer as transformers has it in both frameworks, tiny, with random weights."""


def make_config():
    from transformers import ViTConfig

    return ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        image_size=16, patch_size=8, num_channels=3, num_labels=4,
    )  # fmt: skip


def torch_model():
    from transformers import ViTForImageClassification

    return ViTForImageClassification(make_config())


def tensorflow_model():
    from transformers import TFViTForImageClassification

    return TFViTForImageClassification(make_config())


def batches(rng):
    while True:
        images = rng.standard_normal((3, 3, 16, 16))  # both take the channels in front
        yield {"pixel_values": images, "y": rng.integers(0, 4, 3)}


def torch_batch(batch):
    return batch


def tensorflow_batch(batch):
    return batch
