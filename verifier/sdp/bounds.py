"""The certificates of one network, each computed once and kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from properties import Box, InputSet
from verifier.bound_map import Bounds
from verifier.device import ask_memory
from verifier.errors import InputError
from verifier.evidence import Evidence, Record, RecordRequest
from verifier.graph import Graph
from verifier.query import Query
from verifier.rounding import gamma, row_error_at, unit_roundoff
from verifier.sdp.ascent import ascend, begin, rank
from verifier.sdp.certificate import SdpCertificate, weights_of
from verifier.sdp.coupling import Coupling
from verifier.sdp.spectrum import TINY, UNIT, frobenius_bound, norm_bound, up
from verifier.sdp.two_layer import TwoLayer, is_two_layer

#: bytes of vectors that are worked on at once
_MEMORY = 256 * 2**20


class SdpBounds:
    """How far rows of one two-layer network can move: one certificate per row, in use for every input.

    A row and its negative share one (ten classes have 45 pairs). Certificates are made when `solve` asks for them, and
    may be saved. `lower` proves rows of a query from them.

    Args:
        graph: with one activation node (`is_two_layer`).

    Raises:
        InputError: another graph.
    """

    def __init__(self, graph: Graph) -> None:
        if not is_two_layer(graph):
            raise InputError(
                f"the semidefinite certificate is about networks with one activation layer, this one has "
                f"{len(graph.activations)}; use another stage"
            )
        self.network = TwoLayer.of(graph)
        self.digest = self.network.graph.digest()
        self._kept: dict[bytes, SdpCertificate] = {}
        self._unfinished: dict[bytes, Tensor] = {}  # vectors [1 + m, k] of ascents that were stopped

    def __len__(self) -> int:
        return len(self._kept)

    def solve(self, rows: Tensor, seconds: float = math.inf) -> bool:
        """Make the certificates of rows [S, outputs] that are not here yet; returns whether all of them are finished.

        Args:
            seconds: to spend. An ascent that is stopped leaves a valid certificate, and goes on the next time.

        Raises:
            MemoryError: the machine has no room for the vectors of one row.
        """
        until = time.monotonic() + seconds
        wanted = {_key(row): row for row in _canonical(rows)}
        todo = [key for key in wanted if key not in self._kept or key in self._unfinished]
        size = 8 * 4 * sum(self.network.weights.shape) * rank(*self.network.weights.shape)
        step = max(1, _MEMORY // size)
        for start in range(0, len(todo), step):
            if time.monotonic() >= until:
                break
            part = todo[start : start + step]
            ask_memory(float(size) * len(part))
            self._solve(part, torch.stack([wanted[key] for key in part]), until)
        return all(key in self._kept and key not in self._unfinished for key in wanted)

    def _solve(self, keys: Sequence[bytes], rows: Tensor, until: float) -> None:
        """The certificates of some rows at once: half of the time for the ascent, the rest to prove what it found.

        Args:
            rows: [S, outputs].
        """
        coupling = Coupling.of(self.network, rows)
        vectors = begin(coupling)
        for s, key in enumerate(keys):
            if key in self._unfinished:
                vectors[:, s] = self._unfinished[key]
        now = time.monotonic()
        found = ascend(coupling, vectors, now + (until - now) / 2)
        for s, key in enumerate(keys):
            if not found.finished[s]:
                self._unfinished[key] = found.vectors[:, s].clone()
            else:
                self._unfinished.pop(key, None)
            if s > 0 and time.monotonic() > until:
                self._unfinished.setdefault(key, found.vectors[:, s].clone())
                continue
            weights = weights_of(coupling, s, found.left[s], found.right[s])
            self._keep(key, SdpCertificate.of(coupling, s, *weights, float(found.value[s])))

    def _keep(self, key: bytes, certificate: SdpCertificate) -> None:
        """Of two certificates of one row, the one that is better for a uniform radius."""
        old, radius = self._kept.get(key), torch.ones(1, len(certificate.right), dtype=torch.float64)
        if old is None or bool(certificate.reach(radius) <= old.reach(radius)):
            self._kept[key] = certificate

    def certificate(self, row: Tensor) -> SdpCertificate | None:  # [outputs]
        """What is known of a row (or of its negative)."""
        return self._kept.get(_key(_canonical(row.unsqueeze(0))[0]))

    def reach(self, rows: Tensor, radius: Tensor) -> Tensor:  # [S, outputs], [B, *input] -> [B, S]
        """How far each row can move while input j moves by at most radius_j; infinite where there is no certificate."""
        radius = radius.double().flatten(1).cpu()
        nothing = torch.full((len(radius),), torch.inf, dtype=torch.float64)
        found = (self._kept.get(_key(row)) for row in _canonical(rows))
        return torch.stack([nothing if c is None else c.reach(radius) for c in found], 1)

    def spectral(self, rows: Tensor, radius: Tensor) -> Tensor:  # [S, outputs], [B, *input] -> [B, S]
        """The same by the spectral norms of both layers: Raghunathan et al. (2018), eq. 17. Never below the optimum.

        For vectors of length 1, |middle y_0 + half tau_i| is at most the steepest slope, and Cauchy-Schwarz does the
        rest: the semidefinite bound is at most this one, and this one at most that by Frobenius norms.
        """
        return self._by_norm(rows, radius, norm_bound(self.network.weights))

    def frobenius(self, rows: Tensor, radius: Tensor) -> Tensor:  # [S, outputs], [B, *input] -> [B, S]
        """The same by Frobenius norms: Raghunathan et al. (2018), eq. 18."""
        return self._by_norm(rows, radius, frobenius_bound(self.network.weights))

    def _by_norm(self, rows: Tensor, radius: Tensor, norm: float) -> Tensor:  # [S, outputs], [B, *input] -> [B, S]
        v, g = self.network.rows(rows)
        radius = radius.double().flatten(1).cpu()
        sizes = [up(frobenius_bound(one.unsqueeze(0)) * self.network.steepest * norm, 2) for one in v]
        size = torch.tensor(sizes, dtype=torch.float64)  # torch's default would round them to the nearest float32
        length = (radius.square().sum(1) + radius.shape[1] * TINY).sqrt()
        beside = radius @ g.abs().T
        return (length.unsqueeze(1) * size + beside) * (1 + 2 * gamma(radius.shape[1] + 8, UNIT))

    def lower(self, query: Query) -> Tensor:
        """Lower bounds [B, S] of the query's rows, from what is kept here; -inf where there is nothing.

        A row's value at the middle of the set's box, less its rounding error, less its reach from there. W, V and G
        are taken as float64 has them: where several affine layers had to be multiplied, that rounded.
        """
        return self._lower(query, self.reach)

    def lower_by_norm(self, query: Query, norm: str) -> Tensor:
        """The same [B, S] by the norms of both layers, "spectral" or "frobenius"; needs nothing that is kept here."""
        return self._lower(query, self.spectral if norm == "spectral" else self.frobenius)

    def _lower(self, query: Query, reaching: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Lower bounds [B, S] by what gives the reach [B, S] of rows [S, outputs] within radii [B, *input]."""
        middle, radius = middle_and_radius(query.inputs)
        value = _value_below(self.network.graph, query, middle)
        rows, of_row = _canonical(query.spec.rows.flatten(0, 1)).unique(dim=0, return_inverse=True)
        reach = reaching(rows, radius).gather(1, of_row.reshape(value.shape))
        return value - reach - 4 * UNIT * (value.abs() + reach)

    def evidence(self) -> SdpEvidence:
        """What `lower` rests on now; later certificates do not change it."""
        return SdpEvidence(dict(self._kept))

    def adopt(self, rows: Tensor, p: Tensor, q: Tensor) -> None:
        """Certificates from dual variables that somebody else found; any are valid, for the norms are computed here.

        Args:
            rows: [S, outputs]. p: [S, 1 + m], of the slopes. q: [S, n], of the inputs. All >= 0.
        """
        coupling, keys = Coupling.of(self.network, _canonical(rows)), [_key(row) for row in _canonical(rows)]
        for s, key in enumerate(keys):
            self._keep(key, SdpCertificate.of(coupling, s, *weights_of(coupling, s, p[s], q[s])))

    def _adopt(self, weights: Sequence[tuple[bytes, Tensor, Tensor, Tensor]]) -> None:
        """Certificates from weights that somebody else found, checked here.

        Args:
            weights: key, row [outputs], left [1 + m] and right [n] of each.
        """
        for key, row, left, right in weights:
            coupling = Coupling.of(self.network, row.unsqueeze(0))
            self._kept[key] = SdpCertificate.of(coupling, 0, left, right)

    def save(self, path: str | Path) -> None:
        """Write the weights of all certificates, with the network's digest, as an .npz file."""
        rows = [np.frombuffer(key) for key in self._kept]
        found = list(self._kept.values())
        with Path(path).open("wb") as file:
            np.savez_compressed(
                file, digest=np.array(self.digest), rows=np.array(rows),
                left=np.array([c.left.numpy() for c in found]), right=np.array([c.right.numpy() for c in found]),
            )  # fmt: skip

    @classmethod
    def load(cls, path: str | Path, graph: Graph) -> Self:
        """What `save` wrote for this network. The file is not trusted: the norms are computed again.

        Raises:
            InputError: no such file of ours, or of another network.
        """
        bounds = cls(graph)
        try:
            with np.load(path, allow_pickle=False) as archive:
                digest = str(archive["digest"])
                rows, left, right = (torch.from_numpy(archive[name]).double() for name in ("rows", "left", "right"))
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise InputError(f"{path} holds no saved certificates: {error}; write it with SdpBounds.save") from error
        if digest != bounds.digest:
            raise InputError(
                f"{path} is about another network, or its weights have changed since: its digest is {digest[:16]}..., "
                f"the network's {bounds.digest[:16]}...; compute the certificates anew"
            )
        m, n = bounds.network.weights.shape
        count, outputs = len(rows), bounds.network.graph.nodes[-1].size
        if count and not (
            rows.shape == (count, outputs) and left.shape == (count, m + 1) and right.shape == (count, n)
        ):
            shapes = [tuple(t.shape) for t in (rows, left, right)]
            raise InputError(f"{path} holds arrays of shapes {shapes} that do not fit the network")
        bounds._adopt([(_key(row), row, a, b) for row, a, b in zip(_canonical(rows), left, right, strict=True)])
        return bounds


