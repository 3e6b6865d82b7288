"""Conformance of input sets: support functions, members, boxes, projections, records, on the examples of each class."""

from __future__ import annotations

import itertools
import json

import torch
from torch import Tensor

from properties import InputSet
from properties.input_set import REGISTRY
from properties.record import SetRecord
from properties.threat import Threat
from verifier.forms import Dense
from verifier.testing.laws import Law, examples_of, generator, hold, named, normal

#: examples that go through all laws; those after them, through the first two
MANY = 3


def check_input_set(kind: type[InputSet]) -> None:
    """The laws of input sets on the examples of the class: at least one, of two or more sets each.

    Raises:
        AssertionError: one is broken; its notes say which.
    """
    assert kind.__doc__, f"{kind.__name__} has no documentation"
    for number, inputs in enumerate(examples_of(kind)):
        assert isinstance(inputs, InputSet) and inputs.batch > 1, "an example is a batch of two sets or more"
        hold(f"{named(kind)}, example {number}", LAWS if number < MANY else LAWS[:2], inputs)
    hold(named(kind), (a_threat_model_is_a_radius_around_the_input,), kind)


def bounds_hold_at_members(inputs: InputSet) -> None:
    """No member that sampling, projection and ascent give is beyond the support function or the box."""
    form = Dense(normal(inputs.batch, 7, *inputs.shape, seed=3))
    support, minimum = inputs.support(form), inputs.minimum(form)
    assert support.shape == minimum.shape == (inputs.batch, 7)
    low, high = inputs.box()
    points = [inputs.center(), *(inputs.sample(generator(seed)) for seed in range(20))]
    points += [inputs.project(3 * normal(inputs.batch, *inputs.shape, seed=seed)) for seed in range(5)]
    points += [inputs.project(p + inputs.steepest_ascent(p, form.coefficients[:, 0], 0.5)) for p in points[:5]]
    for point in points:
        x = inputs.inside(point, torch.float64)
        assert x.data_ptr() != point.data_ptr()
        assert inputs.contains(x).all() and (x - point).abs().max() < 1e-9
        value = form.dot(x)
        assert (value <= support + 1e-9).all() and (value >= minimum - 1e-9).all()
        assert ((x >= low) & (x <= high)).all()
    assert not inputs.contains(high + 1).any()


def a_hull_holds_the_set(inputs: InputSet) -> None:
    """`representable` takes no member away, and asked again it is itself; in float64 the set stays as it is."""
    assert inputs.representable(torch.float64) is inputs
    hull = inputs.representable(torch.float32)
    assert hull.representable(torch.float32) is hull
    assert (hull.batch, hull.shape) == (inputs.batch, inputs.shape)
    for seed in range(5):
        assert hull.contains(inputs.inside(inputs.sample(generator(seed)), torch.float64)).all()


def one_of_a_batch_is_itself(inputs: InputSet) -> None:
    """`select` takes sets out of the batch as they are, `to` keeps them, and `describe` is JSON with a kind."""
    form = Dense(normal(inputs.batch, 7, *inputs.shape, seed=3))
    one = inputs.select(torch.tensor([1]))
    assert one.batch == 1 and one.shape == inputs.shape
    torch.testing.assert_close(one.support(Dense(form.coefficients[1:2])), inputs.support(form)[1:2])
    moved = inputs.to(torch.device("cpu"))
    torch.testing.assert_close(moved.support(form), inputs.support(form))
    assert json.loads(json.dumps(inputs.describe()))["kind"]


