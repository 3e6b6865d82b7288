"""Training of robust cascades: network after network, on what those before it do not certify.

Wong et al. (2018), section 3.3 and Algorithm 2; Wong (2020), Algorithm 4, trains in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from training.history import History
from training.method import TrainingMethod
from training.run import train
from training.training_set import Data, held_out_of, training_set
from verifier.api import Verifier
from verifier.arguments import input_errors
from verifier.certification.dataset import Dataset
from verifier.errors import InputError
from verifier.network_answer import Rule
from verifier.network_cascade import NetworkCascade

#: networks that a factory is asked for
DEFAULT_COUNT = 3
#: images that are certified at once
CERTIFIED_AT_ONCE = 250


class TrainedCascade(NamedTuple):
    """What `train_cascade` returns."""

    cascade: NetworkCascade
    histories: tuple[History, ...]  #: of each network's run
    images: tuple[int, ...]  #: training images of each network, and then how many none of them certifies


def train_cascade(
    networks: Sequence[nn.Module] | Callable[[], nn.Module],
    data: Data,
    method: TrainingMethod,
    *,
    epochs: int,
    count: int | None = None,
    rule: Rule | str = Rule.AGREED,
    certified_by: Sequence[str] = ("interval", "dual"),
    device: torch.device | str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    seed: int = 0,
    validation: int | None = None,
    patience: int | None = None,
    **settings: Any,
) -> TrainedCascade:
    """Train networks one after the other, each on the images for which none before certifies its own prediction.

    A certified prediction takes its image away even where it is wrong, as in the paper: there the cascade's answer is
    given. Training ends early when no image is left. The images for validation are held out once, of all data: no
    network is trained on them. The best epoch of each network is chosen by those that the networks before it do not
    certify; where none are left, it is the last one.

    Args:
        networks: modules, trained in place in this order; or what makes one per call, from torch's global generator
            (which is seeded for it, and put back).
        data, method, epochs, device, patience: as of `train`, for each network.
        count: how many networks a factory is asked for at most; default 3.
        rule: of the cascade (verifier.network_answer.Rule): training is the same.
        certified_by: names of the stages that certify, here and in the cascade.
        out: folder: each network's run in stage0, stage1, ..., and the cascade (`load_cascade`); default none.
        resume: go on with what is in `out`. What each network leaves to the next is certified anew.
        seed: network k has the seed `seed` + k.
        validation: images held out; default a tenth, at most 1000.
        settings: more of `train`'s, such as `measure_every`.

    Raises:
        As `train`.
    """
    makers = _makers(networks, count, seed)
    with input_errors():
        cascade_of = partial(
            NetworkCascade, eps=method.eps, threat=str(method.threat), clip=method.clip, rule=Rule(rule),
            stages=tuple(certified_by),
        )  # fmt: skip
    cascade_of((nn.Identity(),))  # raises now what it would raise after the first network's training
    left = training_set(data)
    left, held = _split(left, validation, seed)
    trained: list[nn.Module] = []
    histories, images = [], [len(left)]
    for k, make in enumerate(makers):
        choosing = {"validation": 0} if held is None else {"held_out": held, "patience": patience}
        folder = None if out is None else Path(out) / f"stage{k}"
        network, history = train(
            make(), left, method, epochs=epochs, device=device, out=folder, resume=resume, seed=seed + k,
            **{**settings, **choosing},
        )  # fmt: skip
        trained.append(network)
        histories.append(history)
        cascade = cascade_of(tuple(trained))
        if out is not None:
            cascade.save(out)
        remaining = uncertified(network, left, method, certified_by)
        images.append(0 if remaining is None else len(remaining))
        if remaining is None:
            break
        left, held = remaining, None if held is None else uncertified(network, held, method, certified_by)
    return TrainedCascade(cascade, tuple(histories), tuple(images))


def uncertified(network: nn.Module, data: Dataset, method: TrainingMethod, stages: Sequence[str]) -> Dataset | None:
    """The examples at which the network's own prediction is not certified; None where there are none.

    Args:
        network: in eval mode. stages: names of those that certify.
    """
    verifier = Verifier(network, data.example_input().to(_device(network)), stages=list(stages))
    proved: list[Tensor] = []
    for x in data.images.split(CERTIFIED_AT_ONCE):
        here = x.to(verifier.device)
        proved.append(verifier.run_own(here, method.sets(here), None, None).verified)
    open_ = ~torch.cat(proved)
    return Dataset(data.images[open_], data.labels[open_]) if bool(open_.any()) else None


def _device(network: nn.Module) -> torch.device:
    return next((p.device for p in network.parameters()), torch.device("cpu"))


def _makers(
    networks: Sequence[nn.Module] | Callable[[], nn.Module], count: int | None, seed: int
) -> list[Callable[[], nn.Module]]:
    """What gives each network when its turn comes."""
    if isinstance(networks, Sequence):
        if not networks or (count is not None and count != len(networks)):
            raise InputError(f"{len(networks)} networks are given, count is {count}: give at least one, or a factory")
        return [lambda n=n: n for n in networks]  # type: ignore[misc]
    wanted = DEFAULT_COUNT if count is None else count
    if wanted < 1:
        raise InputError(f"count must be at least 1, got {wanted}")
    factory = networks

    def made(k: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed + k)
            return factory()

    return [lambda k=k: made(k) for k in range(wanted)]  # type: ignore[misc]


def _split(data: Dataset, validation: int | None, seed: int) -> tuple[Dataset, Dataset | None]:
    """The images to train on, and those held out; None where none are."""
    held = held_out_of(len(data), validation)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    parts = [Dataset(data.images[i], data.labels[i]) for i in (order[held:].sort().values, order[:held].sort().values)]
    return parts[0], parts[1] if held else None
