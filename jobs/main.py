"""The command `mad`. Heavy imports happen inside the commands, so that `--help` answers at once."""

import os
from typing import Annotated, Literal

import typer

from infra.version import installed_version
from jobs.console import INTERRUPTED, Common, Output, Quiet, Stage, Verbose, edge

app = typer.Typer(
    name="mad",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Mechanistic anomaly detection: measures how far a small trusted set explains each output of a model, "
        "and flags the outputs that it does not explain.\n\n"
        "Start with `mad demo`. Then `mad init` writes a config of your own, `mad plan CONFIG` shows what a run "
        "would do, and `mad run CONFIG` audits.\n\n"
        "Exit codes: 0 done; 1 a model, file or task failed, or verify found a mismatch; 2 usage, config, model or "
        "data wrong before the first task; 3 cannot fit, another run holds the root's lock, or --deadline passed "
        "before all models were done; 4 done, and a model has the verdict of --fail-on."
    ),
)


Config = Annotated[str, typer.Argument(metavar="CONFIG", help="The audit's YAML file; `mad init` writes an example.")]


Root = Annotated[str, typer.Argument(metavar="ROOT", help="The root that holds the runs: a folder or a URL.")]


Executor = Annotated[
    Literal["serial", "ray"], typer.Option(help="Where tasks run: in this process or on a Ray cluster.")
]


Address = Annotated[
    str | None,
    typer.Option(
        metavar="ADDR",
        help="The Ray cluster to join, HOST:PORT. Default: RAY_ADDRESS, else a cluster on this machine.",
    ),
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mad {installed_version()}")
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
        str, typer.Option(metavar="DIR", help="Where to keep the audit; its inputs go to DIR-inputs.")
    ] = "mad-demo",
    output: Output = "text",
    verbose: Verbose = 0,
    quiet: Quiet = False,
    version: Version = False,
) -> None:
    """Train and audit a digit classifier with a backdoor, in a minute."""
    with edge(Common(output, verbose, quiet)) as common:
        from jobs.commands import run_demo  # noqa: PLC0415

        run_demo(root, common)


@app.command()
def init(
    folder: Annotated[str, typer.Argument(metavar="[DIR]", help="Where to write audit.yaml.")] = ".",
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="FOLDER", help="A folder of a Hugging Face model or an adapter to audit."),
    ] = None,
    output: Output = "text",
    verbose: Verbose = 0,
    quiet: Quiet = False,
    version: Version = False,
) -> None:
    """Write audit.yaml: a commented example config, or one for a model's folder."""
    with edge(Common(output, verbose, quiet)) as common:
        from jobs.example import write_example  # noqa: PLC0415

        write_example(folder, source, common)


@app.command()
def plan(
    config: Config,
    cost: Annotated[
        bool,
        typer.Option(
            "--cost",
            help="Time a few samples of each model, and estimate the remaining work: worker-hours, bytes, requests.",
        ),
    ] = False,
    executor: Annotated[
        Literal["serial", "ray"],
        typer.Option(help="With --cost: where tasks will run. A worker on a Ray cluster has one CPU."),
    ] = "serial",
    output: Output = "text",
    verbose: Verbose = 0,
    quiet: Quiet = False,
    version: Version = False,
) -> None:
    """Show what a run would do, and write nothing. Lists tasks, bytes, projected memory and covered layers."""
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
        typer.Option(metavar="VERDICT", help="Exit with code 4 if a model has this verdict, such as 'unusual inputs'."),
    ] = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="First check everything stored for these models; then recompute only what is damaged or missing.",
        ),
    ] = False,
    deadline: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="Start no task after this time (90m, 2h30m, 45s), publish the models that are complete, and exit "
            "with code 3 if others are not. Models that were never audited go first, then changed ones, then those "
            "audited longest ago.",
        ),
    ] = None,
    cost: Annotated[
        bool,
        typer.Option(
            "--cost",
            help="Estimate the cost first, as `mad plan --cost` does; the summary compares both.",
        ),
    ] = False,
    output: Output = "text",
    verbose: Verbose = 0,
    quiet: Quiet = False,
    version: Version = False,
) -> None:
    """Audit the models of a config. Resumes by itself: what an earlier run finished is not repeated."""
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
            help="Ids of trusted samples to leave out: a text file with one id per line, or a table of them.",
        ),
    ] = None,
    executor: Executor = "serial",
    address: Address = None,
    output: Output = "text",
    verbose: Verbose = 0,
    quiet: Quiet = False,
    version: Version = False,
) -> None:
    """Audit again from stored rows. Settings or trusted samples may differ; no model and no data are needed."""
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
    """Compare a grid of settings on stored rows. Shows calibration, coupling and AUROC; publishes nothing."""
    with edge(Common(output, verbose, quiet)) as common:
        from jobs.commands import RunOptions, sweep_settings  # noqa: PLC0415

        sweep_settings(root, settings, RunOptions(executor, address), common)


@app.command()
def status(
    root: Root, output: Output = "text", verbose: Verbose = 0, quiet: Quiet = False, version: Version = False
) -> None:
    """List the runs of a root and the latest verdict of each model."""
    with edge(Common(output, verbose, quiet)) as common:
        from jobs.reading.status import show_status  # noqa: PLC0415

        show_status(root, common)


@app.command()
def verify(
    root: Root, output: Output = "text", verbose: Verbose = 0, quiet: Quiet = False, version: Version = False
) -> None:
    """Check stored data against its recorded digests. Pages are not checked."""
    with edge(Common(output, verbose, quiet)) as common:
        from jobs.reading.verification import show_verification  # noqa: PLC0415

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
    """Show stored models, stages and tasks with rows, bytes and times."""
    with edge(Common(output, verbose, quiet)) as common:
        from jobs.reading.inspection import show_inspection  # noqa: PLC0415

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
            help="Compare with this run: its id or the start of it; `mad status` lists the ids.",
        ),
    ] = None,
    output: Output = "text",
    verbose: Verbose = 0,
    quiet: Quiet = False,
    version: Version = False,
) -> None:
    """Print the latest results and rewrite the pages."""
    with edge(Common(output, verbose, quiet)) as common:
        from jobs.reading.report import show_report  # noqa: PLC0415

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
    """Explain one score by trusted samples, layers and its p-value."""
    with edge(Common(output, verbose, quiet)) as common:
        from jobs.reading.explanation import show_explanation  # noqa: PLC0415

        show_explanation(root, model, sample, top, common)


@app.command()
def gc(
    root: Root,
    keep: Annotated[
        str,
        typer.Option(
            metavar="DURATION",
            help="Keep runs younger than this, such as 30d or 12h; each model's latest run always stays.",
        ),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be removed and listed. Writes nothing.")
    ] = False,
    output: Output = "text",
    verbose: Verbose = 0,
    quiet: Quiet = False,
    version: Version = False,
) -> None:
    """List old runs and everything that only they refer to; remove what an earlier call listed, a minute before."""
    with edge(Common(output, verbose, quiet)) as common:
        from jobs.collecting import list_garbage, remove_garbage  # noqa: PLC0415

        (list_garbage if dry_run else remove_garbage)(root, keep, common)


def main() -> None:
    """The entry point of the command `mad`."""
    try:
        app()
    except SystemExit as end:
        if end.code == INTERRUPTED:
            # Nobody waits for the tasks that still run in threads: a killed process loses no more.
            os._exit(INTERRUPTED)
        raise


if __name__ == "__main__":
    main()
