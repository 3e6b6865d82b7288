"""The pretended device refuses what CUDA refuses, counts where the host waits, and computes as the CPU does."""

from __future__ import annotations

import copy
import io
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

ON = "cuda"


def test_tensors_say_where_they_are(device):
    with device():
        for made in (torch.zeros(2, device=ON), torch.ones(2).to(ON), torch.tensor([1.0, 2.0], device=ON),
                     torch.as_tensor([1.0], device=ON), torch.arange(3, device=ON), torch.full((2,), 3.0, device=ON),
                     torch.ones(2).cuda(), torch.eye(2, device=ON), torch.ones(1, device=ON).new_tensor([2.0]),
                     torch.ones(1, device=ON).new_zeros(2), torch.linspace(0, 1, 3, device=ON)):  # fmt: skip
            assert made.device == torch.device("cuda:0") and made.is_cuda
            assert made.cpu().device.type == "cpu" and (made + 1).is_cuda
        assert torch.tensor([1.0, 2.0], device=ON).tolist() == [1.0, 2.0]
    assert torch.ones(2).device.type == "cpu"


MIXED: dict[str, Callable[[Tensor, Tensor], object]] = {
    "sum": lambda a, b: a + b,
    "sum into the host's": lambda a, b: b.add_(a),
    "product": lambda a, b: a @ b,
    "concatenation": lambda a, b: torch.cat([a, b]),
    "gather": lambda a, b: a.gather(0, b.long()),
    "index_select": lambda a, b: a.index_select(0, torch.tensor([0])),
    "values put": lambda a, b: a.index_put_((torch.tensor([0], device=ON),), b[:1]),
    "the device's index": lambda a, b: b[torch.tensor([0], device=ON)],
    "clamp by a number of the host": lambda a, b: a.clamp(b[0, 0], b[1, 1]),
    "choice": lambda a, b: torch.where(a > 0, a, b),
    "numbers of the host's generator": lambda a, b: torch.rand(2, device=ON, generator=torch.Generator()),
    "numbers of the device's generator": lambda a, b: torch.rand(2, generator=torch.Generator(ON)),
    "numpy": lambda a, b: a.numpy(),
    "whole numbers multiplied": lambda a, b: a.long() @ a.long(),
    "a layer": lambda a, b: nn.Linear(2, 2)(a),
}


@pytest.mark.parametrize("name", MIXED)
def test_what_cuda_refuses(device, name: str):
    with device() as account:
        with pytest.raises((RuntimeError, TypeError)):
            MIXED[name](torch.ones(2, 2, device=ON), torch.ones(2, 2))
        if account.counted:
            assert account.mixes.total() == 1
            account.mixes.clear()


def test_what_was_refused_is_told_though_the_error_was_swallowed(device):
    with pytest.raises(AssertionError, match=r"swallowed(?s:.*)two devices"), device() as account:
        if not account.counted:
            pytest.skip("a real device: nothing is counted")
        with pytest.raises(RuntimeError):
            torch.ones(2, device=ON) + torch.ones(2)


def test_what_cuda_takes(device):
    with device() as account:
        a, host = torch.arange(6.0, device=ON).reshape(2, 3), torch.tensor(2.0)
        assert torch.equal((a * host).cpu(), torch.arange(6.0).reshape(2, 3) * 2)
        assert (host - a).is_cuda and torch.where(a > 1, a, host).is_cuda and a.masked_fill(a > 1, host).is_cuda
        assert a[torch.tensor([1])].is_cuda
        a[torch.tensor([0])] = host
        assert a.cpu()[0].tolist() == [2.0, 2.0, 2.0]
        assert not account.mixes


