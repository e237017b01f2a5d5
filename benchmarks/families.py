"""Every family of timm and every image classifier of transformers through a whole merge: benchmarks/FAMILIES.md.

    python benchmarks/families.py [--names levit resnet ViTForImageClassification ...] [--again]

Networks are random, their BatchNorm statistics too; those of transformers are tiny, those of timm the smallest of each
family. Each is walked in a process of its own. Finished rows are kept in benchmarks/families.csv and not walked again
unless `--again` or their names ask for it. Nothing is downloaded.
"""

import argparse
import csv
import multiprocessing
import platform
import resource
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import transformers
from family_networks import classifiers
from family_walk import COLUMNS, FAULT, OK, REFUSED, walk_one

from medmerge_hf.evaluation.tables import markdown_table


RECORD, REPORT = Path("benchmarks/families.csv"), Path("benchmarks/FAMILIES.md")

FIELDS = ("library", "name", "network", *COLUMNS, "trace", "seconds")

# Of one family: a crash, a network without end or one that fills the machine is a row, too.
SECONDS, MEMORY = 1200, 16 * 2**30

Row = Mapping[str, Any]


def everything() -> list[tuple[str, str]]:
    """Library and name of every family."""
    return [*(("timm", name) for name in timm.list_modules()), *(("transformers", name) for name in classifiers())]


def walk_apart(library: str, name: str, seconds: float = SECONDS) -> dict[str, str]:
    """The row of a family, walked in a process of its own on one thread.

    Args:
        library: `timm` or `transformers`.
        name: module of timm, or class of transformers.
        seconds: that it may take.
    """
    context = multiprocessing.get_context("fork")  # libraries are imported once
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_walk_into, args=(sender, library, name))
    process.start()
    sender.close()
    row, why = None, f"not finished after {seconds:g} s"
    try:
        row = receiver.recv() if receiver.poll(seconds) else None
    except EOFError:
        process.join()
        why = f"the process ended with {process.exitcode}"
    process.kill()
    process.join()
    failed = {"library": library, "name": name, "sources": f"{FAULT}: {why}"}
    return dict.fromkeys(FIELDS, "") | ({key: str(value) for key, value in row.items()} if row else failed)


def _walk_into(sender: Any, library: str, name: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    sender.send(walk_one(library, name))


def kind(cell: str) -> str:
    """How a cell ended: `ok`, `refused`, `FAULT`, or nothing where it does not apply."""
    return cell.partition(":")[0]


def faults(row: Row) -> dict[str, str]:
    """The cells of a row that are neither ok nor a refusal that says why."""
    cells = {column: row[column] for column in COLUMNS}
    return {column: cell for column, cell in cells.items() if cell and cell != OK and not _named(cell)}


def _named(cell: str) -> bool:
    return kind(cell) == REFUSED and len(cell) > len(REFUSED) + 20


def counts(rows: Sequence[Row]) -> str:
    """How often each column ended how."""
    lines = []
    for column, meaning in COLUMNS.items():
        kinds = [kind(row[column]) for row in rows if row[column]]
        if kinds:
            lines.append([column, *(str(kinds.count(one)) for one in (OK, REFUSED, FAULT)), meaning])
    return markdown_table(["column", OK, REFUSED, "faults", "ok means"], lines)


def table(rows: Sequence[Row]) -> str:
    """A line a family, refusals numbered; their reasons below."""
    columns = [column for column in COLUMNS if any(row[column] for row in rows)]
    reasons: dict[str, int] = {}
    lines = []
    for row in rows:
        cells = [row[column] or "-" for column in columns]
        for place, cell in enumerate(cells):
            if ":" in cell:
                number = reasons.setdefault(cell.partition(": ")[2], len(reasons) + 1)
                cells[place] = f"{kind(cell)} ({number})"
        lines.append([row["name"], row["network"], *cells, row["trace"] or "-", row["seconds"] or "-"])
    said = "\n".join(f"{number}. {reason}" for reason, number in reasons.items())
    header = ["family", "network", *columns, "trace, s", "all, s"]
    return f"{markdown_table(header, lines)}\n\n{said}" if reasons else markdown_table(header, lines)


def report(rows: Sequence[Row]) -> str:
    """The text of FAMILIES.md."""
    timms, others = ([row for row in rows if row["library"] == library] for library in ("timm", "transformers"))
    versions = f"timm {timm.__version__}, transformers {transformers.__version__}, torch {torch.__version__}"
    parts = [
        "# Families",
        "Every family of timm and every image classifier of transformers, from two saved networks to the export and "
        "back. Weights, biases, scales and BatchNorm statistics are random. `refused` is an error of this package "
        "that gives its reason (numbered, below the table); `-` does not apply. `trace` is what following the "
        "channels takes (alignment), `all` the whole row.",
        f"Printed by `python benchmarks/families.py` on one thread ({platform.machine()}) with {versions}; the rows "
        "are in [families.csv](families.csv).",
        f"## timm: the smallest network of every module ({len(timms)})",
        "Those beyond 12 million parameters are built of fewer blocks or channels where an argument says how many (in "
        "brackets), and not with other arguments once more.",
        *(part(timms) for part in (counts, table) if timms),
        f"## transformers: every image classifier that it lists, tiny ({len(others)})",
        *(part(others) for part in (counts, table) if others),
    ]
    return "\n\n".join(parts) + "\n"


def read_rows() -> list[dict[str, str]]:
    """The rows that are kept."""
    if not RECORD.is_file():
        return []
    with RECORD.open(newline="") as file:
        return list(csv.DictReader(file))


def keep(rows: Sequence[Row]) -> None:
    """Write rows, in the order of [`everything`]."""
    order = {place: index for index, place in enumerate(everything())}
    kept = [row for row in rows if (row["library"], row["name"]) in order]
    kept.sort(key=lambda row: order[row["library"], row["name"]])
    with RECORD.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
    REPORT.write_text(report(kept))


def main(arguments: Sequence[str] | None = None) -> None:
    """Walk what is missing, keep each row and print the report of those that are kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", nargs="*", help="modules of timm and classes of transformers; walked again")
    parser.add_argument("--again", action="store_true", help="walk what has been walked, too")
    chosen = parser.parse_args(arguments)
    rows = read_rows()
    done = set() if chosen.again or chosen.names else {(row["library"], row["name"]) for row in rows}
    waiting = [place for place in everything() if place not in done and (not chosen.names or place[1] in chosen.names)]
    for place in waiting:
        row = walk_apart(*place)
        rows = [*(other for other in rows if (other["library"], other["name"]) != place), row]
        keep(rows)
        cells = {column: kind(row[column]) for column in COLUMNS if row[column] not in ("", OK)}
        print(row["name"], row["network"], cells or OK, row["trace"], row["seconds"], flush=True)
    keep(rows)


if __name__ == "__main__":
    main()
