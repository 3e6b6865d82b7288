"""The protocol of an input set: a set of inputs is its support function."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor

from properties.lifted import Lifted
from properties.record import SetRecord
from verifier.registry import Registry, hint, unknown


@dataclass(frozen=True)
class Local:
    """A functional's coefficients written out, each row where it has any: over the whole input, or over a window.

    Entries of the input outside every window have the coefficient 0.
    """

    coefficients: Tensor  # [*lead, *window], zero outside the input; lead[0] is B or 1
    lead: int  #: number of leading dimensions
    gather: Callable[[Tensor], Tensor]  #: [B or 1, *input] -> what broadcasts with `coefficients`, zero outside
    rows: Callable[[Tensor], Tensor]  #: [*lead] -> [B, S]
    #: [B, S] -> what broadcasts with [*lead]
    leads: Callable[[Tensor], Tensor]
    #: [B] -> what broadcasts with [*lead]
    per_example: Callable[[Tensor], Tensor]

    def entries(self, *inputs: Tensor) -> list[Tensor]:  # [B or 1, *input] each
        """The coefficients, then what `gather` makes of the inputs, windows flattened to [*lead, K]."""
        return [t.flatten(self.lead) for t in (self.coefficients, *map(self.gather, inputs))]

    def only(self, wanted: Tensor) -> Local:  # [B, S] bool
        """Only these rows of these examples, N in all: `lead` is 1, and `rows` has zeros for the others."""
        ones = torch.ones_like(self.coefficients.flatten(self.lead)[..., 0])
        at = self.leads(wanted).expand(len(wanted), *ones.shape[1:]).nonzero(as_tuple=True)
        order = self.leads(torch.arange(wanted.numel(), device=wanted.device).view_as(wanted))[at]  # in [B, S]

        def chosen(values: Tensor) -> Tensor:  # [*lead, ...] -> [N, ...]
            index = (a if n > 1 else torch.zeros_like(a) for a, n in zip(at, values.shape, strict=False))
            return values[tuple(index)]

        def rows(values: Tensor) -> Tensor:  # [N] -> [B, S]
            return values.new_zeros(wanted.numel()).scatter(0, order, values).view_as(wanted)

        return Local(
            chosen(self.coefficients),
            1,
            lambda x: chosen(self.gather(x)),
            rows,
            lambda numbers: chosen(self.leads(numbers)),
            lambda numbers: chosen(self.per_example(numbers)),
        )


class Functional(Protocol):
    """A batch of S linear functionals per example, in whatever structure the caller keeps them.

    Input sets ask for no more than these products, so that nothing sparse has to be made dense.
    """

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the coefficients."""

    @property
    def device(self) -> torch.device:
        """Where the coefficients are."""

    def dot(self, x: Tensor) -> Tensor:  # x [B, *input] -> [B, S]
        """Value of every functional at the points x [B, *input], [B, S]."""

    def abs_dot(self, radius: Tensor) -> Tensor:  # radius [B, *input], >= 0 -> [B, S]
        """Sum of |coefficient| * radius, for radius [B, *input] >= 0; [B, S]."""

    def times(self, number: float) -> Functional:
        """Every coefficient times one number."""

    def combine(self, other: Any, sign: float) -> Functional:
        """self + sign * other, for a functional of as many rows."""

    def envelope_abs_dot(self, half: Any, radius: Tensor) -> tuple[Tensor, Tensor]:
        """(self - half).abs_dot(radius) and (self + half).abs_dot(radius), each [B, S]."""

    def norm(self, p: float) -> Tensor:  # [B or 1, S]
        """Euclidean norm (p = 2) or largest magnitude (p = infinity) of each row's coefficients, [B or 1, S]."""

    def envelope_norm(self, half: Any, p: float) -> tuple[Tensor, Tensor]:
        """(self - half).norm(p) and (self + half).norm(p), each [B or 1, S]."""

    def dense(self) -> Tensor:  # [B or 1, S, *input]
        """All coefficients, written out: [B or 1, S, *input]. Large: only where nothing else will do."""

    def local(self, margin: int = 0) -> Local:
        """All coefficients, written out where there are any.

        Args:
            margin: entries of images (an input of shape [C, H, W]) around each window that are to be in it as well.
        """


