"""The `medmerge` command."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from .errors import MedMergeError


def main(argv: Sequence[str] | None = None) -> None:
    """Run from the command line; exits with 1 where the sources do not merge, 2 where the command is wrong."""
    parser = argparse.ArgumentParser(prog="medmerge", description="Merge vision models for a new medical task.")
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser("inspect", help="look at sources before anything large is downloaded")
    inspect.add_argument("sources", nargs="+", metavar="SRC", help="anchor first; a JSON object says more than a name")
    inspect.add_argument("--architecture", help="timm name of the network, where the anchor is a weights file")
    inspect.add_argument("--token", help="of the Hub, instead of the one logged in with")
    inspect.add_argument("--json", action="store_true", help="everything, for programs")
    options = parser.parse_args(argv)
    try:
        sys.exit(_inspect(options))
    except MedMergeError as error:
        sys.exit(f"{type(error).__name__}: {error}")


def _inspect(options: argparse.Namespace) -> int:
    from .inspection import inspect_sources

    sources: list[Any] = [_source(text) for text in options.sources]
    found = inspect_sources(sources, options.architecture, token=options.token)
    if options.json:
        print(found.to_json())
    else:
        print_inspection(found)
    return 0 if found.ok else 1


def _source(text: str) -> Any:
    return json.loads(text) if text.startswith("{") else text


def print_inspection(found: Any) -> None:
    """An [`Inspection`] as a table for people.

    Args:
        found: of [`inspect_sources`].
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(show_lines=True)
    for column in ("source", "network", "tensors", "what is done to it", "size", "licence", "cosine to the anchor"):
        table.add_column(column, overflow="fold")
    for report in found.sources:
        dtypes = ", ".join(f"{count} {dtype}" for dtype, count in report.dtypes.items())
        what = f"[bold red]{_plain(report.problem)}" if report.problem else _plain("\n".join(report.notes))
        licence = report.license or "not stated"
        table.add_row(
            _plain(report.source),
            f"{report.architecture or '?'}\n{report.batch_norms} BatchNorms",
            f"{report.matched} matched\n{dtypes}",
            what,
            f"{megabytes(report.bytes)}\n{report.parameters / 1e6:.1f} M",
            "\n".join([licence, *(f"from {base}" for base in report.base_model)]),
            "anchor" if report is found.sources[0] else "-" if report.cosine is None else f"{report.cosine:.2f}",
        )
    console = Console()
    console.print(table)
    console.print(
        f"To download {megabytes(found.download_bytes)}; weights take {megabytes(found.memory_bytes)} of RAM while "
        f"they are read and {megabytes(found.device_bytes)} on the device while merging, activations not counted."
    )


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def megabytes(count: int) -> str:
    """Bytes for people.

    Example:
        >>> megabytes(45_291_296)
        '45.3 MB'
    """
    return f"{count / 1e6:.1f} MB"
