"""The entry points of single stages, `python -m jobs.STAGE CONFIG`."""

import typer

from jobs.console import Common, Output, Quiet, Stage, Verbose, edge
from jobs.main import Config


def run_stage(stage: Stage) -> None:
    """Parses the command line of one stage's entry point and runs up to that stage."""

    def command(config: Config, output: Output = "text", verbose: Verbose = 0, quiet: Quiet = False) -> None:
        with edge(Common(output, verbose, quiet)) as common:
            from jobs.commands import RunOptions, run_config  # noqa: PLC0415

            run_config(config, RunOptions(until=stage), common)

    command.__doc__ = (
        f"Run an audit up to and including the stage {stage}; the same as: mad run CONFIG --until {stage}."
    )
    typer.run(command)
