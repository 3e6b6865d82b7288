"""The command line: `certify`, `explain`, `crosscheck` and `show`; `check`, `vnnlib` and `bench` by their packages.

Other packages add commands by the entry-point group `verifier.commands` (verifier/commands/plugins.py), such as
`verifier train`.

Exit codes: 0 done; 1 an internal or unexpected error, with its traceback, a run in which every example raised, or a
law that `crosscheck` found broken; 2 bad usage or input, with one clear message on stderr; 130 Ctrl-C.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from verifier.commands.check import check
from verifier.commands.instances import bench, vnnlib
from verifier.commands.plugins import CommandGroup
from verifier.commands.shared import (
    arrays_of,
    examples,
    exported,
    integers,
    number,
    part_of,
    say,
    user_errors,
    valid_range,
)
from verifier.commands.stdout import own_stdout
from verifier.errors import InputError

if TYPE_CHECKING:
    from verifier.certification import Report


app = typer.Typer(
    name="verifier",
    cls=CommandGroup,
    help="Decide, with evidence, whether any allowed perturbation of an input can change a neural network's answer.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain messages, in one line however narrow the terminal
    pretty_exceptions_enable=False,  # plain tracebacks: they can be pasted into a report
)


#: `vnnlib` reads its own arguments (verifier.commands.vnnlib)
_AS_THEY_ARE = {"allow_extra_args": True, "ignore_unknown_options": True}
app.command(context_settings=_AS_THEY_ARE, add_help_option=False)(vnnlib)
app.command()(bench)
app.command()(check)


def main() -> None:
    """What `python -m verifier` runs, and the `verifier` script for all but `vnnlib`."""
    own_stdout()
    if sys.argv[1:2] == ["vnnlib"]:
        from verifier.commands.vnnlib import main as decide_one

        decide_one(sys.argv[2:])
    app()


@app.command()
def certify(
    model: Annotated[
        str,
        typer.Option(
            help="net.pt2 (torch.export.save), net.onnx or net.onnx.gz, or package.module:factory: a callable without "
            "arguments that returns a torch.nn.Module. The current directory is importable. "
            "The model is put in eval mode."
        ),
    ],
    data: Annotated[Path, typer.Option(help="npz file with the arrays images [N, ...] and labels [N].")],
    eps: Annotated[
        float,
        typer.Option(
            parser=number,
            metavar="NUMBER",
            help="Radius, in the units of the (scaled) images; a number, or a fraction such as 8/255.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="SQLite file to write; one durable row per example.")],
    weights: Annotated[Path | None, typer.Option(help="safetensors file with all of the factory's weights.")] = None,
    images_key: Annotated[str, typer.Option(help="Name of the images in the npz file.")] = "images",
    labels_key: Annotated[str, typer.Option(help="Name of the labels in the npz file.")] = "labels",
    scale: Annotated[
        float | None, typer.Option(help="Divide the images by this; by default uint8 images by 255, others not.")
    ] = None,
    shape: Annotated[
        str | None, typer.Option(help="Reshape each image, such as 1,28,28 for greyscale images [N, 28, 28].")
    ] = None,
    first: Annotated[int | None, typer.Option(help="Only the first N examples.")] = None,
    indices: Annotated[str | None, typer.Option(help="Only the examples a:b (b excluded); rows keep these.")] = None,
    threat: Annotated[
        str, typer.Option(help="Kind of set: linf, l2, l1, wasserstein, ..., or a union such as linf+5*l2.")
    ] = "linf",
    clip: Annotated[str | None, typer.Option(help="Valid range of inputs, such as 0,1; by default none.")] = None,
    stages: Annotated[str | None, typer.Option(help="Names of the stages to use, comma-separated, in order.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:0; by default where the model is.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples per batch and transaction.")] = None,
    budget: Annotated[float | None, typer.Option(help="Seconds per batch; by default no limit.")] = None,
    example_budget: Annotated[
        float, typer.Option(help="Seconds per example, after which it stays unknown; inf for no limit.")
    ] = 60.0,
    certificates: Annotated[
        Path | None, typer.Option(help="Folder to write a certificate to for every proof; `check` reads them.")
    ] = None,
    semantics: Annotated[
        str,
        typer.Option(
            help="real: the network over the real numbers; float32: as hardware runs it, summing in any order."
        ),
    ] = "real",
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out; start it if there is none.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="No progress; the table is still printed, and warnings are.")
    ] = False,
) -> None:
    """Certify a labelled test set: which answers no perturbation of size eps can change."""
    with user_errors():
        from verifier.certification import certify as run
        from verifier.loading import load_model

        arrays = arrays_of(data, images_key, labels_key)
        part = part_of(first, indices, len(arrays[0]))
        x, chosen_labels = examples(arrays, part, scale, shape, clip, quiet)
        report = run(
            load_model(model, weights),
            x,
            chosen_labels,
            eps,
            threat=threat,
            clip=valid_range(clip),
            store=out,
            resume=resume,
            stages=None if stages is None else [name.strip() for name in stages.split(",")],
            device=device,
            batch_size=batch_size,
            budget=budget,
            example_budget=None if example_budget == float("inf") else example_budget,
            first_index=part.start,
            certificates=certificates,
            semantics=semantics,
            progress=not quiet,
        )
        _print_table(report)
        if certificates is not None:
            _say_missing(certificates)
        _exit_on_errors(report, out)


@app.command()
def explain(
    model: Annotated[str, typer.Option(help="As in `certify`.")],
    data: Annotated[Path, typer.Option(help="npz file with images [N, ...] and labels [N]; gives the input's shape.")],
    weights: Annotated[Path | None, typer.Option(help="safetensors file with all of the factory's weights.")] = None,
    images_key: Annotated[str, typer.Option(help="Name of the images in the npz file.")] = "images",
    labels_key: Annotated[str, typer.Option(help="Name of the labels in the npz file.")] = "labels",
    scale: Annotated[float | None, typer.Option(help="As in `certify`.")] = None,
    shape: Annotated[str | None, typer.Option(help="As in `certify`.")] = None,
    threat: Annotated[str, typer.Option(help="As in `certify`.")] = "linf",
    clip: Annotated[str | None, typer.Option(help="As in `certify`.")] = None,
    eps: Annotated[
        float | None,
        typer.Option(parser=number, metavar="NUMBER", help="Try the stages at this radius, and show what they cost."),
    ] = None,
    first: Annotated[int, typer.Option(help="How many examples to try them on.")] = 32,
    stages: Annotated[str | None, typer.Option(help="Names of the stages, comma-separated, in order.")] = None,
) -> None:
    """Show which stages would run on a network, in which order, and what each is worth there."""
    with user_errors():
        from rich.console import Console

        from properties import Threat, robustness
        from verifier.api import Verifier
        from verifier.arguments import input_errors
        from verifier.certification.dataset import dataset
        from verifier.loading import load_model, prepare_images

        images, labels = arrays_of(data, images_key, labels_key)
        part = part_of(min(first, len(images)), None, len(images))
        x, _ = prepare_images(images[part.start : part.stop], scale, integers(shape, "--shape"))
        names = None if stages is None else [name.strip() for name in stages.split(",")]
        verifier = Verifier(load_model(model, weights), x, stages=names)
        if eps is not None:
            test = dataset(x, labels[part.start : part.stop])
            with input_errors():
                verifier.run(
                    Threat.of(threat).around(x, eps, valid_range(clip)), robustness(test.labels, verifier.classes)
                )
        Console().print(verifier.explain())


@app.command()
def crosscheck(
    model: Annotated[str, typer.Option(help="As in `certify`.")],
    data: Annotated[Path, typer.Option(help="npz file with the arrays images [N, ...] and labels [N].")],
    eps: Annotated[float, typer.Option(parser=number, metavar="NUMBER", help="l-infinity radius, as in `certify`.")],
    n: Annotated[int | None, typer.Option("--n", help="Only the first N examples; by default at most 50.")] = None,
    indices: Annotated[str | None, typer.Option(help="Only the examples a:b (b excluded).")] = None,
    weights: Annotated[Path | None, typer.Option(help="safetensors file with all of the factory's weights.")] = None,
    images_key: Annotated[str, typer.Option(help="Name of the images in the npz file.")] = "images",
    labels_key: Annotated[str, typer.Option(help="Name of the labels in the npz file.")] = "labels",
    scale: Annotated[float | None, typer.Option(help="As in `certify`.")] = None,
    shape: Annotated[str | None, typer.Option(help="As in `certify`.")] = None,
    clip: Annotated[str | None, typer.Option(help="Valid range of inputs, such as 0,1; by default none.")] = None,
    exact_seconds: Annotated[
        float, typer.Option(help="Seconds for each row's integer program, left out where they are over; 0: none.")
    ] = 2.0,
    workers: Annotated[int | None, typer.Option(help="Processes that solve; 0: none; by default one per core.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write one line per row to this CSV file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw dual bounds against the LP to this PNG file.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Bound every margin by every method on equal intermediate bounds, and check the laws between the methods."""
    with user_errors():
        from rich.console import Console

        from verifier.certification.dataset import dataset
        from verifier.comparison import crosscheck as run
        from verifier.comparison.plot import needs_matplotlib
        from verifier.loading import load_model

        for target in filter(None, (csv, plot)):  # known now rather than in minutes
            if not target.parent.is_dir():
                raise InputError(f"the directory of {target} does not exist")
        if plot is not None:
            needs_matplotlib()
        arrays = arrays_of(data, images_key, labels_key)
        if len(arrays[0]) == 0:
            raise InputError(f"{data} has no examples: nothing to check")
        default = min(50, len(arrays[0])) if n is None and indices is None else n
        part = part_of(default, indices, len(arrays[0]), "--n")
        test = dataset(*examples(arrays, part, scale, shape, clip, quiet))
        report = run(
            load_model(model, weights),
            test.images,
            eps,
            label=test.labels,
            clip=valid_range(clip),
            exact_seconds=exact_seconds,
            workers=workers,
            first_index=part.start,
            progress=None if quiet else say,
        )
        Console().print(report.table())
        for broken in report.violations:
            say(f"error: {report.describe(broken)}")
        for path, export in ((csv, report.to_csv), (plot, report.plot)):
            if path is not None:
                exported(path, export)
        if report.violations:
            raise typer.Exit(1)


