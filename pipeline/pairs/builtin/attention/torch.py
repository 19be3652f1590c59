"""The encoder block in PyTorch."""

import torch
from torch import nn

from pipeline.pairs.builtin.attention.spec import PARTS, sizes
from pipeline.pairs.builtin.mlp.torch import norm_map
from pipeline.pairs.pair import Place
from pipeline.watching import seen


class Attention(nn.Module):
    """Embedded rows through one encoder block; their mean goes out.

    Shapes: N samples, T times, H heads, D values a head.
    """

    def __init__(
        self,
        *,
        inputs: tuple[int, ...],
        outputs: int,
        width: int,
        heads: int,
        hidden: int,
        norm_epsilon: float,
    ) -> None:
        """Make the block for samples of shape `inputs` and `outputs` values.

        Parameters
        ----------
        width, hidden
            Values of an embedded row, and units of the feed-forward part.
        heads
            Heads of the attention, which divide `width`.
        norm_epsilon
            What a layer norm adds to the variance.
        """
        super().__init__()
        self.split = (-1, inputs[0], heads, width // heads)
        self.positions = nn.Parameter(0.1 * torch.randn(inputs[0], width))
        for part, (before, after) in sizes(inputs, outputs, width=width, hidden=hidden).items():
            setattr(self, part, nn.Linear(before, after, bias=part != "key"))
        self.norm1 = nn.LayerNorm(width, eps=norm_epsilon, elementwise_affine=True, bias=True)
        self.norm2 = nn.LayerNorm(width, eps=norm_epsilon, elementwise_affine=True, bias=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return outputs of shape ``(n, outputs)`` of samples of shape ``(n, times, features)``."""
        x = seen("embed", self.embed(x) + self.positions)
        x = seen("norm1", self.norm1(x + seen("attend", self.attend(x))))
        up = seen("up", self.up(x))
        x = seen("norm2", self.norm2(x + self.down(torch.relu(up))))
        return self.out(torch.mean(x, dim=1))

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        """Multi-head self-attention."""
        q_NHTD = self.query(x).reshape(self.split).transpose(1, 2)
        k_NHDT = self.key(x).reshape(self.split).permute(0, 2, 3, 1)
        v_NHTD = self.value(x).reshape(self.split).transpose(1, 2)
        score_NHTT = seen("score", q_NHTD @ k_NHDT * self.split[-1] ** -0.5)
        weight_NHTT = torch.softmax(score_NHTT, dim=-1)
        return self.mix((weight_NHTT @ v_NHTD).transpose(1, 2).reshape(x.shape))


def name_map(model: Attention) -> dict[str, Place]:
    """Return where each neutral parameter lives."""
    placed = {"positions": Place("positions")}
    for part in PARTS:
        placed[f"{part}.w"] = Place(f"{part}.weight", (1, 0))
        if part != "key":
            placed[f"{part}.b"] = Place(f"{part}.bias")
    for norm in ("norm1", "norm2"):
        placed |= norm_map(getattr(model, norm), norm, norm)
    return placed
