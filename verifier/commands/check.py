"""`verifier check`: certificates, in rigorous arithmetic. Light: torch is loaded where a model has to be."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from verifier.commands.answer_options import AnswerOptions
from verifier.commands.exit_code import ExitCode
from verifier.commands.options import (
    DATA,
    MODEL,
    OUTPUT,
    SAFE,
    WEIGHTS,
    FormatOptions,
    ModelOptions,
    OptionalPerturbation,
    PartOptions,
)
from verifier.commands.shared import at_least_one, exported, image_shape, say
from verifier.errors import InputError
from verifier.registry import hint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from properties.vnnlib import Property
    from verifier.checker.audit import Audited, Checker
    from verifier.checker.beside import Sorted
    from verifier.checker.network import CanonicalNetwork
    from verifier.graph import Graph

    #: refuses a certificate for what it is about
    Judge = Callable[[Audited], Audited]


@dataclass(frozen=True, kw_only=True)
class OptionalModel:
    """The network that the certificates must be about; without it, the file beside them."""

    model: Annotated[str | None, MODEL] = None
    weights: Annotated[Path | None, WEIGHTS] = None
    output: Annotated[str | None, OUTPUT] = None
    safe: Annotated[bool, SAFE] = False


@dataclass(frozen=True, kw_only=True)
class MeantOptions:
    """The examples, or the property, that the certificates must be about."""

    data: Annotated[list[Path] | None, DATA] = None
    form: FormatOptions
    first_index: Annotated[int, typer.Option(help="Number of the first example of --data.")] = 0
    asked: OptionalPerturbation
    property_file: Annotated[
        Path | None,
        typer.Option("--property", help="VNN-LIB file: the certificates must cover all of its cases, as of `vnnlib`."),
    ] = None

    def check(self) -> None:
        """Raises InputError where the options do not go together."""
        if self.data and self.property_file is not None:
            raise InputError("--data is of `certify`, --property of `vnnlib`: give one of them")
        if (self.asked.eps is None) != (not self.data):
            raise InputError("--data and --eps go together: the examples, and the radius of the sets around them")

    def cases(self) -> Property | None:
        """The property, with its cases. Raises InputError."""
        if self.property_file is None:
            return None
        from verifier.vnncomp.solve import read_property

        return read_property(self.property_file)

    def judges(self) -> list[Judge]:
        """What refuses certificates of other examples. Raises InputError."""
        if not self.data or self.asked.eps is None:
            return []
        from verifier.certification.dataset import dataset
        from verifier.certification.expected import Expected

        examples = self.form.examples(self.data, PartOptions(), clipped=self.asked.limits is not None, quiet=True)
        test = dataset(examples.images, examples.labels)
        return [Expected(test, self.asked.of(self.asked.eps), self.first_index).judged]


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """In which arithmetic, and how fast."""

    semantics: Annotated[
        str | None, typer.Option(help="real or float32: the arithmetic that they must be about; default either.")
    ] = None
    exact: Annotated[
        bool, typer.Option("--exact", help="In rational arithmetic: small piecewise linear networks; slow.")
    ] = False
    jobs: Annotated[int | None, typer.Option(help="Processes; by default one per core.")] = None


def check(
    places: Annotated[list[Path], typer.Argument(help="Certificates, or folders of them.")],
    about: OptionalModel,
    meant: MeantOptions,
    how: CheckOptions,
    answer: AnswerOptions,
    csv: Annotated[Path | None, typer.Option(help="Write one line per certificate to this CSV file.")] = None,
    store: Annotated[
        list[Path] | None,
        typer.Option(help="Store of `certify`, or folder of a sweep: what it has VERIFIED needs a certificate here."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only what is not valid, and the summary.")] = False,
) -> None:
    """Check certificates in rigorous arithmetic, without any of the code that made them.

    Against the network of --model, or else the one in the file beside the certificates. With --data and --eps (and
    --threat, --clip) they must be about those examples, with --property about that property. Of a folder without
    certificates those in the folders below it are checked. Exit code 1 where one is not valid.
    """
    from verifier.checker.audit import Audited, certificates_in, line, summary
    from verifier.ci.checked import checked, missing_in

    at_least_one(jobs=how.jobs)
    answer.check()
    meant.check()
    arithmetic = _arithmetic(how.semantics)
    asked = meant.cases()
    paths = certificates_in(places)
    found: list[Audited] = []
    groups, without = _networks(paths, places, about, meant.form.shape, asked)
    judges = [arithmetic, *meant.judges()]
    for network, own in groups:
        some = _audited(own, network, how, judges, quiet, answer.say)
        answer.say(summary(some, network))
        found += some
    for path, why_not in without.items():
        found.append(Audited(path, False, why_not))
        answer.say(line(found[-1]))
    if csv is not None:
        exported(csv, lambda path: _write(found, path))
    if about.model is None:
        say("the network is the file beside the certificates: --model compares it with a model of your own")
    why: tuple[str, list[str]] | None = None
    if asked is not None and meant.property_file is not None:
        why = (meant.property_file.name, _uncovered(found, asked, meant.property_file.name, answer.say))
    missing = missing_in(places)
    if store:
        missing = _unproved(store, places, found) | missing
    networks = ", ".join(network.digest for network, _ in groups)
    unmet = answer.give(checked(found, missing, networks, why)) if answer.asked else ExitCode.DONE
    if (why is not None and why[1]) or not all(one.valid for one in found):
        raise typer.Exit(ExitCode.FAILED)
    raise typer.Exit(unmet)


def _networks(
    paths: Sequence[Path], places: Sequence[Path], about: OptionalModel, shape: str | None, asked: Property | None
) -> Sorted:
    """The networks to check against, each with its certificates: one, or those of the files beside.

    Raises InputError where a property is asked about, and the files are of several networks.
    """
    from verifier.checker.beside import Sorted, by_network

    if about.model is not None:
        return Sorted([(_network(paths[0], about.model, about, shape, asked), list(paths))], {})
    found = by_network(paths, places, advice="give the network by --model")
    if asked is not None and len(found.groups) > 1:
        raise InputError(
            f"--property is about one network, the certificates are of {len(found.groups)}: name one folder"
        )
    return found


def _unproved(stores: Sequence[Path], places: Sequence[Path], found: Sequence[Audited]) -> dict[Path, str]:
    """What stores call VERIFIED without a certificate here, which is said."""
    from verifier.ci.stored import unproved

    lacking = unproved(stores, places, found)
    if lacking:
        first = next(iter(lacking))
        say(f"note: {len(lacking)} proofs of the store have no certificate here; the first, {first}: {lacking[first]}")
    return lacking


def _audited(
    paths: Sequence[Path], network: CanonicalNetwork, how: CheckOptions, judges: Sequence[Judge], quiet: bool,
    say: Callable[[str], None],
) -> list[Audited]:  # fmt: skip
    """Checks all certificates and says what became of each."""
    from verifier.checker.audit import audit, line

    found: list[Audited] = []
    for one in audit(paths, network, how.jobs or os.cpu_count() or 1, _checker(how.exact)):
        for judged in judges:
            one = judged(one)
        found.append(one)
        if not (quiet and one.valid):
            say(line(one))
    return found


def _checker(exact: bool) -> Checker:
    if exact:
        from verifier.checker.exact import check_exactly

        return check_exactly
    from verifier.checker.check import check as rigorous

    return rigorous


def _arithmetic(semantics: str | None) -> Judge:
    """Refuses certificates of another arithmetic than the one asked for."""
    if semantics not in (None, "real", "float32"):
        raise InputError(f"--semantics is real or float32, got {semantics!r}{hint(semantics, ('real', 'float32'))}")

    def judged(one: Audited) -> Audited:
        if semantics is None or not one.valid or one.semantics == semantics:
            return one
        return replace(one, valid=False, reason=f"it is about {one.semantics} arithmetic, not {semantics}")

    return judged


def _uncovered(found: Sequence[Audited], asked: Property, name: str, say: Callable[[str], None]) -> list[str]:
    """Says whether the certificates prove a property, and why not."""
    from verifier.vnncomp.certificates import of_hull, uncovered

    why = uncovered(found, asked)
    if not why:
        where = ", in the float32 hull of its boxes" if of_hull(found) else ""
        say(f"together they prove that {name} has no counterexample{where}")
    for reason in why:
        say(f"NOT PROVED  {name}: {reason}")
    return why


def _network(
    certificate: Path, model: str, about: OptionalModel, shape: str | None, asked: Property | None
) -> CanonicalNetwork:
    """The network to check against: a model's canonical form.

    Args:
        asked: the property in question: one about inputs is a property of the network with its input beside its output.
    """
    from verifier.checker.document import Document

    if asked is not None and not asked.plain:
        return _built(asked, about)
    import torch

    from verifier.api import Verifier
    from verifier.certification.certify import input_precision
    from verifier.graph.canonical import canonical
    from verifier.vnncomp.joined import with_input

    sizes = image_shape(shape) or Document.read(certificate).head.get("about", {}).get("shape")
    if not isinstance(sizes, (list, tuple)) or not all(type(n) is int and n > 0 for n in sizes):
        raise InputError("the certificates do not say what shape the model's input has: give --shape")
    loaded = ModelOptions(model=model, weights=about.weights, output=about.output, safe=about.safe).load()
    example = torch.zeros(1, *sizes, dtype=input_precision(loaded))
    graph = Verifier(loaded, example).imported
    if asked is not None and asked.with_inputs:
        return canonical(with_input(graph)).network
    named = Document.read(certificate).head.get("network")
    # questions of labels are asked of the values before a last softmax
    return next((n for n in _forms(graph) if n.digest == named), canonical(graph).network)


def _built(asked: Property, about: OptionalModel) -> CanonicalNetwork:
    """What is built of a network's file for a property of hidden nodes, several outputs or products."""
    from verifier.graph.canonical import canonical
    from verifier.vnncomp.joined import with_input
    from verifier.vnncomp.networks import network_of

    if sum(network.equal_to is None for network in asked.networks) > 1:
        raise InputError("the property is about several networks: leave --model out, the file beside is of all of them")
    if about.model is None or about.output is not None or not about.model.endswith((".onnx", ".onnx.gz")):
        raise InputError("--property is about outputs of an ONNX file: give that as --model, without --output")
    graph = network_of(asked, Path(about.model)).graph
    return canonical(with_input(graph) if asked.with_inputs else graph).network


def _forms(graph: Graph) -> Iterator[CanonicalNetwork]:
    """The networks that a certificate of a model may be about."""
    from verifier.graph.canonical import canonical

    yield canonical(graph).network
    if graph.before_last is not graph:
        yield canonical(graph.before_last).network


def _write(found: Sequence[Audited], path: Path) -> None:
    import csv as table
    import io

    from verifier.files import text_replaced

    text = io.StringIO()
    rows = table.writer(text)
    rows.writerow(["file", "valid", "reason", "lower", "claim", "semantics", "bytes", "seconds"])
    for one in found:
        rows.writerow(
            [one.path, one.valid, one.reason, one.lower, one.claim, one.semantics, one.size, f"{one.seconds:.6f}"]
        )
    text_replaced(path, text.getvalue())
