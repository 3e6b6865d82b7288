"""The three kinds of operator: affine, activation, product. Stages know the kinds, never an operator's name.

Tensors that flow through a graph carry one leading batch dimension: [B, *shape]. Shapes are batch-free.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from verifier.errors import UnsupportedError
from verifier.forms import Dense, LinearForm
from verifier.ops import sparse
from verifier.ops.facts import Facts
from verifier.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    from scipy.sparse import csr_array

Shape = tuple[int, ...]

#: an interval that is not divided any more, in relation to the numbers in it
_NARROW = 1e-4

#: every operator class by its own name
REGISTRY: Registry[type[Operator]] = Registry(
    "operator", "verifier.ops", "verifier.operators", named=lambda cls: cls.__name__
)
register = REGISTRY.register


@dataclass(frozen=True)
class OperatorExample:
    """An operator with input shapes that it accepts, for the conformance tests."""

    op: Operator
    shapes: tuple[Shape, ...]


@dataclass(frozen=True)
class Primitive:
    """An operator in the terms of certificates: one of the few kinds that their checker knows.

    The kinds, with their arrays and options, are those of `verifier.checker.network`. Values are flat.
    """

    kind: str
    arrays: dict[str, np.ndarray]
    options: dict[str, Any]


class Operator(ABC):
    """A node's function, with live parameter tensors (so that gradients reach the weights). Immutable."""

    #: names of attributes that hold parameter tensors (or None)
    tensors: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def apply(self, *xs: Tensor) -> Tensor:
        """The function itself.

        The graph's forward pass, replays and attacks run it, in float32 and float64, with gradients to x and to the
        parameters.

        Args:
            xs: one tensor per parent, each [B, *shape of that parent].

        Returns:
            [B, *output shape]; entry b depends on entries b of the parents alone.
        """

    @classmethod
    @abstractmethod
    def examples(cls) -> list[OperatorExample]:
        """Small instances that cover the operator's options, with input shapes that they accept.

        The conformance tests run on them, and the fuzzer draws networks from them.
        """

    def primitive(self, shapes: Sequence[Shape]) -> Primitive:
        """The operator as a certificate's network has it; parameters on the CPU in float64.

        Args:
            shapes: of the parents.

        Returns:
            One of the kinds that `verifier.checker.network` knows, with its arrays; all values flat.

        Raises:
            UnsupportedError: certificates have no kind for it. What is proved of such a network has no certificate.
        """
        raise UnsupportedError(f"certificates have no kind of node for {type(self).__name__}: give it `primitive`")

    def primitives(self, shapes: Sequence[Shape]) -> Sequence[Primitive]:
        """The same as a chain, each reading the one before, for what no single kind is; at most one an activation.

        Args:
            shapes: of the parents, which the first of the chain reads.
        """
        return (self.primitive(shapes),)

    def parameters(self) -> Iterator[tuple[str, Tensor]]:  # [...] each
        """The parameter tensors that there are, by the names in `tensors`."""
        for name in self.tensors:
            value = getattr(self, name)
            if value is not None:
                yield name, value

    def map_tensors(self, function: Callable[[Tensor], Tensor]) -> Self:  # [...] -> [...] each
        """A copy whose parameter tensors are function(tensor): another precision or device, or detached."""
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        for name, value in self.parameters():
            copy.__dict__[name] = function(value)
        return copy

    def __repr__(self) -> str:
        parts = []
        for name, value in self.__dict__.items():
            if name.startswith("_"):
                continue
            parts.append(f"{name}={list(value.shape)}" if isinstance(value, Tensor) else f"{name}={value}")
        return f"{type(self).__name__}({', '.join(parts)})"


