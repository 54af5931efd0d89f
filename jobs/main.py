"""The command `mad`. Heavy imports wait inside the commands, so that help is there at once."""

import os
from importlib import metadata
from typing import Annotated, Literal

import typer

from jobs.console import INTERRUPTED, Common, Output, Quiet, Stage, Verbose, edge

app = typer.Typer(
    name="mad",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Mechanistic anomaly detection: asks of every output of a model how far a small trusted set explains it, and flags what it does not.\n\n"
        "Start with `mad demo`, then `mad init` for a config of your own, `mad plan CONFIG` to see what it would do, and `mad run CONFIG`.\n\n"
        "Exit codes: 0 done; 1 a model, file or task failed, or verify found a mismatch; 2 usage, config, model or data wrong before the first task; "
        "3 cannot fit, another run holds the root's lock, or --deadline came first; 4 done, and a model has the verdict of --fail-on."
    ),
)


Config = Annotated[str, typer.Argument(metavar="CONFIG", help="The audit's YAML file; `mad init` writes an example.")]


Root = Annotated[str, typer.Argument(metavar="ROOT", help="The root that runs are kept in: a folder or URL.")]


Executor = Annotated[
    Literal["serial", "ray"], typer.Option(help="Where tasks run: in this process, or on a Ray cluster.")
]


Address = Annotated[
    str | None,
    typer.Option(
        metavar="ADDR",
        help="The Ray cluster to join, HOST:PORT; without it RAY_ADDRESS, or a cluster of this machine's own.",
    ),
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mad {metadata.version('mad')}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
]


@app.callback()
def _common(version: Version = False) -> None:
    pass


@app.command()
def demo(
    root: Annotated[
        str, typer.Option(metavar="DIR", help="Where to keep the audit; its inputs go beside it, in DIR-inputs.")
    ] = "mad-demo",
    output: Output = "text",
    verbose: Verbose = 0,
    quiet: Quiet = False,
    version: Version = False,
) -> None:
    """Train a digit classifier with a backdoor on the spot, and audit it: the main job, in a minute."""
    with edge(Common(output, verbose, quiet)) as common:
        from jobs.commands import run_demo  # noqa: PLC0415

        run_demo(root, common)


@app.command()
def init(
    folder: Annotated[str, typer.Argument(metavar="[DIR]", help="Where to write audit.yaml.")] = ".",
    output: Output = "text",
    verbose: Verbose = 0,
    quiet: Quiet = False,
    version: Version = False,
) -> None:
    """Write a commented example config, audit.yaml."""
    with edge(Common(output, verbose, quiet)) as common:
        from jobs.example import write_example  # noqa: PLC0415

        write_example(folder, common)


@app.command()
def plan(
    config: Config,
    cost: Annotated[
        bool,
        typer.Option(
            "--cost",
            help="Time a few samples of each model, and say what is not done yet will cost: worker-hours, bytes, requests.",
        ),
    ] = False,
    executor: Annotated[
        Literal["serial", "ray"],
        typer.Option(help="For --cost: where tasks will run; a worker of a Ray cluster has one CPU."),
    ] = "serial",
    output: Output = "text",
    verbose: Verbose = 0,
    quiet: Quiet = False,
    version: Version = False,
) -> None:
    """Show what a run would do: tasks, bytes, projected memory, layers covered and not. Writes nothing."""
    with edge(Common(output, verbose, quiet)) as common:
        from jobs.commands import show_plan  # noqa: PLC0415

        show_plan(config, cost, executor, common)


@app.command()
def run(
    config: Config,
    executor: Executor = "serial",
    address: Address = None,
    until: Annotated[Stage, typer.Option(help="Stop after this stage; only reporting publishes scores.")] = "reporting",
    fail_on: Annotated[
        str | None,
        typer.Option(metavar="VERDICT", help="Exit with 4 if a model has this verdict, such as 'unusual inputs'."),
    ] = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="First check all that is stored of these models, and compute anew what is damaged or gone, nothing else.",
        ),
    ] = False,
    deadline: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="Begin no task after so long (90m, 2h30m, 45s), publish the models that are whole, and exit with 3 if others are not; "
            "models that were never audited go first, then changed ones, then those audited longest ago.",
        ),
    ] = None,
    cost: Annotated[
        bool,
        typer.Option(
            "--cost", help="Foretell the cost as `mad plan --cost` does; the summary then says how far off that was."
        ),
    ] = False,
    output: Output = "text",
    verbose: Verbose = 0,
    quiet: Quiet = False,
    version: Version = False,
) -> None:
    """Audit the models of a config. Resumes by itself: what an earlier run finished is not done again."""
    with edge(Common(output, verbose, quiet)) as common:
        from jobs.commands import RunOptions, deadline_of, repair_then_run, run_config  # noqa: PLC0415

        options = RunOptions(executor, address, until, fail_on, deadline_of(deadline), cost)
        (repair_then_run if repair else run_config)(config, options, common)