def range_is_minimum_and_support(inputs: InputSet) -> None:
    """`range` of two forms is the minimum of their difference and the support of their sum."""
    mid, half = Dense(normal(inputs.batch, 2, *inputs.shape)), Dense(normal(inputs.batch, 2, *inputs.shape, seed=1))
    low, high = inputs.range(mid, half)
    torch.testing.assert_close(low, inputs.minimum(mid.combine(half, -1.0)), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(high, inputs.support(mid.combine(half, 1.0)), rtol=1e-6, atol=1e-6)


def coefficients_of_any_size_are_bounded(inputs: InputSet) -> None:
    """Squares of 2^100 and 2^-100 are beyond float32: a bound may become useless there, never too low."""
    plain = normal(inputs.batch, 7, *inputs.shape, seed=3)
    points = [inputs.center(), *(inputs.sample(generator(seed)) for seed in range(5))]
    for s in range(7):
        step = inputs.steepest_ascent(inputs.center(), plain[:, s].double(), 1.0)
        points += [inputs.project(inputs.center() + step), inputs.project(inputs.center() - step)]
    members = [inputs.inside(point, torch.float64) for point in points]
    for dtype, power in itertools.product((torch.float32, torch.float64), (-100, 60, 100)):
        scaled = Dense(plain.to(dtype) * 2.0**power)
        exact = Dense(scaled.coefficients.double())
        seen = torch.stack([exact.dot(x) for x in members])
        off = 1e-5 * exact.coefficients.abs().flatten(2).sum(2)
        for rows in (inputs.support(scaled), inputs.support_where(scaled, torch.ones(inputs.batch, 7).bool())):
            assert (rows.double() >= seen.amax(0) - off).all(), (dtype, power)
        assert (inputs.minimum(scaled).double() <= seen.amin(0) + off).all(), (dtype, power)


def numbers_that_are_none_are_no_members(inputs: InputSet) -> None:
    """A point with an entry that is NaN or infinite lies in no set."""
    for bad in (torch.nan, torch.inf, -torch.inf):
        x = inputs.inside(inputs.center(), torch.float64).clone()
        x[1].view(-1)[0] = bad
        member = inputs.contains(x)
        assert bool(member[0]) and not bool(member[1])


def a_record_is_of_one_set_or_refused(inputs: InputSet) -> None:
    """`record` gives what defines one set, or says with ValueError that certificates know no such sets."""
    one = inputs.select(torch.tensor([0]))
    try:
        records = one.records()
    except ValueError as refused:
        assert str(refused)
        return
    assert records and all(isinstance(record, SetRecord) and record.kind for record in records)


def a_threat_model_is_a_radius_around_the_input(kind: type[InputSet]) -> None:
    """A set with the name of a threat model is found by it, and made around inputs by a radius."""
    threat = vars(kind).get("threat")
    if threat is None or REGISTRY.get(kind.__name__) is not kind:
        return
    assert Threat.of(threat).parts == ((threat, 1.0),) and REGISTRY[threat] is kind
    x = torch.rand(2, 1, 4, 4, generator=generator(), dtype=torch.float64)
    inputs = Threat.of(threat).around(x, 0.01)
    assert inputs.batch == 2 and inputs.shape == (1, 4, 4)
    assert inputs.contains(inputs.inside(x, torch.float64)).all()
    if kind.nested:
        members_of_a_radius_are_members_of_a_larger_one(kind, x)


def members_of_a_radius_are_members_of_a_larger_one(kind: type[InputSet], x: Tensor) -> None:  # [B, *input]
    """Sets that claim to be nested are: what bounds say of a larger radius holds on all of a smaller one."""
    rows = Dense(normal(len(x), 3, *x.shape[1:], seed=1).double())
    for clip in (None, (0.0, 1.0)):
        small, large = (kind.around(x, eps, clip) for eps in (0.02, 0.03))
        (low, high), (least, most) = small.box(), large.box()
        assert (low >= least).all() and (high <= most).all()
        for seed in range(3):
            point = small.inside(small.sample(generator(seed)), torch.float64)
            assert (rows.dot(point) <= large.support(rows) * (1 + 1e-9) + 1e-9)[small.contains(point)].all()
            if kind.tightness == "exact":
                assert large.contains(point)[small.contains(point)].all()


LAWS: tuple[Law, ...] = (
    bounds_hold_at_members,
    one_of_a_batch_is_itself,
    a_hull_holds_the_set,
    range_is_minimum_and_support,
    coefficients_of_any_size_are_bounded,
    numbers_that_are_none_are_no_members,
    a_record_is_of_one_set_or_refused,
)