class Affine(Operator):
    """y = sum_i A_i x_i + b, one matrix A_i per parent.

    Only `apply` is required: the adjoint is then the vector-Jacobian product, interval radii go through |A| where
    the operator says how (`apply_abs`), and everything else follows.
    """

    #: each output depends on at most one entry of one parent, and no entry feeds two outputs
    diagonal: ClassVar[bool] = False
    #: `adjoint` keeps a patch-structured form patch-structured (a property where it depends on the instance)
    keeps_patches: bool = False
    #: entries are copied: nothing is rounded, in any precision
    exact: bool = False
    #: no entry of any matrix is negative
    adds: ClassVar[bool] = False
    #: roundings in an entry of `to_sparse` or, with regard to `bias_size`, of `bias`, in float64; None: nobody has said
    #: so yet, and there are no certificates
    roundings: int | None = None

    def linear(self, *xs: Tensor) -> Tensor:
        """The operator without its bias: sum_i A_i x_i.

        Args:
            xs: one tensor per parent, each [B, *shape of that parent].

        Returns:
            [B, *output shape]. Default: two calls of `apply`.
        """
        return self.apply(*xs) - self.apply(*(torch.zeros_like(x[:1]) for x in xs))

    def bias(self, shapes: Sequence[Shape], like: Tensor) -> Tensor | None:
        """b, which the backward pass multiplies each form's coefficients with.

        Args:
            shapes: of the parents.
            like: a tensor of the precision and on the device that are wanted.

        Returns:
            [1, *output shape], or None where b is zero by construction.
        """
        return None

    def bias_size(self, shapes: Sequence[Shape], like: Tensor) -> Tensor | None:
        """Magnitude of what makes up b, >= |b|: rounding errors scale with it.

        Args:
            shapes, like: as in `bias`.

        Returns:
            [1, *output shape], or None where b is zero. Default: |b|, right where b is not itself a sum that cancels.
        """
        bias = self.bias(shapes, like)
        return None if bias is None else bias.abs()

    def window(self, size: tuple[int, int]) -> tuple[int, int]:
        """Size of the input's window that a window of the output sees, for operators that keep patches.

        Args:
            size: (height, width) of a window of the output.

        Returns:
            (height, width) of the input's: what the plan of a backward pass counts memory by.
        """
        return size

    @abstractmethod
    def apply_abs(self, *rs: Tensor) -> Tensor:
        """sum_i |A_i| r_i: how far y moves at most when x_i moves by r_i.

        Interval bounds are `linear` of the middles plus and minus this of the radii; roundoff is multiples of it.

        Args:
            rs: one tensor per parent, each [B, *shape of that parent], >= 0.

        Returns:
            [B, *output shape], >= 0.
        """

    @abstractmethod
    def terms(self, shapes: Sequence[Shape]) -> int:
        """How many products are summed into one output at most, the bias counted.

        Rounding-error bounds grow with it: too small a number makes them false.

        Args:
            shapes: of the parents.
        """

    def adjoint_terms(self, shapes: Sequence[Shape], outputs: int) -> int:
        """How many products `adjoint` sums into one coefficient at most.

        Args:
            shapes: of the parents.
            outputs: entries of the output.

        Returns:
            Default: one per entry of the output, which is always enough.
        """
        return 1 if self.diagonal else outputs

    def adjoint(self, form: LinearForm, shapes: Sequence[Shape], parent: int) -> LinearForm:
        """Pull a form on the output back to one parent: c -> A_parent^T c. The step of every backward pass.

        Args:
            form: S functionals of the output, in any structure.
            shapes: of the parents.
            parent: number of the parent.

        Returns:
            The form on that parent, S functionals of its shape; a structure that is kept makes bounds cheaper, and
            nothing else depends on it. Default: the vector-Jacobian product on the dense form.
        """
        coefficients = form.dense()  # [B or 1, S, *output shape]
        lead = coefficients.shape[:2]
        rows = coefficients.flatten(0, 1)

        def through(x: Tensor) -> Tensor:
            inputs = [x if i == parent else x.new_zeros(len(x), *s) for i, s in enumerate(shapes)]
            return self.linear(*inputs)

        origin = rows.new_zeros(len(rows), *shapes[parent])
        pull = torch.func.vjp(through, origin)[1]
        return Dense(pull(rows)[0].unflatten(0, lead))

    def to_sparse(self, shapes: Sequence[Shape]) -> list[csr_array]:
        """The matrices themselves, for linear programs and certificates. For operators on the CPU in float64.

        Args:
            shapes: of the parents.

        Returns:
            A_i per parent, [output size, parent size] float64, without the entries that are zero. Default: the values
            at unit vectors, one evaluation per entry of the input.
        """
        zeros = [torch.zeros(1, *s, dtype=torch.float64) for s in shapes]
        outputs = self.linear(*zeros).numel()

        def through(units: Tensor, parent: int) -> Tensor:  # [k, size of the parent]
            inputs = [z.expand(len(units), *z.shape[1:]) for z in zeros]
            inputs[parent] = units.reshape(len(units), *shapes[parent])
            return self.linear(*inputs)

        sizes = [z.numel() for z in zeros]
        return [sparse.from_columns(partial(through, parent=i), n, outputs) for i, n in enumerate(sizes)]

    def triplets(self, shapes: Sequence[Shape]) -> dict[str, np.ndarray]:
        """The matrices of `to_sparse` side by side, as `sparse.triplets`. Default: from those."""
        return sparse.triplets(self.to_sparse(shapes))

    def primitive(self, shapes: Sequence[Shape]) -> Primitive:
        """Default: the matrices of `to_sparse` side by side, with what `roundings` says of them."""
        if self.roundings is None and not self.exact:
            raise UnsupportedError(
                f"how often an entry of the matrix of {type(self).__name__} is rounded is not known: set `roundings`, "
                "to 0 where entries are parameters"
            )
        like = torch.zeros((), dtype=torch.float64)
        with torch.no_grad():
            arrays = self.triplets(shapes)
            bias, size = self.bias(shapes, like), self.bias_size(shapes, like) if self.roundings else None
        if bias is not None:
            arrays["bias"] = flat(bias)
        if size is not None:
            arrays["bias_size"] = flat(size)
        if self.roundings:
            sparse.check_normal(arrays, type(self).__name__)
        return Primitive("sparse", arrays, {"ulps": self.roundings} if self.roundings else {})


