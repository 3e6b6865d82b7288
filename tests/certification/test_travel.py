"""Every kind of model goes to another process as bytes, and answers there as here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.models import labelled, small_mlp
from torch import nn

from properties import Perturbation, Question
from verifier import NetworkCascade, OnnxModel
from verifier.certification.dataset import dataset
from verifier.certification.spread import ExampleWork
from verifier.certification.work import Finished, Job, units
from verifier.questions import ImportedDifference
from verifier.workers.travel import packed, unpacked

IMAGES, LABELS = labelled(small_mlp(), (12,), 8)


def exported(folder: Path) -> Any:
    return torch.export.export(small_mlp(), (IMAGES[:2],), dynamic_shapes=({0: torch.export.Dim.AUTO},))


def onnx(folder: Path) -> Any:
    pytest.importorskip("onnxruntime")
    from helpers.onnx_files import write_mlp

    layers = [(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in small_mlp() if isinstance(m, nn.Linear)]
    return OnnxModel.load(write_mlp(folder / "net.onnx", layers))


def cascade(folder: Path) -> Any:
    return NetworkCascade([small_mlp(), small_mlp(seed=1)], eps=0.02)


def difference(folder: Path) -> Any:
    return ImportedDifference(small_mlp(), small_mlp())


@pytest.mark.parametrize("make", [lambda folder: small_mlp(), exported, onnx, cascade, difference])
def test_a_model_answers_there_as_here(tmp_path: Path, make: Any) -> None:
    model = make(tmp_path)
    asked = Perturbation(0.02)
    question = Question("near", (1.0,)) if isinstance(model, ImportedDifference) else None
    stages = None if isinstance(model, NetworkCascade) else ["clean", "dual", "branch", "attack"]
    job = Job(model, IMAGES[:1], LABELS[:1], question, stages, None, None, "real", certified=False)
    here = job.runner()
    (unit,) = units(dataset(IMAGES, LABELS), asked, 0, range(len(IMAGES)), 16, None, 60.0)
    found: list[list[Finished]] = []
    for work, asked_of in ((ExampleWork(here), unit), (unpacked(packed(ExampleWork(here))), unpacked(packed(unit)))):
        rows: list[Finished] = []
        work.do(asked_of, rows.append)
        found.append(unpacked(packed(rows)))
    for a, b in zip(*found, strict=True):
        one, other = a.record.example, b.record.example
        assert (one.index, one.outcome, one.stage, one.error) == (other.index, other.outcome, other.stage, other.error)
        np.testing.assert_allclose(list(one.margins or ()), list(other.margins or ()), atol=1e-6)
    assert {a.record.example.outcome.value for a in found[0]} <= {"verified", "falsified", "unknown"}
