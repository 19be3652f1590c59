"""The recurrent network in PyTorch."""

import torch
from torch import nn

from pipeline.pairs.builtin.rnn.spec import GATES
from pipeline.pairs.pair import Place
from pipeline.watching import seen


class Rnn(nn.Module):
    """A GRU or LSTM cell, written out, over the rows of a sample; the last state goes out."""

    def __init__(self, *, inputs: tuple[int, ...], outputs: int, cell: str, width: int) -> None:
        """Make the cell, ``gru`` or ``lstm`` with a state of `width` values, and the last layer.

        Samples have shape `inputs`, ``(times, features)``; each gives `outputs` values.
        """
        super().__init__()
        self.cell, self.width = cell, width
        self.kernel = self.draw(inputs[1], GATES[cell] * width)
        self.recurrent = self.draw(width, GATES[cell] * width)
        self.bias = self.draw(GATES[cell] * width)
        if cell == "gru":
            self.inner = self.draw(width)
        self.out_w = self.draw(width, outputs)
        self.out_b = self.draw(outputs)

    def draw(self, *shape: int) -> nn.Parameter:
        """Return a parameter drawn as PyTorch's own cells are, U(±1/√width)."""
        limit = self.width**-0.5
        return nn.Parameter(torch.empty(shape).uniform_(-limit, limit))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return outputs of shape ``(n, outputs)`` of samples of shape ``(n, times, features)``."""
        given = x @ self.kernel + self.bias
        state = torch.zeros_like(given[:, 0, : self.width])
        memory = state
        for t, row in enumerate(torch.unbind(given, dim=1), start=1):
            if self.cell == "gru":
                state = self.gru(row, state)
            else:
                state, memory = self.lstm(row, state, memory)
            state = seen(f"state{t}", state)
        return state @ self.out_w + self.out_b

    def gru(self, row: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """One step; the reset gate acts after the recurrent product, as in cuDNN."""
        z, r, c = torch.chunk(row, 3, dim=1)
        from_z, from_r, from_c = torch.chunk(state @ self.recurrent, 3, dim=1)
        z, r = torch.sigmoid(z + from_z), torch.sigmoid(r + from_r)
        candidate = torch.tanh(c + r * (from_c + self.inner))
        return z * state + (1 - z) * candidate

    def lstm(
        self, row: torch.Tensor, state: torch.Tensor, memory: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One step."""
        i, f, c, o = torch.chunk(row + state @ self.recurrent, 4, dim=1)
        memory = torch.sigmoid(f) * memory + torch.sigmoid(i) * torch.tanh(c)
        return torch.sigmoid(o) * torch.tanh(memory), memory


def name_map(model: Rnn) -> dict[str, Place]:
    """Return where each neutral parameter lives."""
    names = ["kernel", "recurrent", "bias"] + ["inner"] * (model.cell == "gru")
    placed = {name: Place(name) for name in names}
    return placed | {"out.w": Place("out_w"), "out.b": Place("out_b")}