@app.command()
def show(
    store: Annotated[Path, typer.Argument(help="SQLite file of a run; it may still be running.")],
    csv: Annotated[Path | None, typer.Option(help="Write one line per example to this CSV file.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write settings, summary and examples to this JSON file.")] = None,
    failures: Annotated[bool, typer.Option("--failures", help="List the examples that were not proved.")] = False,
) -> None:
    """Print the table of a run, list what was not proved, and export it."""
    with user_errors():
        from verifier.certification import Report
        from verifier.certification.report import same_file

        if csv is not None and json is not None and same_file(csv, json):
            raise InputError(f"--csv and --json are one file, {csv}: give two")
        report = Report.open(store)
        _print_table(report)
        if failures:
            _print_failures(report)
        for path, export in ((csv, report.to_csv), (json, report.to_json)):
            if path is not None:
                exported(path, export)


def _print_table(report: Report) -> None:
    from rich.console import Console

    Console().print(report.table())


def _print_failures(report: Report) -> None:
    from verifier.certification import ExampleOutcome

    print("index label prediction verdict margin attack_margin why")
    for e in report.rows():
        if e.outcome is not ExampleOutcome.VERIFIED:
            numbers = ("-" if m is None else f"{m:.4g}" for m in (e.margin, e.attack_margin))
            prediction = "-" if e.prediction is None else e.prediction
            why = e.error or (e.reason.value if e.reason else e.stage or "")
            print(e.index, e.label, prediction, e.outcome.value, *numbers, why)


def _say_missing(certificates: Path) -> None:
    """How many proofs have no certificate, and why the first of them has none."""
    from verifier.certification.certificates import missing

    why = missing(certificates)
    if why:
        first = min(why)
        proofs = "1 proof has" if len(why) == 1 else f"{len(why)} proofs have"
        say(f"note: {proofs} no certificate; the first, at index {first}: {why[first]}")


def _exit_on_errors(report: Report, out: Path) -> None:
    """Says how many examples raised; a run in which all did has proved nothing, and fails."""
    from verifier.certification import ExampleOutcome

    raised = [e for e in report.rows() if e.outcome is ExampleOutcome.ERROR]
    if raised:
        examples = "1 example" if len(raised) == 1 else f"{len(raised)} examples"
        say(f"warning: {examples} raised an error; `verifier show {out} --failures` lists them")
        say(f"the first, at index {raised[0].index}: {raised[0].error}")
    if len(raised) == len(report.rows()):
        raise typer.Exit(1)


if __name__ == "__main__":
    main()