@app.command()
def rescore(
    root: Root,
    config: Config,
    drop_trusted: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Ids of trusted samples to do without: a text file with an id a line, a CSV or a Parquet file.",
        ),
    ] = None,
    executor: Executor = "serial",
    address: Address = None,
    output: Output = "text",
    verbose: Verbose = 0,
    quiet: Quiet = False,
    version: Version = False,
) -> None:
    """Audit again from the rows in ROOT, with other curvature, score, layers, trusted samples or calibration; needs no model and no data."""
    with edge(Common(output, verbose, quiet)) as common:
        from jobs.commands import RunOptions, rescore_config  # noqa: PLC0415

        rescore_config(root, config, drop_trusted, RunOptions(executor, address), common)


@app.command()
def sweep(
    root: Root,
    settings: Annotated[
        str,
        typer.Argument(
            metavar="SWEEP",
            help="A YAML file: audit (a config or its path), grid (dampings, curvatures, scores, layers, ranks).",
        ),
    ],
    executor: Executor = "serial",
    address: Address = None,
    output: Output = "text",
    verbose: Verbose = 0,
    quiet: Quiet = False,
    version: Version = False,
) -> None:
    """Try a grid of settings on the rows in ROOT: calibration, how well trusted samples are explained, and AUROC. Publishes nothing."""
    with edge(Common(output, verbose, quiet)) as common:
        from jobs.commands import RunOptions, sweep_settings  # noqa: PLC0415

        sweep_settings(root, settings, RunOptions(executor, address), common)


@app.command()
def status(
    root: Root, output: Output = "text", verbose: Verbose = 0, quiet: Quiet = False, version: Version = False
) -> None:
    """List the runs of a root and the latest verdict on each model."""
    with edge(Common(output, verbose, quiet)) as common:
        from jobs.reading import show_status  # noqa: PLC0415

        show_status(root, common)


@app.command()
def verify(
    root: Root, output: Output = "text", verbose: Verbose = 0, quiet: Quiet = False, version: Version = False
) -> None:
    """Check all that is stored, pages excepted, against the digests recorded when it was written."""
    with edge(Common(output, verbose, quiet)) as common:
        from jobs.reading import show_verification  # noqa: PLC0415

        show_verification(root, common)


@app.command()
def inspect(
    place: Annotated[
        str, typer.Argument(metavar="ROOT[/MODEL[/STAGE]]", help="A root, a model in it, or a stage of that model.")
    ],
    output: Output = "text",
    verbose: Verbose = 0,
    quiet: Quiet = False,
    version: Version = False,
) -> None:
    """Show what is committed: models, stages, tasks, with rows, bytes and seconds."""
    with edge(Common(output, verbose, quiet)) as common:
        from jobs.reading import show_inspection  # noqa: PLC0415

        show_inspection(place, common)


@app.command()
def report(
    root: Root,
    top: Annotated[
        int, typer.Option(min=0, help="How many of each model's most anomalous flagged samples to list.")
    ] = 10,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Compare with what this run found: its id, or the first part of it; `mad status` lists them.",
        ),
    ] = None,
    output: Output = "text",
    verbose: Verbose = 0,
    quiet: Quiet = False,
    version: Version = False,
) -> None:
    """Print the latest results of each model, and write the pages anew."""
    with edge(Common(output, verbose, quiet)) as common:
        from jobs.reading import show_report  # noqa: PLC0415

        show_report(root, top, since, common)


@app.command()
def explain(
    root: Root,
    model: Annotated[str, typer.Option(metavar="M", help="The model's name.")],
    sample: Annotated[str, typer.Option(metavar="ID", help="The id of an audited sample.")],
    top: Annotated[int, typer.Option(min=1, max=10, help="How many trusted samples and layers to name.")] = 10,
    output: Output = "text",
    verbose: Verbose = 0,
    quiet: Quiet = False,
    version: Version = False,
) -> None:
    """Show what is behind one score: the trusted samples, the layers, and its p-value in words."""
    with edge(Common(output, verbose, quiet)) as common:
        from jobs.reading import show_explanation  # noqa: PLC0415

        show_explanation(root, model, sample, top, common)


@app.command()
def gc(
    root: Root,
    keep: Annotated[
        str,
        typer.Option(
            metavar="DURATION",
            help="How far back runs stay, such as 30d or 12h; of each model the latest stays in any case.",
        ),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go. Writes nothing.")] = False,
    output: Output = "text",
    verbose: Verbose = 0,
    quiet: Quiet = False,
    version: Version = False,
) -> None:
    """Remove runs older than DURATION, and what only they refer to."""
    with edge(Common(output, verbose, quiet)) as common:
        from jobs.collecting import list_garbage, remove_garbage  # noqa: PLC0415

        (list_garbage if dry_run else remove_garbage)(root, keep, common)


def main() -> None:
    """The entry point of the command `mad`."""
    try:
        app()
    except SystemExit as end:
        if end.code == INTERRUPTED:
            os._exit(
                INTERRUPTED
            )  # a person does not wait for the tasks that still run in threads: a killed process loses no more
        raise


if __name__ == "__main__":
    main()