class SlopeRule(Enum):
    """How the free line of a relaxation is chosen when nobody optimises it."""

    FIXED = "fixed"  #: Wong & Kolter (2018), eq. 8: parallel to the upper line, u / (u - l)
    ADAPTIVE = "adaptive"  #: 0 or 1, by the larger side: the relaxation of least area (Zhang et al. 2018)


@dataclass(frozen=True)
class LinearRelaxation:
    """lower_slope x + lower_bias <= act(x) <= upper_slope x + upper_bias for every x in [lower, upper].

    Tensors [B, *shape]. `parallel` says that the two slopes are equal everywhere. Of a product the slopes are
    [B, 2, M], one for each factor (verifier.ops.product).
    """

    lower_slope: Tensor
    lower_bias: Tensor
    upper_slope: Tensor
    upper_bias: Tensor
    parallel: bool = False

    def each(self, function: Callable[[Tensor], Tensor]) -> LinearRelaxation:  # [...] -> [...] each
        """With function(tensor) in place of every tensor."""
        parts = (self.lower_slope, self.lower_bias, self.upper_slope, self.upper_bias)
        a, b, c, d = (function(t) for t in parts)
        return LinearRelaxation(a, b, c, d, self.parallel)


@dataclass(frozen=True)
class Pieces:
    """Points (x, y) whose convex hull holds the graph of an activation over [lower, upper].

    Where `exact`, the graph is the polyline through them in their order (x never falls; points may coincide).
    """

    x: Tensor  # [K, B, *shape]
    y: Tensor  # [K, B, *shape]
    exact: bool