@dataclass(frozen=True)
class SdpEvidence(Evidence):
    """The semidefinite certificates behind lower bounds; they belong to a network, and hold for any of its inputs."""

    kind: ClassVar[str] = "sdp"
    rests_on_bounds: ClassVar[bool] = False
    certificates: Mapping[bytes, SdpCertificate] = field(repr=False)

    def recompute(self, query: Query, bounds: Bounds) -> Tensor:
        """`SdpBounds.lower` of the query, every norm computed anew from its graph and the kept weights: [B, S]."""
        anew, known = SdpBounds(query.graph), self.certificates
        rows = _canonical(query.spec.rows.flatten(0, 1)).unique(dim=0)
        keys = [(_key(row), row) for row in rows]
        anew._adopt([(key, row, known[key].left, known[key].right) for key, row in keys if key in known])
        return anew.lower(query)

    def select(self, example: int) -> Self:
        return self

    def proof(self, asked: RecordRequest) -> list[Record] | None:
        weights = [self.weights(asked.query.spec.rows[0, row]) for row in asked.rows]
        left, right = (np.stack([w[k].numpy() for w in weights]).astype(np.float32) for k in (0, 1))
        return [{"sdp": {"left": left, "right": right}, "rows": asked.rows}]

    def weights(self, row: Tensor) -> tuple[Tensor, Tensor]:  # [outputs]
        """The weights (a [1 + m], b [n]) of a row that it proved, for the row or its negative."""
        found = self.certificates[_key(_canonical(row.unsqueeze(0))[0])]
        return found.left, found.right


