"""Which certificates there are, which of them the checker accepts, and what checks them again."""

from __future__ import annotations

from collections.abc import Iterator

from verifier.certification.example import ExampleOutcome
from verifier.checker.audit import Audited
from verifier.report.blocks import NONE, Block, Cell, Command, Facts, Table, Text, number, plural
from verifier.report.section import section
from verifier.report.subjects import CertifyRun, CheckedFolder, InstanceRun

#: whether the network beside the certificates is that of the run
_OWN = {None: "", True: ", which is the network of the run", False: ", which is not the network of the run"}
#: of a command that names what only the reader knows
_TO_FILL_IN = (
    " (what is in capitals is yours to fill in: a model of your own, and the data with the options on how they are "
    "read, where those need any)"
)
#: lines of the table, at most; what is not valid comes first
_MOST = 1000


@section("certificates", "Certificates", 80, CertifyRun)
def of_run(run: CertifyRun) -> Iterator[Block]:
    """Of the proofs of a run."""
    folder = run.certificates
    if folder is None:
        return
    valid = {one.about.get("index") for one in folder.found if one.valid}
    proved = [row.index for row in run.rows if row.outcome is ExampleOutcome.VERIFIED]
    having = sum(index in valid for index in proved)
    yield from _checked(folder, "index", f"{having} of the {plural(len(proved), 'proof')} have a valid certificate")
    without = [index for index in proved if index not in valid]
    if without:
        why = [[Cell(str(i), i), Cell(folder.missing.get(i, "there is none in the folder"))] for i in without[:_MOST]]
        yield Table("Proofs without a valid certificate", ("#example", "why"), why)
    stray = sorted(i for i in valid - set(proved) if isinstance(i, int))
    if stray:
        yield Text(f"Certificates of examples that the store does not call verified: {stray}", warning=True)


@section("certificate", "Certificates", 80, InstanceRun)
def of_instance(run: InstanceRun) -> Iterator[Block]:
    """Of an instance's cases."""
    folder = run.certificates
    if folder is None:
        return
    proved = not folder.uncovered and all(one.valid for one in folder.found)
    name = run.property_file.name
    yield from _checked(
        folder, "case",
        f"together they prove that {name} has no counterexample" if proved else f"they do not prove {name}",
    )  # fmt: skip
    for reason in folder.uncovered:
        yield Text(reason, warning=True)


def _checked(folder: CheckedFolder, about: str, says: str) -> Iterator[Block]:
    wrong = [one for one in folder.found if not one.valid]
    yield Text(
        f"Valid when this page was made: {len(folder.found) - len(wrong)} of "
        f"{plural(len(folder.found), 'certificate')}; {says}. The checker uses rigorous arithmetic and none of the "
        "code that made them."
    )
    if wrong:
        yield Text(f"{plural(len(wrong), 'certificate is', 'certificates are')} not valid.", warning=True)
    if folder.own is False:
        yield Text("They are about another network than that of the run: they prove nothing about it.", warning=True)
    yield Facts([
        ("Network", f"sha256 {folder.network}: the file beside the certificates{_OWN[folder.own]}"),
        ("Compared with", folder.compared or "nothing but that network: --data compares them with the inputs"),
    ])  # fmt: skip
    yield Text("To check them again" + _TO_FILL_IN * ("MODEL" in folder.command) + ":")
    yield Command(folder.command)
    shown = [*wrong, *(one for one in folder.found if one.valid)][:_MOST]
    some = "" if len(shown) == len(folder.found) else f", of {len(folder.found)}"
    yield Table(
        f"{plural(len(shown), 'certificate')}{some}",
        ("file", f"#{about}", "valid", "#proved bound", "what it proves, or what is wrong", "#kB"),
        [_line(one, about) for one in shown], folded=len(shown) > 12,
    )  # fmt: skip


def _line(one: Audited, about: str) -> list[Cell]:
    place = one.about.get(about)
    return [
        Cell(one.path.name), Cell(str(place), place) if isinstance(place, int) else Cell(NONE),
        Cell("valid" if one.valid else "not valid", tone="verified" if one.valid else "falsified"),
        number(one.lower if one.valid else None), Cell(one.claim if one.valid else one.reason),
        Cell(f"{one.size / 1000:.1f}", one.size),
    ]  # fmt: skip