class Nonlinear(Operator):
    """What needs a relaxation: a function of entries of one node, of one of them each (`Activation`) or of two."""

    #: relative error of evaluating it in floating point, in units in the last place
    ulps: ClassVar[int] = 0
    #: roundings of evaluating it in floating point, in units of its value; 0: it only selects, or changes signs
    roundings: int = 2
    #: the value is computed from terms as large as what it reads, which cancel
    cancels: ClassVar[bool] = False
    #: made of linear pieces
    piecewise_linear: ClassVar[bool] = True

    def ports(self, shape: Shape) -> Shape:
        """The shape of multipliers on what it reads, for an output of this shape: one for every entry read."""
        return shape

    @abstractmethod
    def relax(self, lower: Tensor, upper: Tensor, slope: Tensor | SlopeRule) -> LinearRelaxation:
        """Linear relaxation over what is read, in [lower, upper]: the one rule, for every stage and trainer.

        Args:
            lower, upper: [B, *shape of the parent].
            slope: [B, *shape of the output] in [0, 1]: position in the family of sound relaxations; or a rule.
        """

    @abstractmethod
    def range(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """The smallest interval that holds the values over [lower, upper], [B, *shape of the output] each.

        Args:
            lower, upper: [B, *shape of the parent].
        """

    @abstractmethod
    def unstable(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Which entries of the parent would make the relaxation tighter, were their bounds: bool [B, *its shape].

        Args:
            lower, upper: [B, *shape of the parent].
        """

    @abstractmethod
    def split_at(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Where branching divides entries of the parent, [B, *its shape]; NaN where nothing is gained.

        Args:
            lower, upper: [B, *shape of the parent].
        """


class Activation(Nonlinear):
    """An elementwise, monotone-or-not, nonlinear function of one parent."""

    #: what is known of the function; a property where it depends on the instance
    facts: Facts = Facts()
    #: |act(x) - act(y)| <= lipschitz |x - y|
    lipschitz: float = 1.0

    @property
    def slope_range(self) -> tuple[float, float]:
        """An interval that holds (act(x) - act(y)) / (x - y) for any x and y; the semidefinite bound uses it."""
        return -self.lipschitz, self.lipschitz

    def steepest(self, lower: Tensor, upper: Tensor) -> Tensor:
        """The largest |act(x) - act(y)| / |x - y| for x and y in intervals; default: what it is anywhere.

        Args:
            lower, upper: [...].

        Returns:
            [...]; infinite where nothing is known.
        """
        return torch.full_like(lower, self.lipschitz)

    def moved(self, lower: Tensor, upper: Tensor, error: Tensor) -> Tensor:
        """The largest |act(x) - act(y)| for x in intervals and |x - y| <= error: [...].

        Args:
            lower, upper, error: [...].
        """
        return _no_error_moves(error, self.steepest(lower - error, upper + error) * error)

    def lines_moved(self, lower: Tensor, upper: Tensor, error: Tensor) -> Tensor:
        """How far the lines of an undecided neuron move at most, about, when bounds and inputs move by `error`: [...].

        Args:
            lower, upper: [...], moved outwards by the error. error: [...].
        """
        return _no_error_moves(error, error * (2 * self.steepest(lower, upper)))

    @abstractmethod
    def relax(self, lower: Tensor, upper: Tensor, slope: Tensor | SlopeRule) -> LinearRelaxation:
        """Linear relaxation over [lower, upper]: the one rule of this activation, for every stage and trainer.

        The backward pass puts the lower line where a coefficient is positive and the upper one where it is negative.
        Gradients flow from the lines to `lower`, `upper` and `slope`.

        Args:
            lower, upper: [B, *shape], lower <= upper; infinite where nothing is known.
            slope: [B, *shape] in [0, 1] chooses the line that is free (for ReLU the lower one, whose slope it is;
                elsewhere a position in a family of sound lines, as the operator says); or a rule that chooses it.

        Returns:
            Lines that hold for every x in [lower, upper], whatever `slope` is. Where a bound is NaN the lines must be
            NaN, never sound-looking ones. A stable neuron of a piecewise linear activation gets that piece, twice.
        """

    def pieces(self, lower: Tensor, upper: Tensor) -> Pieces:
        """The activation over [lower, upper] as points: what multipliers, zonotopes, programs and splits are made of.

        Args:
            lower, upper: [B, *shape].

        Returns:
            K points per entry, whose convex hull holds the graph; `exact` where the graph is the polyline through them.
            Default, for smooth activations: the corners of the polygon between the outermost lines of `relax`.
        """
        flat, steep = (self.relax(lower, upper, torch.full_like(lower, t)) for t in (0.0, 1.0))
        below = _corners(lower, upper, *((f.lower_slope, f.lower_bias) for f in (flat, steep)))
        above = _corners(lower, upper, *((f.upper_slope.neg(), f.upper_bias.neg()) for f in (flat, steep)))
        x = torch.cat([below[0], above[0]])
        return Pieces(x, torch.cat([below[1], -above[1]]), exact=False)

    def polyline(self, lower: Tensor, upper: Tensor) -> Pieces | None:
        """The graph over [lower, upper] as a polyline, for integer programs: vertical where the activation jumps.

        Args:
            lower, upper: [B, *shape], finite.

        Returns:
            K points per entry: both limits of a jump, and the value at it, one after another. NaN for entries whose
            polyline would be too long; None where the graph is none. Default: what `pieces` says.
        """
        pieces = self.pieces(lower, upper)
        return pieces if pieces.exact else None

    @abstractmethod
    def range(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """The smallest interval that holds act([lower, upper]), for interval bounds.

        Args:
            lower, upper: [B, *shape].

        Returns:
            (low, high), each [B, *shape], up to `roundings` roundings; NaN at one end at least where a bound is.
        """

    @abstractmethod
    def unstable(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Where tighter bounds would give a tighter relaxation: which neurons stages spend time on.

        Args:
            lower, upper: [B, *shape].

        Returns:
            bool [B, *shape]; True where a bound is NaN.
        """

    def split_at(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Where branching divides the intervals so that both halves are simplest.

        Args:
            lower, upper: [B, *shape].

        Returns:
            [B, *shape], strictly inside; NaN where nothing is gained. Default: the innermost corner of a piecewise
            linear activation (zero for a ReLU), the middle for a smooth one.
        """
        if not self.piecewise_linear:
            middle = 0.5 * lower + 0.5 * upper
            wide = upper - lower > _NARROW * (1 + lower.abs() + upper.abs())
            return torch.where(wide & (middle > lower) & (middle < upper), middle, torch.nan)
        x = self.pieces(lower, upper).x
        depth = torch.where((x > lower) & (x < upper), torch.minimum(x - lower, upper - x), -1.0)
        deepest = depth.max(0)
        chosen = x.gather(0, deepest.indices.unsqueeze(0)).squeeze(0)
        return torch.where(deepest.values > 0, chosen, torch.nan)


def _no_error_moves(error: Tensor, product: Tensor) -> Tensor:  # [...] each
    """A product with an error: zero where the error is, whatever the other factor."""
    return torch.where(error == 0, 0.0, product)


def flat(values: Tensor) -> np.ndarray:  # [...] -> [n]
    """The entries as one vector in float64."""
    return values.detach().double().cpu().flatten().numpy()


def _corners(
    lower: Tensor, upper: Tensor, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Corners of the epigraph of max(first, second), two lines (slope, bias), over [lower, upper]: x and y [3, ...].

    The lower of the two lines is taken where they cross, so that a rounded crossing cuts nothing off.
    """
    (a, p), (b, q) = first, second
    parted = a != b
    crossing = torch.where(parted, (q - p) / torch.where(parted, a - b, 1.0), lower)
    crossing = torch.minimum(torch.maximum(crossing, lower), upper)
    ends = [torch.maximum(a * x + p, b * x + q) for x in (lower, upper)]
    y = torch.stack([ends[0], torch.minimum(a * crossing + p, b * crossing + q), ends[1]])
    return torch.stack([lower, crossing, upper]), y
