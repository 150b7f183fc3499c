"""`resnets paper VERB`: what the command line takes; `cli/paper.py` does it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resnets.cli.options import DataOption, JsonOption, example

papers = typer.Typer(
    help="The paper's tables and figures: what they need, run them, report them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
ResultsOption = Annotated[Path, typer.Option(help="Folder of results.", metavar="FOLDER")]
RESULTS = Path("results/paper")
RunsOption = Annotated[Path, typer.Option(help="Folder for the runs themselves.", metavar="FOLDER")]
RUNS = Path("runs/paper")
BudgetOption = Annotated[str, typer.Option(help="full, short or smoke.", metavar="NAME")]
SeedsOption = Annotated[int, typer.Option(min=1, help="Runs of each network.")]


@papers.command("list", epilog=example("resnets paper list --budget short --seeds 2"))
def paper_list(
    budget: BudgetOption = "full",
    seeds: SeedsOption = 1,
    data: DataOption = None,
    image_size: Annotated[
        int | None, typer.Option(min=8, max=2048, help="Pixels a side of photographs.")
    ] = None,
    results: ResultsOption = RESULTS,
    runs: RunsOption = RUNS,
    json: JsonOption = False,
) -> None:
    """Show every table and figure: its data, its results, the time for the rest."""
    from resnets.cli import paper as verb

    options = verb.Options(budget, seeds, (), data, image_size, results, runs)
    verb.show(options, json)


@papers.command("run", epilog=example("resnets paper run fig6 --budget short --seeds 2"))
def paper_run(
    experiment: Annotated[
        list[str], typer.Argument(help="As `resnets paper list` calls them.", metavar="ID...")
    ],
    budget: BudgetOption = "full",
    seeds: SeedsOption = 1,
    only: Annotated[
        list[str] | None, typer.Option(help="Only this network; repeatable.", metavar="NETWORK")
    ] = None,
    data: DataOption = None,
    image_size: Annotated[
        int | None, typer.Option(min=8, max=2048, help="Pixels a side of photographs.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs side by side.")] = None,
    results: ResultsOption = RESULTS,
    runs: RunsOption = RUNS,
    launcher: Annotated[str, typer.Option(help="local, or ray: a cluster.")] = "local",
) -> None:
    """Run what is missing of tables and figures; stop and repeat it at any point."""
    from resnets.cli import paper as verb

    only_these = tuple(only or ())
    options = verb.Options(
        budget, seeds, only_these, data, image_size, results, runs, jobs, launcher
    )
    verb.run(experiment, options)


@papers.command("report", epilog=example("resnets paper report --out report"))
def paper_report(
    results: ResultsOption = RESULTS,
    out: Annotated[Path, typer.Option(help="Folder to write to.", metavar="FOLDER")] = Path(
        "report"
    ),
) -> None:
    """Write the paper's tables and figures beside ours: a page and a Markdown file."""
    from resnets.cli import paper as verb

    verb.report(results, out)
