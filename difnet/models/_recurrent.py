"""An LSTM over a sequence, and one linear layer on its last output."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


class LSTM(nn.LSTM):
    """`torch.nn.LSTM`, inputs (n, steps, size): the same parameters and outputs, but made to be differentiated twice.

    Where gradients are wanted, every step is written out as one matrix product over projections made beforehand: the
    second-order meta-gradient of MAML takes some two thirds of the time it takes through PyTorch's own.
    """

    def __init__(self, inputs: int, hidden: int, layers: int) -> None:
        super().__init__(inputs, hidden, layers, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """All outputs of the last layer: (n, steps, hidden)."""
        if not torch.is_grad_enabled():
            return super().forward(x)[0]
        steps = x.transpose(0, 1)
        for layer in range(self.num_layers):
            steps = self._layer(steps, *(getattr(self, f"{name}_l{layer}") for name in
                                         ("weight_ih", "weight_hh", "bias_ih", "bias_hh")))  # fmt: skip
        return steps.transpose(0, 1)

    def _layer(self, steps: Tensor, of_input: Tensor, of_hidden: Tensor, bias: Tensor, other_bias: Tensor) -> Tensor:
        projected = linear(steps, of_input, bias + other_bias)
        hidden = cell = projected.new_zeros(projected.shape[1], self.hidden_size)
        outputs = []
        for step in projected.unbind(0):
            entry, forget, change, out = torch.addmm(step, hidden, of_hidden.t()).chunk(4, 1)
            cell = forget.sigmoid() * cell + entry.sigmoid() * change.tanh()
            hidden = out.sigmoid() * cell.tanh()
            outputs.append(hidden)
        return torch.stack(outputs)


class Recurrent(nn.Module):
    """Sequences, of numbers to be embedded or of vectors, to the outputs of one linear layer on the LSTM's last."""

    def __init__(self, embedding: nn.Embedding | None, vectors: int, hidden: int, layers: int, outputs: int) -> None:
        super().__init__()
        self.embedding = embedding
        self.lstm = LSTM(vectors, hidden, layers)
        self.linear = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Numbers (n, steps), or vectors (n, steps, size), to (n, outputs)."""
        return self.linear(self.lstm(x if self.embedding is None else self.embedding(x.long()))[:, -1])
