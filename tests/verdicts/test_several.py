"""Several inputs, several outputs, two networks: the verdicts are those of the question as it is said."""

from pathlib import Path

import pytest
import torch
from helpers.onnx_files import write_mlp
from torch import Tensor, nn

from properties import Box, L2Ball, LinfBall, Product, output_range, robustness
from verifier import InputError, ModelError, equivalent, monotonic, verify
from verifier.graph.onnx_model import OnnxModel


class Two(nn.Module):
    """Logits of an image [B, 2, 2] and a vector [B, 3]: (sum of the image, vector's first entry, 0.5)."""

    def forward(self, image: Tensor, vector: Tensor) -> Tensor:
        total = image.flatten(1).sum(1, keepdim=True)
        return torch.cat([torch.relu(total), torch.relu(vector[:, :1]), vector[:, :1] * 0 + 0.5], 1)


class Outputs(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.layer = kind, nn.Linear(2, 2)

    def forward(self, x: Tensor) -> object:
        y = self.layer(x)
        return {"mean": y, "scale": torch.relu(y)} if self.kind == "named" else (y, torch.relu(y))


IMAGE, VECTOR = torch.full((1, 2, 2), 0.5), torch.tensor([[1.0, 7.0, -7.0]])


def test_each_input_has_its_own_radius():
    model = Two().eval()  # logits 2, 1, 0.5
    assert verify(model, (IMAGE, VECTOR), eps=(0.1, 0.0)).verified.all()
    assert verify(model, (IMAGE, VECTOR), eps=(0.0, 0.9)).verified.all()
    for eps in ((0.3, 0.0), (0.1, 0.9)):
        result = verify(model, (IMAGE, VECTOR), eps=eps)
        assert result.verdict[0].name == "FALSIFIED"
        image, vector = result.counterexample[0][:4].reshape(1, 2, 2), result.counterexample[0][4:].reshape(1, 3)
        assert (image - IMAGE).abs().max() <= eps[0] + 1e-6 and (vector - VECTOR).abs().max() <= eps[1] + 1e-6
        assert int(model(image, vector).argmax()) != 0
        if eps[1] == 0:
            assert torch.equal(vector, VECTOR)


def test_each_input_has_its_own_set_and_boxes_have_certificates():
    model = Two().eval()
    boxes = LinfBall(IMAGE, 0.1), Box(VECTOR - torch.tensor([1.0, 0, 0]), VECTOR)
    result = verify(model, (IMAGE, VECTOR), input_set=boxes)
    assert result.verified.all() and result.certificate[0].check().valid
    round_ = L2Ball(IMAGE, 0.45), LinfBall(VECTOR, 0.0)  # the sum falls by 0.9, or by 1.1
    assert verify(model, (IMAGE, VECTOR), input_set=round_).verified.all()
    assert (
        verify(model, (IMAGE, VECTOR), input_set=Product([L2Ball(IMAGE, 0.55), round_[1]])).verdict[0].name
        == "FALSIFIED"
    )


def test_what_does_not_fit_is_refused():
    model = Two().eval()
    for wrong, message in (
        (lambda: verify(model, (IMAGE, VECTOR), eps=(0.1,)), "2 radii, got 1"),
        (lambda: verify(model, (IMAGE, VECTOR.double()), eps=0.1), "one precision"),
        (lambda: verify(model, (IMAGE, torch.cat([VECTOR] * 2)), eps=0.1), "one batch size"),
        (lambda: verify(model, (IMAGE, VECTOR), input_set=LinfBall(IMAGE, 0.1)), "a set of that shape each"),
        (lambda: verify(model, (IMAGE, VECTOR), input_set=(LinfBall(VECTOR, 0.1),) * 2), "a set of that shape each"),
        (
            lambda: verify(nn.Flatten().eval(), IMAGE, input_set=(LinfBall(IMAGE, 0.1),)),
            "several are for several inputs",
        ),
    ):
        with pytest.raises(InputError, match=message):
            wrong()
    with pytest.raises(ModelError, match="training mode"):
        verify(Two(), (IMAGE, VECTOR), eps=0.1)


@pytest.mark.parametrize(("kind", "first", "second"), [("named", "mean", "scale"), ("plain", 0, 1), ("named", 0, 1)])
def test_an_output_is_chosen(kind, first, second):
    torch.manual_seed(0)
    model, x = Outputs(kind).eval(), torch.tensor([[0.3, -0.2]])
    positive = output_range((2,), low=0.0)
    assert verify(model, x, 0.5, output=second, spec=positive).verified.all()
    assert verify(model, x, 5.0, output=first, spec=positive).verdict[0].name == "FALSIFIED"
    with pytest.raises(InputError, match="no output"):
        verify(model, x, 0.5, output="variance" if kind == "named" else 7, spec=positive)


def mlp(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).eval()


def test_two_networks_are_within_a_distance_or_are_not():
    f, g, x = mlp(0), mlp(0), torch.tensor([[0.1, 0.2, -0.3]])
    with torch.no_grad():
        g[2].bias += 0.05
    assert equivalent(f, g, x, 0.01, distance=0.2).verified.all()
    assert equivalent(f, g, x, 0.01, distance=0.049).verdict[0].name == "FALSIFIED"
    other = equivalent(f, mlp(1), x, 0.1, distance=0.01)
    point = other.counterexample[0].unsqueeze(0)
    assert (f(point) - mlp(1)(point)).abs().max() > 0.01
    with pytest.raises(InputError, match="not comparable"):
        equivalent(f, nn.Linear(3, 4).eval(), x, 0.1, distance=0.1)
    with pytest.raises(InputError, match="distance"):
        equivalent(f, g, x, 0.1, distance=0.0)


def test_an_output_that_never_falls_is_monotonic():
    f = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).eval()
    with torch.no_grad():
        f[0].weight.copy_(torch.tensor([[1.0, 1.0], [2.0, -1.0], [0.5, 0.0]]))
        f[0].bias.copy_(torch.tensor([2.0, 2.0, 2.0]))
        f[2].weight.fill_(1.0)
    x = torch.zeros(1, 2)
    assert monotonic(f, x, 0.3, shift=torch.tensor([0.5, 0.0])).verified.all()
    assert monotonic(f, x, 0.3, shift=torch.tensor([-0.5, 0.0]), decreasing=True).verified.all()
    assert monotonic(f, x, 0.3, shift=torch.tensor([-0.5, 0.0])).verdict[0].name == "FALSIFIED"
    with pytest.raises(InputError, match="shape of one input"):
        monotonic(f, x, 0.3, shift=torch.tensor([0.5]))