#: every kind of set by the name of its class; those that have a radius by the name of their threat model as well
REGISTRY: Registry[type[InputSet]] = Registry(
    "input set", "properties", "verifier.input_sets",
    named=lambda cls: cls.__name__, aliased=lambda cls: tuple(filter(None, [vars(cls).get("threat")])),
)  # fmt: skip
register = REGISTRY.register


def threats() -> dict[str, type[InputSet]]:
    """Every kind of set that has a radius, by the name that users give it."""
    return {alias: REGISTRY[alias] for name in REGISTRY for alias in REGISTRY.aliases(name)}


def threat_model(name: str) -> type[InputSet]:
    """The kind of set that users call so.

    Raises:
        ValueError: there is none; the message lists those that there are.
    """
    kind = REGISTRY.get(name)
    if kind is None or name == kind.__name__:
        raise ValueError(unknown("threat model", name, sorted(threats())) + hint(name, sorted(threats())))
    return kind


class InputSet(ABC):
    """A batch of B sets of inputs, one per example. Immutable.

    A subclass is a threat model; every stage, attack and trainer uses it through these methods only. `register` makes
    it known by the name of its class and of its threat model, and the conformance tests run on its `examples()`.
    """

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        # not inherited: a subclass may choose its radius by the input
        cls.symmetric = cls.__dict__.get("symmetric", False)
        cls.nested = cls.__dict__.get("nested", False)
        if "record" not in cls.__dict__ and {"support", "box", "contains"} & cls.__dict__.keys():
            cls.record = InputSet.record  # type: ignore[method-assign]  # another set than that of the record inherited
        if "representable" not in cls.__dict__ and {"support", "box", "contains"} & cls.__dict__.keys():
            cls.representable = InputSet.representable  # type: ignore[method-assign]

    @classmethod
    @abstractmethod
    def examples(cls) -> list[Self]:
        """Small instances that cover the set's options, of inputs of shape (2, 3).

        The conformance tests run on them: a batch of two sets or more shows what batches do.
        """

    #: True when the set is exactly `box()`, so that interval bounds of a first affine layer are exact
    is_box: ClassVar[bool] = False
    #: `support`, `minimum` and `range` err by at most gamma_N times the sum of |coefficient| |entry| in floating point,
    #: with N = summed (n + 16), n the entries of an input, |entry| the largest in the box of the set (of `outer()`
    #: where there is one); None: nobody has shown how far. A subclass that bounds in another way must say so anew
    summed: ClassVar[int | None] = None
    #: how close `support` comes to the maximum: "exact" (up to rounding and the end of a search), or in words
    tightness: ClassVar[str] = "exact"
    #: whether `project` is a search that costs far more than a gradient: attacks start less often then
    costly_projection: ClassVar[bool] = False
    #: whether x' in the set around x means that x is in the set around x' (of one radius, both in the valid range);
    #: every class says so for itself
    symmetric: ClassVar[bool] = False
    #: whether of two radii around one input, within one valid range, the smaller's set lies in the larger's: what is
    #: proved of the larger then holds on the smaller; every class says so for itself
    nested: ClassVar[bool] = False
    #: name under which `around` makes sets of this kind from clean inputs and a radius; None: it has no radius
    threat: ClassVar[str | None] = None

    @classmethod
    def around(cls, x: Tensor, eps: float | Tensor, clip: tuple[float, float] | None = None) -> InputSet:
        """The sets of radius eps around clean inputs, within the valid range `clip` where given.

        This is what `threat=` and `--threat` call for a set that has a name in `threat`.

        Args:
            x: [B, *input], the clean inputs; `center()` of the sets.
            eps: the radius, one number or [B].
            clip: least and largest value of an entry; None: no limits.

        Returns:
            B sets.

        Raises:
            ValueError: unusable arguments, or sets of this kind have no radius.
        """
        raise ValueError(f"{cls.__name__} has no radius: make it from its own parameters")

    @property
    @abstractmethod
    def batch(self) -> int:
        """Number of examples B."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch: what [*input] stands for."""

    @abstractmethod
    def support(self, form: Functional) -> Tensor:
        """The largest value of each functional on its set, or an upper bound of it where that is not closed form.

        The last step of every bound: the backward pass ends with a functional of the input, whose minimum on the set is
        -support(-form). It is called for every neuron, so that it has to be quick and, for training, differentiable.

        Who uses it counts on rounding errors of the size of sums of |coefficient| |entry of the box|. What rounds worse
        (large multipliers that cancel, squares that vanish) must be added to the bound.

        Args:
            form: S functionals per example; ask it for products and norms, so that nothing sparse is made dense.

        Returns:
            [B, S], in the precision of the form. Never below form . x of a member.
        """

    def minimum(self, form: Functional) -> Tensor:
        """The least value of each functional on its set, or a lower bound of it where that is not closed form.

        Args:
            form: S functionals per example.

        Returns:
            [B, S]. Default: -support(-form).
        """
        return -self.support(form.times(-1.0))

    def range(self, form: Functional, half: Functional | None = None) -> tuple[Tensor, Tensor]:
        """Both ends of what a pair of functionals takes: neurons that are bounded from both sides in one pass.

        Args:
            form: S functionals per example.
            half: as many; None stands for zero.

        Returns:
            (minimum of form - half, support of form + half), each [B, S].
        """
        if half is None:
            return self.minimum(form), self.support(form)
        return self.minimum(form.combine(half, -1.0)), self.support(form.combine(half, 1.0))

    def outer(self) -> InputSet | None:
        """A larger set with a support function that costs much less; None where there is none.

        Neurons are bounded over it first. Only those that are not stable over it are bounded over the set itself.
        """
        return None

    def unclipped(self) -> InputSet:
        """The set without its valid range; itself where it has none.

        Fast adversarial training starts and steps in it, and moves into the range last (Wong 2020, algorithm 7).
        """
        return self

    def support_where(self, form: Functional, rows: Tensor) -> Tensor:  # rows [B, S] bool -> [B, S]
        """`support` of the rows that are wanted, for sets whose support function is a search.

        Args:
            form: S functionals per example.
            rows: [B, S] bool.

        Returns:
            [B, S]; where `rows` is False any number will do: the caller does not look at it.
        """
        return self.support(form)

    def multipliers(self, form: Functional, near: Tensor | None = None) -> Tensor | None:  # near [B, S, K]
        """Dual variables at which `support_at` is about the support function, for forms that change little.

        An ascent on slopes asks for them now and then, and takes its steps at fixed ones by `support_at`.

        Args:
            form: S functionals per example.
            near: [B, S, K], those of forms nearby, to start from.

        Returns:
            [B, S, K], found without gradients; None where the support function is quick enough to need none.
        """
        return None

    def support_at(self, form: Functional, multipliers: Tensor) -> Tensor:  # [B, S, K] -> [B, S]
        """An upper bound of form . x over the set, for any multipliers at all.

        Args:
            form: S functionals per example; gradients flow to it.
            multipliers: [B, S, K], of `multipliers`.

        Returns:
            [B, S]. Default, for sets without multipliers: `support`.
        """
        return self.support(form)

    @abstractmethod
    def box(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
        """The interval hull of each set.

        The start of interval bounds, and what stages know that see no more of a set than its box.

        Args:
            dtype: of the result.

        Returns:
            (lower, upper), each [B, *input], rounded outward to `dtype`: every member lies between them.
        """

    def representable(self, dtype: torch.dtype) -> InputSet:
        """The set that a network is asked about whose inputs are in `dtype`.

        An entry whose interval holds no number of `dtype` (0.1 to 0.1 in float32) can take no value. Its set is then
        from the largest number of `dtype` that is not above the interval to the smallest that is not below it, for
        proofs and for counterexamples. Entries that can take a value stay as they are.

        Returns:
            A set that contains this one; this very object where every entry can take a value. Default: this object.
        """
        return self

    @abstractmethod
    def center(self) -> Tensor:
        """One member of each set, where the clean input is known: that input.

        Stages linearise there, attacks start there, and integer programs show by it that they are not empty.

        Returns:
            [B, *input]. Not to be written into.
        """

    @abstractmethod
    def contains(self, x: Tensor) -> Tensor:
        """Whether each point is a member, decided exactly, without any tolerance.

        It decides whether a candidate is a counterexample: True must be certain. A doubtful member may be denied.

        Args:
            x: [B, *input], in any floating precision, taken as the numbers that they are.

        Returns:
            bool [B].
        """

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """A member of each set near x; for convex sets the nearest, up to rounding.

        Attacks call it after every step. They move the last point by `inside`, so that rounding here does no harm.

        Args:
            x: [B, *input].

        Returns:
            [B, *input], in the precision of x.
        """

    @abstractmethod
    def steepest_ascent(self, x: Tensor, gradient: Tensor, step: float) -> Tensor:
        """The update of x that increases gradient . x most at length `step`, in the set's own geometry.

        Attacks add it, and project (Wong 2020, section 5.3.3): the sum of x and the update need not be a member.

        Args:
            x, gradient: [B, *input].
            step: length of the update, as a fraction of the set's size.

        Returns:
            [B, *input].
        """

    @abstractmethod
    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One random member of each set, up to rounding (see `inside`).

        Args:
            generator: of the random numbers; None: torch's own.

        Returns:
            [B, *input].
        """

    @abstractmethod
    def inside(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """x cast to `dtype` and moved, by roundings only, to a point that `contains` accepts where one is near.

        What an attack or a solver found goes through here before it is replayed as a counterexample.

        Args:
            x: [B, *input], members up to rounding.
            dtype: of the model's input.

        Returns:
            [B, *input], a tensor of its own, never x or the set's. Whether it is a member now is for `contains` to say.
        """

    def separate(self, x: Tensor) -> Tensor:
        """Normals of half-spaces that are meant to cut off x, for the cutting planes of linear programs.

        The plane used is {z : a . z <= support(a)}, which holds on the set whatever a is.

        Args:
            x: [B, *input].

        Returns:
            a [B, *input]. Where x lies in the set, or nothing cuts it off, a may be anything. Default: x - project(x).
        """
        return x - self.project(x)

    def inequalities(self) -> tuple[Tensor, Tensor] | None:
        """A polytope's own rows, for linear programs. Sets that are not polytopes are cut by `separate`.

        Returns:
            (A [B, m, *input], b [B, m]) with A x <= b on every member, besides `box()`; None where there are none.
        """
        return None

    def lifted(self) -> Lifted | None:
        """The set of one example (a batch of 1) as the image of a polytope; None where it has no such form.

        Programs then know the whole set. It holds every member in exact arithmetic.

        Raises:
            ValueError: more than one example.
        """
        return None

    def record(self) -> SetRecord:
        """The set of one example (a batch of 1), written out for certificates: all that defines it, and exactly.

        A subclass that is another set has a record of its own, or none.

        Raises:
            ValueError: more than one example, or the checker of certificates does not know sets of this kind.
        """
        raise ValueError(f"{type(self).__name__} has no record: no certificates are written about sets of this kind")

    def records(self) -> tuple[SetRecord, ...]:
        """The records of the sets that this one is the union of; mostly one. Raises ValueError as `record` does."""
        return (self.record(),)

    @abstractmethod
    def select(self, index: Tensor) -> Self:
        """The sets of some examples.

        Args:
            index: [k] int64 or [B] bool.

        Returns:
            A batch of as many sets as `index` chooses, in its order.
        """

    @abstractmethod
    def to(self, device: torch.device) -> Self:
        """The same sets on another device."""

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """Kind and parameters, as JSON values: names the set in stores, tables and certificates.

        Returns:
            "kind", and the parameters that a reader needs.
        """
