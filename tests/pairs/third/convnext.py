"""ConvNext as transformers has it in both frameworks, tiny and with random weights."""


def make_config():
    from transformers import ConvNextConfig

    return ConvNextConfig(
        num_channels=3,
        hidden_sizes=[8, 16],
        depths=[1, 2],
        num_stages=2,
        num_labels=4,
        image_size=32,
    )


def torch_model():
    from transformers import ConvNextForImageClassification

    return ConvNextForImageClassification(make_config())


def tensorflow_model():
    from transformers import TFConvNextForImageClassification

    return TFConvNextForImageClassification(make_config())


def batches(rng):
    while True:
        images = rng.standard_normal((3, 3, 32, 32))  # both take the channels in front
        yield {"pixel_values": images, "y": rng.integers(0, 4, 3)}


def torch_batch(batch):
    return batch


def tensorflow_batch(batch):
    return batch
