"""The demonstration: certify scikit-learn's digits with a small network that comes with the package.

Run as `python -m verifier.demo [--out DIR]`. The network was trained by `python -m training.digits`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

EPS = 0.06
WEIGHTS = Path(__file__).parent / "data" / "digits.safetensors"
TRAINING_IMAGES = 1200  #: the first ones train the network, the rest test it


def architecture() -> nn.Sequential:
    """A small convolutional network for 8x8 images."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 4, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip


def network() -> nn.Sequential:
    """The shipped network, in eval mode."""
    from safetensors.torch import load_file

    model = architecture()
    model.load_state_dict(load_file(WEIGHTS))
    return model.eval()


def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's digits: images [1797, 1, 8, 8] in [0, 1], labels [1797]."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16, torch.tensor(data.target)


def held_out_digits() -> tuple[Tensor, Tensor]:
    """The images [n, 1, 8, 8] that the network was not trained on, and their labels [n]."""
    images, labels = digits()
    return images[TRAINING_IMAGES:], labels[TRAINING_IMAGES:]


def main(arguments: list[str] | None = None) -> None:
    """Certify the test images, print the table, and draw one example with its counterexample."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out"), help="where the picture goes")
    parser.add_argument("--eps", type=float, default=EPS, help="radius of the perturbation, pixels are in [0, 1]")
    options = parser.parse_args(arguments)
    from rich.console import Console

    from verifier import certify, verify
    from verifier.certification.example import ExampleOutcome
    from verifier.plot import draw_example

    model = network()
    images, labels = held_out_digits()
    report = certify(model, images, labels, eps=options.eps, clip=(0, 1))
    console = Console()
    console.print(report.table())
    falsified = [row.index for row in report.rows() if row.outcome is ExampleOutcome.FALSIFIED and row.correct]
    if not falsified:
        console.print("no correctly classified digit was falsified: no picture to draw")
        return
    chosen = falsified[:1]
    result = verify(model, images[chosen], options.eps, label=labels[chosen], clip=(0, 1))
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "counterexample.png"
    draw_example(model, images[chosen[0]], result, path)
    console.print(
        f"digit {chosen[0]}: a {int(labels[chosen[0]])} that becomes another digit, drawn in {path}", soft_wrap=True
    )


if __name__ == "__main__":
    main()
