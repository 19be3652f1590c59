"""The multilayer perceptron in PyTorch."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from pipeline.pairs.pair import Place
from pipeline.watching import seen

ACTIVATIONS = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": partial(nn.functional.gelu, approximate="none"),
}


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the second, with Keras's running statistics.

    Not `nn.BatchNorm1d` or `2d`: those divide a batch's variance by ``n`` to normalise with it, but
    by ``n − 1`` to remember it. So a port of a Keras model agrees while it trains and not when it
    is evaluated. Here, as in Keras, ``remembered = decay·remembered + (1 − decay)·batch``, and the
    variance is the same one in both places.

    One pass over `x` gives both: the kernel also returns ``i = 1/√(variance + ε)``, and the
    variance is ``i⁻² − ε``, to a few roundings of ``variance + ε``, the sum it is ever used in. A
    batch of one sample is normalised to `shift`, as in Keras, where PyTorch's own layer raises.

    Source: S. Ioffe and C. Szegedy, "Batch Normalization", arXiv:1502.03167 (2015).
    """

    mean: torch.Tensor
    variance: torch.Tensor

    def __init__(self, width: int, *, epsilon: float, decay: float) -> None:
        """Make the layer for `width` channels.

        Parameters
        ----------
        epsilon
            What is added to the variance.
        decay
            What the running statistics keep of themselves at each update.
        """
        super().__init__()
        self.epsilon, self.decay = epsilon, decay
        self.scale = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` of shape ``(n, width, ...)`` normalised, in training by the batch itself."""
        if not self.training:
            return nn.functional.batch_norm(
                x, self.mean, self.variance, self.scale, self.shift,
                training=False, momentum=0.0, eps=self.epsilon,
            )  # fmt: skip
        x, mean, i = torch.native_batch_norm(
            x, self.scale, self.shift, None, None,
            training=True, momentum=0.0, eps=self.epsilon,
        )  # fmt: skip
        with torch.no_grad():
            variance = (i**-2 - self.epsilon).clamp_(min=0)
            self.mean.mul_(self.decay).add_(mean * (1 - self.decay))
            self.variance.mul_(self.decay).add_(variance * (1 - self.decay))
        return x


class Mlp(nn.Module):
    """Fully connected layers: ``linear → norm → activation → dropout`` for each, then a linear."""

    def __init__(
        self,
        *,
        inputs: tuple[int, ...],
        outputs: int,
        widths: Sequence[int],
        activation: str,
        norm: str,
        norm_epsilon: float,
        norm_decay: float,
        dropout: float,
    ) -> None:
        """Make the layers for samples of shape `inputs` and `outputs` values.

        Parameters
        ----------
        widths
            Units of each hidden layer.
        activation, norm
            Names of what follows each linear; `norm` may be ``none``.
        norm_epsilon, norm_decay
            What a norm adds to the variance, and what running statistics keep of themselves.
        dropout
            The share of units that is dropped; the masks are given to the forward pass.
        """
        super().__init__()
        sizes = [inputs[0], *widths]
        bias = norm != "batch"
        self.activation = ACTIVATIONS[activation]
        self.hidden = nn.ModuleList(
            nn.Linear(before, after, bias=bias)
            for before, after in zip(sizes, widths, strict=False)
        )
        if norm == "batch":
            make = partial(BatchNorm, epsilon=norm_epsilon, decay=norm_decay)
        else:
            make = partial(nn.LayerNorm, eps=norm_epsilon, elementwise_affine=True, bias=True)
        self.norms = nn.ModuleList(make(width) for width in widths if norm != "none")
        self.out = nn.Linear(sizes[-1], outputs, bias=True)

    def forward(self, x: torch.Tensor, *masks: torch.Tensor) -> torch.Tensor:
        """Return outputs of shape ``(n, outputs)`` of samples of shape ``(n, features)``.

        There is a mask of shape ``(n, width)`` for each hidden layer, or none without dropout.
        """
        for k, layer in enumerate(self.hidden, start=1):
            x = seen(f"layer{k}", layer(x))
            if self.norms:
                x = seen(f"norm{k}", self.norms[k - 1](x))
            x = seen(f"activation{k}", self.activation(x))
            if masks:
                x = seen(f"dropout{k}", x * masks[k - 1])
        return self.out(x)


def name_map(model: Mlp) -> dict[str, Place]:
    """Return where each neutral parameter lives."""
    placed = {}
    for k, layer in enumerate(model.hidden, start=1):
        placed[f"layer{k}.w"] = Place(f"hidden.{k - 1}.weight", (1, 0))
        if layer.bias is not None:
            placed[f"layer{k}.b"] = Place(f"hidden.{k - 1}.bias")
        if model.norms:
            placed |= norm_map(model.norms[k - 1], f"norm{k}", f"norms.{k - 1}")
    return placed | {"out.w": Place("out.weight", (1, 0)), "out.b": Place("out.bias")}


def norm_map(norm: BatchNorm | nn.LayerNorm, name: str, path: str) -> dict[str, Place]:
    """Return where the parameters of one normalisation live, itself being at a path."""
    if isinstance(norm, nn.LayerNorm):
        return {f"{name}.scale": Place(f"{path}.weight"), f"{name}.shift": Place(f"{path}.bias")}
    return {
        f"{name}.scale": Place(f"{path}.scale"),
        f"{name}.shift": Place(f"{path}.shift"),
        f"{name}.mean": Place(f"{path}.mean", None, "statistic"),
        f"{name}.variance": Place(f"{path}.variance", None, "statistic"),
    }
