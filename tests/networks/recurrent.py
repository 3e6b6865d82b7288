"""Recurrent networks of a fixed length, and convolutions in time."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from networks.base import network
from networks.residual import Residual

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


class MinimalGated(nn.Module):
    """GRU with one gate (Zhou et al. 2016), each step's values normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.forget, self.body, self.norm = nn.Linear(14, 6), nn.Linear(14, 6), nn.LayerNorm(6)
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 6)
        for step in x.unbind(1):
            keep = torch.sigmoid(self.forget(torch.cat([step, h], 1)))
            new = torch.tanh(self.norm(self.body(torch.cat([step, keep * h], 1))))
            h = (1 - keep) * h + keep * new
        return self.out(h)


class Peephole(nn.Module):
    """LSTM whose gates see the cell (Gers et al. 2002), its own loop over the steps."""

    def __init__(self) -> None:
        super().__init__()
        self.gates, self.peep = nn.Linear(14, 24), nn.Parameter(0.3 * torch.randn(3, 6))
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = cell = x.new_zeros(len(x), 6)
        for step in range(x.shape[1]):
            i, f, g, o = self.gates(torch.cat([x[:, step], h], 1)).chunk(4, 1)
            i, f = torch.sigmoid(i + self.peep[0] * cell), torch.sigmoid(f + self.peep[1] * cell)
            cell = f * cell + i * torch.tanh(g)
            h = torch.sigmoid(o + self.peep[2] * cell) * torch.tanh(cell)
        return self.out(h)


class StateSpace(nn.Module):
    """A diagonal linear recurrence between layers (S4D, Gu et al. 2022); `selective`: its steps see x (Mamba)."""

    def __init__(self, selective: bool) -> None:
        super().__init__()
        self.selective, self.rate, self.step = selective, nn.Parameter(torch.randn(8)), nn.Linear(8, 8)
        self.inner, self.gate, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        u, h, steps = self.inner(x), torch.zeros_like(x[:, 0]), []
        for place in range(x.shape[1]):
            step = F.softplus(self.step(x[:, place])) if self.selective else 0.5
            h = torch.exp(-step * self.rate.exp()) * h + step * u[:, place]
            steps.append(h)
        return self.out((torch.stack(steps, 1) * F.silu(self.gate(x))).mean(1))


class WeightedKeys(nn.Module):
    """RWKV's mixing of time (Peng et al. 2023): a decaying mean of values by the exponentials of keys."""

    def __init__(self) -> None:
        super().__init__()
        self.key, self.value, self.receive = (nn.Linear(8, 8, bias=False) for _ in range(3))
        self.decay, self.bonus, self.out = nn.Parameter(torch.rand(8)), nn.Parameter(torch.rand(8)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        shifted = F.pad(x, (0, 0, 1, -1))
        mixed = 0.6 * x + 0.4 * shifted
        k, v, r = self.key(mixed), self.value(mixed), torch.sigmoid(self.receive(mixed))
        above = below = torch.zeros_like(x[:, 0])
        for place in range(x.shape[1]):
            now, extra = torch.exp(k[:, place]), torch.exp(self.bonus + k[:, place])
            y = r[:, place] * (above + extra * v[:, place]) / (below + extra)
            above, below = self.decay * above + now * v[:, place], self.decay * below + now
        return self.out(y)


LAYERS = {"RNN": nn.RNN, "LSTM": nn.LSTM, "GRU": nn.GRU}
VARIANTS = {"": {}, ", both ways": {"bidirectional": True}, ", two layers": {"num_layers": 2}}
for name, layer in LAYERS.items():
    for variant, options in VARIANTS.items():
        network(name + variant, SEQUENCE, 0.002)(lambda layer=layer, options=options: Recurrent(layer, **options))


@network("temporal convolutions", (8, 6), 0.005)
def temporal() -> nn.Module:
    return nn.Sequential(nn.Conv1d(8, 8, 3, padding=2, dilation=2), nn.ReLU(), nn.Conv1d(8, 8, 3, padding=1),
                         nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 3))  # fmt: skip


@network("WaveNet", (8, 6), 0.002)
def wavenet() -> nn.Module:
    return nn.Sequential(Causal(1), Causal(2), nn.Flatten(), nn.Linear(48, 3))


@network("residual temporal convolutions", (8, 6), 0.005)
def residual_temporal() -> nn.Module:
    def block(dilation: int) -> nn.Module:
        pad = nn.ConstantPad1d((2 * dilation, 0), 0.0)
        return nn.Sequential(pad, weight_norm(nn.Conv1d(8, 8, 3, dilation=dilation)), nn.ReLU())

    return nn.Sequential(Residual(block(1)), Residual(block(2)), nn.Flatten(), nn.Linear(48, 3))


network("state space", SEQUENCE)(lambda: StateSpace(selective=False))
network("gated unit, minimal", SEQUENCE, 0.002)(MinimalGated)
network("LSTM with peepholes", SEQUENCE, 0.002)(Peephole)
network("state space, selective", SEQUENCE)(lambda: StateSpace(selective=True))
network("RWKV", SEQUENCE, 0.002)(WeightedKeys)