def test_where_the_host_waits(device):
    with device() as account:
        a = torch.arange(6.0, device=ON)
        if not account.counted:
            pytest.skip("a real device: nothing is counted")
        assert (account.syncs.total(), account.up.total(), account.down.total(), account.launches) == (0, 0, 0, 1)
        steps: dict[str, Callable[[], object]] = {
            "item": a.sum().item, "bool": lambda: bool(a[0] == 0), "nonzero": lambda: a.nonzero(),
            "mask": lambda: a[a > 2], "if": lambda: 1 if (a > 0).any() else 0, "equal": lambda: torch.equal(a, a),
            "unique": a.unique, "solve": lambda: torch.linalg.solve(torch.eye(2, device=ON), torch.eye(2, device=ON)),
            "synchronize": torch.cuda.synchronize,
        }  # fmt: skip
        for name, step in steps.items():
            before = account.syncs.total()
            step()
            assert account.syncs.total() == before + 1, name
        before = account.syncs.total()
        torch.where(a > 2, a, 0.0).cumsum(0).index_select(0, torch.tensor([1], device=ON)).topk(1)
        assert account.syncs.total() == before and account.down.total() == 0
        a.cpu()
        assert account.down.total() == 1 and account.waits == before + 1


def test_gradients_and_views(device):
    with device():
        x = torch.arange(4.0, device=ON, requires_grad=True)
        y = x.reshape(2, 2) * 3
        y.T.square().sum().backward()
        assert x.grad is not None and x.grad.is_cuda and x.grad.tolist() == [0.0, 18.0, 36.0, 54.0]
        z = torch.zeros(2, 2, device=ON)
        z[0].add_(1)
        z.T[1] = 5.0
        assert z.tolist() == [[1.0, 5.0], [0.0, 5.0]]


def test_modules_keep_their_parameters(device):
    with device():
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
        before = list(model.parameters())
        optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
        on_host = copy.deepcopy(model)
        assert model.to(ON) is model and all(a is b for a, b in zip(model.parameters(), before, strict=True))
        assert all(p.is_cuda and isinstance(p, nn.Parameter) for p in model.parameters())
        x = torch.rand(3, 1, 4, 4)
        for one, place in ((model, ON), (on_host, "cpu")):
            one(x.to(place)).square().sum().backward()
        optimiser.step()
        torch.optim.Adam(on_host.parameters(), lr=0.1).step()
        for one, other in zip(model.parameters(), on_host.parameters(), strict=True):
            assert torch.allclose(one.cpu(), other, atol=1e-4)
        other = copy.deepcopy(model)
        assert all(p.is_cuda and isinstance(p, nn.Parameter) for p in other.parameters())
        assert other.to("cpu")[0].weight.device.type == "cpu"


def test_generators_of_the_device(device):
    with device():
        drawn = [torch.rand(5, device=ON, generator=torch.Generator(ON).manual_seed(seed)) for seed in (1, 1, 2)]
        assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
        torch.manual_seed(3)
        on_host = torch.rand(2)
        torch.manual_seed(3)
        state = torch.cuda.get_rng_state()
        once = torch.rand(5, device=ON)
        assert torch.equal(torch.rand(2), on_host), "the host's numbers are others"
        torch.cuda.set_rng_state(state)
        assert torch.equal(once, torch.rand(5, device=ON))


def test_files_and_threads(device):
    with device():
        file = io.BytesIO()
        torch.save({"a": torch.arange(3.0, device=ON)}, file)
        file.seek(0)
        assert torch.load(file, map_location="cpu", weights_only=True)["a"].tolist() == [0.0, 1.0, 2.0]
        made: list[Tensor] = []
        thread = threading.Thread(target=lambda: made.append(torch.ones(2, device=ON) * 2))
        thread.start()
        thread.join()
        assert made[0].is_cuda and made[0].tolist() == [2.0, 2.0]


def test_a_model_on_the_device_is_traced(device):
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(3, 2)
            self.register_buffer("shift", torch.ones(2))

        def forward(self, x: Tensor) -> Tensor:  # [B, 3] -> [B, 2]
            return self.first(x).relu() + self.shift * torch.arange(2, device=x.device)

    with device():
        model = Model().eval().to(ON)
        with pytest.raises(RuntimeError):
            torch.export.export(model, (torch.ones(2, 3),))
        program = torch.export.export(model, (torch.ones(2, 3, device=ON),))
        if hasattr(model.shift, "inner"):
            from device.tensors import desk

            desk.account.mixes.clear()
        assert any(node.kwargs.get("device") == torch.device("cuda:0") for node in program.graph.nodes)
