"""Networks with jumps: proved where no jump matters, and never by a value at a jump that rounding decides."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from verifier import Trust, Verdict, verify

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sign": torch.sign,
    "floor": lambda x: torch.floor(4 * x) / 4,
    "ceil": lambda x: torch.ceil(4 * x) / 4,
    "step": lambda x: (x > 0).to(x.dtype),
    "round": lambda x: torch.round(8 * x) / 8,
}


class Pointwise(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:  # [...] -> [...]
        return self.function(x)


def network(name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 8), Pointwise(FUNCTIONS[name]), nn.Linear(8, 3)).eval()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_verdicts_agree_with_samples(name: str) -> None:
    seen = set()
    for seed in range(3):
        model, x = network(name, seed), torch.rand(4, 5, generator=torch.Generator().manual_seed(seed))
        label = model(x).argmax(1)
        for eps in (0.001, 0.1, 0.5):
            found = verify(model, x, eps=eps, budget=1)
            moved = x + eps * (2 * torch.rand(2000, *x.shape, generator=torch.Generator().manual_seed(seed)) - 1)
            kept = (model(moved.flatten(0, 1)).argmax(1).unflatten(0, (2000, 4)) == label).all(0)
            for i, verdict in enumerate(found.verdict):
                seen.add(verdict)
                least = Trust.SOLVER if str(found.decided_by[i]).startswith("milp") else Trust.CHECKED
                assert verdict is not Verdict.VERIFIED or (kept[i] and found.trust[i] >= least)
                if verdict is Verdict.FALSIFIED:
                    point = found.counterexample[i]
                    # verdicts are of the network over the real numbers: float32 may be on the other side of a jump
                    assert point is not None
                    assert network(name, seed).double()(point[None].double()).argmax(1) != label[i]
    assert {Verdict.VERIFIED, Verdict.FALSIFIED} <= seen or name == "ceil"


@pytest.mark.parametrize("name", ["sign", "step", "floor"])
def test_integer_programs_decide_networks_with_jumps(name: str) -> None:
    """Nothing is proved that a sample breaks; what no sample breaks is proved, where lines alone prove less."""
    torch.manual_seed(0)
    function = Pointwise(FUNCTIONS[name])
    model = nn.Sequential(nn.Linear(3, 5), function, nn.Linear(5, 4), function, nn.Linear(4, 3)).eval()
    x = torch.rand(6, 3, generator=torch.Generator().manual_seed(0))
    label = model(x).argmax(1)
    moved = x + 0.2 * (2 * torch.rand(4000, *x.shape, generator=torch.Generator().manual_seed(0)) - 1)
    kept = (model(moved.flatten(0, 1)).argmax(1).unflatten(0, (4000, 6)) == label).all(0)
    found = verify(model, x, eps=0.2, stages=("milp",), budget=20)
    proved = torch.tensor([v is Verdict.VERIFIED for v in found.verdict])
    assert torch.equal(proved, kept) and bool(kept.any())
    assert all(v is not Verdict.FALSIFIED or not k for v, k in zip(found.verdict, kept, strict=True))


def test_a_program_has_both_sides_of_a_jump() -> None:
    model = nn.Sequential(nn.Linear(2, 1, bias=False), Pointwise(torch.sign), nn.Linear(1, 2)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0]]))
        model[2].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        model[2].bias.copy_(torch.tensor([0.5, 0.0]))  # margins 0.5 + 2 sign: lost at -1, kept at 0 and 1
    x = torch.tensor([[0.0, 0.3], [0.3, 0.3]])
    found = verify(model, x, eps=0.2, label=torch.tensor([0, 0]), stages=("milp",))
    assert found.verdict[0] is not Verdict.VERIFIED and found.verdict[1] is Verdict.VERIFIED


def test_a_tie_is_not_decided_by_rounding() -> None:
    """The one point of the set is where the sign jumps: what rounding makes of it is no counterexample."""
    model = nn.Sequential(nn.Linear(2, 1, bias=False), Pointwise(torch.sign), nn.Linear(1, 2)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -1.0]]))
        model[2].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        model[2].bias.copy_(torch.tensor([0.0, 0.1]))
    x = torch.tensor([[0.3, 0.3]])
    assert verify(model, x, eps=0.0, label=torch.tensor([0])).verdict == (Verdict.UNKNOWN,)
