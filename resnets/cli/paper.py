"""`resnets paper list`, `run` and `report`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resnets.cli import output
from resnets.cli.console import yield_if
from resnets.cli.options import (
    DataOption,
    IdleOption,
    ImageSizeOption,
    JsonOption,
    LauncherOption,
    command_line,
    example,
)
from resnets.support.errors import UserError
from resnets.support.files import existing_folder

if TYPE_CHECKING:
    from resnets.paper.jobs import Job, Workspace
    from resnets.paper.workload import Status

verbs = command_line("The paper's tables and figures: list, run, report.")
BudgetOption = Annotated[str, typer.Option(help="full, short or smoke.", metavar="NAME")]
SeedsOption = Annotated[int, typer.Option(min=1, help="Trainings of each network.", metavar="N")]
ResultsOption = Annotated[Path, typer.Option(help="Folder of results.", metavar="FOLDER")]
RunsOption = Annotated[Path, typer.Option(help="Folder for the runs.", metavar="FOLDER")]
RESULTS, RUNS = Path("results/paper"), Path("runs/paper")


@verbs.command("list", epilog=example("resnets paper list --budget short --seeds 2"))
def list_experiments(
    budget: BudgetOption = "full",
    seeds: SeedsOption = 1,
    data: DataOption = None,
    image_size: ImageSizeOption = None,
    results: ResultsOption = RESULTS,
    runs: RunsOption = RUNS,
    json: JsonOption = False,
) -> None:
    """List tables and figures: data, results, time for the rest."""
    from resnets.cli.console import to_stderr
    from resnets.paper import workload

    options = workload.Options(
        budget=budget, seeds=seeds, data=data, image_size=image_size, results=results, runs=runs
    )
    statuses = list(workload.statuses(options, to_stderr))
    if json:
        _print_json(statuses)
        return
    _print_table(statuses)
    plural = "1 seed" if seeds == 1 else f"{seeds} seeds"
    print(f"\nBudget {budget}, {plural}; results in {results}. Times: about, on this machine.")
    print("Run one: resnets paper run fig6 --budget short. All results: resnets paper report")


def _print_json(statuses: list[Status]) -> None:
    import json

    facts: list[dict[str, Any]] = [
        {
            "id": status.experiment.id,
            "title": status.experiment.title,
            "needs": status.experiment.needs,
            "jobs": None if status.jobs is None else len(status.jobs),
            "done": None if status.jobs is None else status.done,
            "missing": [job.key for job in status.missing],
            "seconds_left": None if status.seconds is None else round(status.seconds),
            "side_by_side": status.at_once,
        }
        for status in statuses
    ]
    print(json.dumps(facts, indent=2))


def _print_table(statuses: list[Status]) -> None:
    from rich.console import Console
    from rich.table import Table

    from resnets.cli.console import about

    table = Table(box=None, pad_edge=False)
    table.add_column("experiment")
    table.add_column("", min_width=13)  # the longest word of a title
    table.add_column("data")
    for heading in ("results", "time left", "side by side"):
        table.add_column(heading, justify="right")
    for status in statuses:
        if status.jobs is None:
            done, left = "", "needs --data"
        elif not status.jobs:
            done, left = "made from code", "-"
        else:
            done = f"{status.done} of {len(status.jobs)}"
            left = "-" if status.seconds is None else about(status.seconds)
        experiment = status.experiment
        at_once = str(status.at_once or "")
        table.add_row(experiment.id, experiment.title, experiment.needs, done, left, at_once)
    Console(highlight=False).print(table)


@verbs.command("run", epilog=example("resnets paper run fig6 --budget short --seeds 2"))
def run(
    names: Annotated[
        list[str], typer.Argument(help="As in `resnets paper list`.", metavar="ID...")
    ],
    budget: BudgetOption = "full",
    seeds: SeedsOption = 1,
    only: Annotated[
        list[str] | None, typer.Option(help="Only this network; repeatable.", metavar="NETWORK")
    ] = None,
    data: DataOption = None,
    image_size: ImageSizeOption = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Parallel runs.", metavar="N")] = None,
    results: ResultsOption = RESULTS,
    runs: RunsOption = RUNS,
    launcher: LauncherOption = "local",
    idle: IdleOption = False,
) -> None:
    """Run what is missing of tables and figures. Stop it at any time; repeat it to resume."""
    if idle and launcher == "ray":
        raise UserError("works on this machine only", "--idle", "leave out --launcher ray")
    yield_if(idle)
    from resnets.paper import experiments, runner, workload

    options = workload.Options(
        budget=budget, seeds=seeds, only=tuple(only or ()), data=data, image_size=image_size,
        results=results, runs=runs,
    )  # fmt: skip
    runner.check_launcher(launcher)
    chosen = [experiments.find(name) for name in dict.fromkeys(names)]
    wanted = workload.jobs_of(chosen, options)
    report = "resnets paper report" + ("" if results == RESULTS else f" --results {results}")
    if not wanted:
        print(f"{' and '.join(names)}: made from code, nothing to run. See them: {report}")
        return
    workspace = options.workspace
    todo = runner.missing(wanted, workspace)
    keys = {job.key for job in wanted}
    done = len(keys - {job.key for job in todo})
    with output.expendable():
        if done:
            print(f"{done} of {len(keys)} results exist already")
        for job in todo:
            if job.is_finished(workspace.store):
                lacks = "other jobs need its model or scores, which were not kept"
                print(f"{job.key} runs again: {lacks}")
        if todo:
            _run(todo, workspace, limit=jobs, launcher=launcher, idle=idle)
    print(f"All results are in {results}. See them: {report}")


def _run(
    todo: list[Job], workspace: Workspace, *, limit: int | None, launcher: str, idle: bool
) -> None:
    """Run the jobs and show their progress, and say how that ended."""
    from resnets.cli.console import about
    from resnets.cli.paper_progress import make_progress
    from resnets.paper import runner, workload

    at_once, threads = runner.side_by_side(todo, limit, launcher)
    workspace.store.prepare()
    with runner.exclusive(workspace):
        if launcher == "local":
            workload.fetch_cifar10(todo, print)
            layout = workload.layout_of(todo, limit)
            took = about(workload.estimated_seconds(todo, workspace, layout, print))
            count = "1 job" if len(todo) == 1 else f"{len(todo)} jobs, {at_once} side by side"
            print(f"{count}: about {took} on this machine; Ctrl-C saves", flush=True)
        pool = runner.make_pool(launcher, threads, idle)
        progress = make_progress(workspace, todo)
        environment = {"OMP_NUM_THREADS": str(threads)}
        try:
            runner.Runner(workspace, pool, progress, at_once=at_once, environment=environment).run(
                todo
            )
        except KeyboardInterrupt:
            progress.close()
            print("Stopped, saved. Resume with the same command:")
            print(f"  resnets {shlex.join(sys.argv[1:])}")
            sys.exit(130)
        except runner.JobsFailed as failed:
            first, why = next(iter(failed.jobs.items()))
            others = f" and {len(failed.jobs) - 1} more" if len(failed.jobs) > 1 else ""
            hint = "correct that, then repeat the command: finished results are kept"
            raise UserError(f"{first}{others} failed: {why}", hint=hint) from failed
        finally:
            progress.close()


@verbs.command("report", epilog=example("resnets paper report --out report"))
def report(
    results: ResultsOption = RESULTS,
    out: Annotated[Path, typer.Option(help="Folder to write to.", metavar="FOLDER")] = Path(
        "report"
    ),
) -> None:
    """Write the paper's numbers next to ours: a page and Markdown."""
    from resnets.paper.report import write
    from resnets.paper.store import Store

    existing_folder(results, hint="make some results: resnets paper run fig6")
    for path in write(list(Store(results).everything()), out, results):
        print(path)
