"""The `medmerge` command: `train`, `compare`, `rank`, `inspect`, `space`. What is heavy is imported once needed."""

import argparse
import dataclasses
import errno
import importlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .comparison.options import ComparisonOptions
from .errors import MedMergeError
from .runs.options import SECTIONS


# Commands that a YAML file describes, and where they are carried out.
RUNS = {"train": ".runs.train", "compare": ".comparison.compare", "rank": ".runs.rank"}

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# Of safetensors and torch, whose errors have no number.
NO_ROOM_WORDS = ("No space left", "quota exceeded", "File too large", "iostream error", "file write failed")

STAGE_HELP = """
options of a stage:
  --merge.NAME VALUE and --finetune.NAME VALUE reach the TrainingArguments of the two stages: num_train_epochs,
  max_steps, learning_rate, per_device_train_batch_size, warmup_steps, weight_decay, bf16, use_cpu, ... and beside them
  kernel_learning_rate, kernel_l2 (of the merge stage) and sync_batch_norm. In the YAML they stand below `merge` and
  `finetune`. ${NAME} in a value is an environment variable. The command line wins over the YAML.

On several GPUs: accelerate launch -m medmerge_hf.cli COMMAND CONFIG.yaml ..."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run from the command line.

    It exits with 1 after an error that its user can mend, with 2 where the command is wrong, with 130 after Ctrl-C.

    Args:
        argv: words after `medmerge`; those of the process by default.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    command, rest = words[:1], words[1:]
    if command and command[0] in RUNS and not {"-h", "--help"} & set(rest):
        with one_line_errors(command[0]):
            importlib.import_module(RUNS[command[0]], __package__).main(rest)
        return
    options = _parser().parse_args(words)
    with one_line_errors(options.command):
        sys.exit({"inspect": _inspect, "space": _space}[options.command](options))


@contextmanager
def one_line_errors(command: str) -> Iterator[None]:
    """End what users can mend, and Ctrl-C, in a line that says how to go on; anything else is a traceback.

    Args:
        command: that runs.
    """
    kept = {"train": "from its last checkpoint", "compare": "with the runs that are not finished"}
    goes_on = f"the same command goes on {kept[command]}." if command in kept else "run the same command again."
    try:
        yield
    except MedMergeError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":
            print(f"\nInterrupted: {goes_on}", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if (why := no_room(error)) is None:
            raise
        sys.exit(
            f"A file could not be written to its end ({why}): the disk or a quota is full. Make room, then {goes_on}"
        )


def no_room(error: BaseException | None) -> str | None:
    """Whether an error, or what led to it, is a disk that is full: its text in one line, or `None`.

    Args:
        error: of any library.

    Example:
        >>> no_room(OSError(errno.ENOSPC, "No space left on device")), no_room(OSError("other"))
        ('[Errno 28] No space left on device', None)
    """
    while error is not None:
        numbered = isinstance(error, OSError) and error.errno in NO_ROOM
        if numbered or any(words in str(error) for words in NO_ROOM_WORDS):
            return " ".join(str(error).split())
        error = error.__cause__ or error.__context__
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="medmerge", description="Merge vision models for a new medical task.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    train = _add(commands, "train", "merge sources, fine-tune the merge, export it", STAGE_HELP)
    _add_options(train, SECTIONS)
    compare = _add(commands, "compare", "measure the merge against what you would do instead", STAGE_HELP)
    _add_options(compare, (ComparisonOptions, *SECTIONS))
    rank = _add(commands, "rank", "tell whether there is anything to merge, without training", STAGE_HELP)
    _add_options(rank, SECTIONS)
    inspect = _add(commands, "inspect", "look at sources before anything large is downloaded", "")
    inspect.add_argument("sources", nargs="+", metavar="SRC", help="anchor first; a JSON object says more than a name")
    inspect.add_argument("--architecture", help="timm name of the network, where the anchor is a weights file")
    inspect.add_argument("--token", help="of the Hub, instead of the one logged in with")
    inspect.add_argument("--json", action="store_true", help="everything, for programs")
    space = _add(commands, "space", "write a page (a Gradio Space) to try an export on", "")
    space.add_argument("export", metavar="EXPORT", help="its folder, or its Hub id")
    space.add_argument("out", metavar="OUT", type=Path, help="a new folder for the Space")
    space.add_argument("--examples", nargs="+", default=[], metavar="IMG", help="image or DICOM files to show there")
    space.add_argument("--threshold", type=float, default=0.8, help="probability below which an answer is none (0.8)")
    space.add_argument("--push", metavar="USER/NAME", help="of the Space on the Hub")
    space.add_argument("--private", action="store_true", default=None, help="if it is made there")
    return parser


def _add(commands: Any, name: str, text: str, epilog: str) -> argparse.ArgumentParser:
    kind = argparse.RawDescriptionHelpFormatter
    usage = f"medmerge {name} [CONFIG.yaml] [--option VALUE ...]" if epilog else None
    sentence = f"{text[0].upper()}{text[1:]}."
    return commands.add_parser(name, help=text, usage=usage, description=sentence, epilog=epilog, formatter_class=kind)


def _add_options(parser: argparse.ArgumentParser, sections: Iterable[type]) -> None:
    """For the help alone: `runs.config` reads them, since a YAML file holds the same."""
    parser.add_argument("config", nargs="?", metavar="CONFIG.yaml", help="the options below, by name")
    for section in sections:
        group = parser.add_argument_group((section.__doc__ or "").rstrip("."))
        for field in dataclasses.fields(section):
            default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            allowed = field.metadata["allowed"]
            words = ", ".join(allowed) if isinstance(allowed, tuple) else str(allowed or "")
            shown = " ".join(map(str, default)) if isinstance(default, list) else str(default or "")
            notes = "; ".join(note for note in (words, shown and f"default {shown}") if note)
            text = f"{field.metadata['help']}{f' ({notes})' if notes else ''}".replace("%", "%%")
            group.add_argument(f"--{field.name}", metavar="VALUE", help=text)


def _inspect(options: argparse.Namespace) -> int:
    from .inspection import inspect_sources

    sources: list[Any] = [_source(text) for text in options.sources]
    found = inspect_sources(sources, options.architecture, token=options.token)
    if options.json:
        print(found.to_json())
    elif not sys.stdout.isatty():
        print(found.to_text())
    else:
        print_inspection(found)
    return 0 if found.ok else 1


def _space(options: argparse.Namespace) -> int:
    from .export.space.write import make_space

    wanted = options.examples, options.threshold, options.push, options.private
    address = make_space(options.export, options.out, *wanted)
    print(f"{options.out} is written. To try it: pip install -r {options.out}/requirements.txt")
    print(f"python {options.out}/app.py")
    if address:
        print(f"Pushed: {address}")
    return 0


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


if __name__ == "__main__":
    main()
