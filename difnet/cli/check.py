"""`difnet check`: whether the record of a run holds together."""

import json

import click

MOST_SHOWN = 12  # findings of one check


@click.command(short_help="Check the record of a run, and pass or fail it.")
@click.argument("run")
@click.option("--runs", "home", default="runs", show_default=True, metavar="DIR", help="Where runs lie.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def command(run: str, home: str, as_json: bool) -> int:
    """Read the record of RUN again, and say of each check whether it holds, what is wrong, or why nobody knows.

    RUN is a folder, a name, its beginning, or "latest"; also a copy, and a run that goes on. Exit status: 0 nothing is
    wrong; 1 something is; 2 no such run.

    \b
    Examples:
      difnet check latest
      difnet check latest --json
    """
    from difnet.checking.judging import CHECKS, check
    from difnet.checking.verdicts import FAIL
    from difnet.record.formatting import printable

    judgement = check(run, home)
    if as_json:
        findings = [finding._asdict() for finding in judgement.findings]
        click.echo(json.dumps({"folder": str(judgement.folder), "state": judgement.state, "verdict": judgement.verdict,
                               "findings": findings}))  # fmt: skip
        return int(judgement.verdict == FAIL)
    for name in CHECKS:
        head, *rest = judgement.of(name)
        said = head.verdict.upper() if head.verdict == FAIL else head.verdict
        click.echo(f"{said:8}{name:13}{printable(head.words)}")
        for finding in rest[:MOST_SHOWN]:
            click.echo(" " * 21 + printable(f"{finding.where}: {finding.words}"))
        if len(rest) > MOST_SHOWN:
            click.echo(" " * 21 + f"and {len(rest) - MOST_SHOWN} more; --json has all")
    failed = sum(judgement.of(name)[0].verdict == FAIL for name in CHECKS)
    goes_on = {"going on": "; the run goes on: this is what is there by now",
               "unfinished": "; the run ended without a summary: this is what is there"}  # fmt: skip
    told = f"{failed} of {len(CHECKS)} checks failed" if failed else "nothing is wrong"
    unknown = f", {', '.join(judgement.unknown)} unknown" if judgement.unknown else ""
    click.echo(printable(f"{judgement.folder.name}: {told}{unknown}{goes_on.get(judgement.state, '')}"))
    return int(judgement.verdict == FAIL)