def middle_and_radius(inputs: InputSet) -> tuple[Tensor, Tensor]:
    """Middle of each set's box and how far it reaches from there, rounded up: [B, *input] float64 on the CPU each."""
    return Box(*(end.cpu() for end in inputs.box(torch.float64))).middle_and_radius(torch.float64)


def _value_below(graph: Graph, query: Query, x: Tensor) -> Tensor:  # [B, *input] -> [B, S]
    """The rows' values at x less their rounding error, in float64 on the CPU."""
    spec, unit = query.spec.to(torch.device("cpu")), unit_roundoff(torch.float64)
    with torch.no_grad():
        return spec.values(graph.forward(x).flatten(1)) - row_error_at(graph, spec, x, unit)


def _canonical(rows: Tensor) -> Tensor:  # [S, outputs] -> [S, outputs] float64
    """Of each row and its negative the one whose first entry that is not zero is positive; no negative zeros."""
    rows = rows.detach().cpu().double()
    first = (rows != 0).double().argmax(1, keepdim=True) if rows.numel() else torch.zeros(len(rows), 1).long()
    return torch.where(rows.gather(1, first) < 0, -rows, rows) + 0.0


def _key(row: Tensor) -> bytes:  # [outputs]
    return bytes(row.numpy().tobytes())