def written(model: nn.Module, path: Path) -> OnnxModel:
    layers = [(layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in (model[0], model[2])]
    return OnnxModel.load(write_mlp(path, layers))


@pytest.mark.parametrize("kinds", ["file file", "module file", "file module", "program file"])
def test_files_are_compared_as_modules_are(tmp_path: Path, kinds: str):
    """With each other and with modules; the counterexample is replayed in both, the certificate is checked."""
    f, g, x = mlp(0), mlp(0), torch.tensor([[0.1, 0.2, -0.3]])
    with torch.no_grad():
        g[2].bias += 0.05
    made = {
        "file": lambda model, name: written(model, tmp_path / name),
        "module": lambda model, name: model,
        "program": lambda model, name: torch.export.export(model, (x,)),
    }
    pair = [
        made[kind](model, f"{kind}{k}.onnx") for k, (kind, model) in enumerate(zip(kinds.split(), (f, g), strict=True))
    ]
    near = equivalent(*pair, x, 0.01, distance=0.051)
    assert near.verified.all() and near.certificate[0].check().valid
    apart = equivalent(*pair, x, 0.01, distance=0.049)
    point = apart.counterexample[0].unsqueeze(0)
    assert apart.verdict[0].name == "FALSIFIED" and (f(point) - g(point)).abs().max() > 0.049
    assert (point - x).abs().max() <= 0.01
    with pytest.raises(InputError, match="not comparable"):
        equivalent(pair[0], nn.Linear(3, 4).eval(), x, 0.1, distance=0.1)
    with pytest.raises(InputError, match=r"in torch\.float32, got"):
        equivalent(written(f, tmp_path / "f.onnx"), mlp(0).double(), x.double(), 0.1, distance=0.1)


def test_a_file_that_never_falls_is_monotonic(tmp_path: Path):
    f, x = mlp(0), torch.zeros(2, 3)
    with torch.no_grad():
        for p in f.parameters():
            p.abs_()
    model, step = written(f, tmp_path / "f.onnx"), torch.tensor([0.5, 0.0, 0.25])
    assert monotonic(model, x, 0.1, shift=step).verified.all()
    fallen = monotonic(model, x, 0.1, shift=-step)
    point = fallen.counterexample[0].unsqueeze(0)
    assert fallen.verdict[0].name == "FALSIFIED" and bool((f(point - step) < f(point)).any())
    assert monotonic(model, x, 0.1, shift=-step, decreasing=True).verified.all()


def test_a_product_is_all_of_its_parts():
    product = Product([LinfBall(IMAGE, 0.1), L2Ball(VECTOR, 0.2)])
    x = torch.cat([IMAGE.flatten(1), VECTOR], 1)
    assert product.contains(x).all()
    for at in (0, 5):
        moved = x.clone()
        moved[0, at] += 0.25
        assert not product.contains(moved).any()
    with pytest.raises(ValueError, match="no record"):
        product.record()
    with pytest.raises(ValueError, match="one batch"):
        Product([LinfBall(IMAGE, 0.1), LinfBall(torch.cat([VECTOR] * 2), 0.1)])
    assert verify(nn.Identity().eval(), x, input_set=product, spec=robustness(torch.tensor([5]), 7)).verified.all()
