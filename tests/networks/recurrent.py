"""Recurrent networks of a fixed length, and convolutions in time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from networks.base import network

SEQUENCE = (4, 8)


class Recurrent(nn.Module):
    """A recurrent layer, then classes of the last step."""

    def __init__(self, layer: type[nn.Module], **options: object) -> None:
        super().__init__()
        self.layer = layer(8, 6, batch_first=True, **options)
        self.out = nn.Linear(12 if options.get("bidirectional") else 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(x)[0][:, -1])


class Causal(nn.Module):
    """A dilated convolution that looks back alone, with WaveNet's gate."""

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.pad = nn.ConstantPad1d((dilation, 0), 0.0)
        self.value, self.gate = (nn.Conv1d(8, 8, 2, dilation=dilation) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.pad(x)
        return x + torch.tanh(self.value(y)) * torch.sigmoid(self.gate(y))


LAYERS = {"RNN": nn.RNN, "LSTM": nn.LSTM, "GRU": nn.GRU}
VARIANTS = {"": {}, ", both ways": {"bidirectional": True}, ", two layers": {"num_layers": 2}}
for name, layer in LAYERS.items():
    for variant, options in VARIANTS.items():
        network(name + variant, SEQUENCE, 0.002)(lambda layer=layer, options=options: Recurrent(layer, **options))


@network("WaveNet", (8, 6), 0.002)
def wavenet() -> nn.Module:
    return nn.Sequential(Causal(1), Causal(2), nn.Flatten(), nn.Linear(48, 3))


@network("temporal convolutions", (8, 6), 0.005)
def temporal() -> nn.Module:
    return nn.Sequential(nn.Conv1d(8, 8, 3, padding=2, dilation=2), nn.ReLU(), nn.Conv1d(8, 8, 3, padding=1),
                         nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 3))  # fmt: skip
