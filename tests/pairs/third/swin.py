"""Swin as transformers has it in both frameworks, tiny and with random weights."""


def make_config():
    from transformers import SwinConfig

    return SwinConfig(
        image_size=16,
        patch_size=2,
        num_channels=3,
        embed_dim=8,
        depths=[1, 1],
        num_heads=[2, 2],
        window_size=4,
        num_labels=4,
        drop_path_rate=0.0,
    )


def torch_model():
    from transformers import SwinForImageClassification

    return SwinForImageClassification(make_config())


def tensorflow_model():
    from transformers import TFSwinForImageClassification

    return TFSwinForImageClassification(make_config())


def batches(rng):
    while True:
        images = rng.standard_normal((3, 3, 16, 16))  # both take the channels in front
        yield {"pixel_values": images, "y": rng.integers(0, 4, 3)}


def torch_batch(batch):
    return batch


def tensorflow_batch(batch):
    return batch
