"""A pair that makes no batches: what it takes is said by model.inputs."""


def torch_model():
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.e = nn.Embedding(20, 6)
            self.l = nn.Linear(6, 3)

        def forward(self, ids, scale):
            return self.l(self.e(ids).mean(1) * scale)

    return Net()


def tensorflow_model():
    import keras
    from keras import layers, ops

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.e = layers.Embedding(20, 6)
            self.l = layers.Dense(3)

        def call(self, ids, scale):
            return self.l(ops.mean(self.e(ids), axis=1) * scale)

    return Net()
