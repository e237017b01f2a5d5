"""An export to the Hub: one commit or none."""

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..configuration_medmerge import MedMergeConfig
from ..sources.reference import source_name
from .card.model_card import render_card, source_licenses
from .folder import MERGE_CONFIG
from .staging import CARD, EXPORT_FILE, PAGE, export_files, hidden_folder


logger = logging.getLogger(__name__)


def push_saved(save: Callable[[Path], None], repo_id: str, **options: Any) -> Any:
    """Write an export into a folder that is gone afterwards, and upload it.

    Args:
        save: writes it into a folder.
        repo_id: see [`push_export`], as all below.
        options: of [`push_export`].

    Returns:
        `huggingface_hub.CommitInfo`.
    """
    with tempfile.TemporaryDirectory() as folder:
        export = Path(folder) / repo_id.rsplit("/", 1)[-1]
        save(export)
        return push_export(export, repo_id, **options)


def push_export(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool | None = None,
    tags: Sequence[str] | None = None,
    commit_message: str | None = None,
    **options: Any,
) -> Any:
    """Upload the export in a folder as one commit; what else lies there (checkpoints, pickles, notes) stays.

    An upload in the background takes what is there when it is called, whatever is written into the folder meanwhile.
    The card is written anew under the repository's name. Paths of this machine are reduced to file names.

    Args:
        folder: an export.
        repo_id: see [`MedMergeModel.push_to_hub`], as all below.
        private: of a repository made here.
        tags: more of them for the card.
        commit_message: first line.
        options: of [`commit_export`]: `revision`, `create_pr`, `token`, `commit_description`; and `run_as_future`.

    Returns:
        `huggingface_hub.CommitInfo`, or a `Future` of it.
    """
    from huggingface_hub import HfApi

    in_background = options.pop("run_as_future", False)
    folder, done = _snapshot(Path(folder)) if in_background else (Path(folder), _nothing)
    try:
        branch = None if options.get("create_pr") else options.get("revision")
        repo_id = ensure_repository(repo_id, private=private, revision=branch, token=options.get("token"))
        contents = export_contents(folder, repo_id, tags or ())
    except BaseException:
        done()
        raise

    def commit() -> Any:
        try:
            return commit_export(repo_id, contents, commit_message=commit_message or "Upload merged model", **options)
        finally:
            done()

    return HfApi().run_as_future(commit) if in_background else commit()


def _nothing() -> None:
    pass


def _snapshot(folder: Path) -> tuple[Path, Callable[[], None]]:
    """An export as it is now, for an upload that runs while the next is written; and how to remove it."""
    copy, remove = hidden_folder(folder)
    for path in export_files(folder):
        (copy / path).parent.mkdir(exist_ok=True)
        try:
            os.link(folder / path, copy / path)  # exports replace their files, they never write into them
        except OSError:  # not on this file system
            shutil.copyfile(folder / path, copy / path)
    return copy, remove


def export_contents(folder: Path, repo_id: str, tags: Sequence[str] = ()) -> dict[str, str | bytes]:
    """What is uploaded of an export, without paths of this machine.

    Args:
        folder: an export.
        repo_id: or another name, for the card.
        tags: more of them for the card.

    Returns:
        Path in the repository -> path of a file, or its content.
    """
    config = MedMergeConfig.from_json_file(folder / MERGE_CONFIG)
    config.sources = [{**source, "id": source_name(source)} for source in config.sources]
    for warning in source_licenses(config)[1]:
        logger.warning("Licence of %s: %s", repo_id, warning)
    contents: dict[str, str | bytes] = {path: str(folder / path) for path in export_files(folder)}
    contents[CARD] = render_card(config, repo_id, tags, PAGE if PAGE in contents else "").encode()
    contents[MERGE_CONFIG] = config.to_json_string().encode()
    return contents


def ensure_repository(
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    **kind: Any,
) -> str:
    """Make a repository and a branch in it, where they are not there yet.

    Args:
        repo_id: `user/name`, or `name` for the user whose token it is.
        private: whether a repository made here is.
        revision: the branch; `main` is always there.
        token: instead of the one logged in with.
        kind: of `HfApi.create_repo`: `repo_type`, `space_sdk`; a model by default.

    Returns:
        `user/name`.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True, **kind).repo_id
    if revision and not revision.startswith("refs/"):
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    return repo_id


def commit_export(
    repo_id: str, contents: Mapping[str, str | bytes], own: "re.Pattern[str]" = EXPORT_FILE, **options: Any
) -> Any:
    """Upload an export as one commit: all of it arrives, or the files of the repository stay as they were.

    Files of an earlier export that this one does not have (shards, say) are deleted by the same commit. Whatever else
    lies in the repository is left alone.

    Args:
        repo_id: `user/name`, which is there.
        contents: path in the repository -> path of a file, or its content.
        own: paths of which an export is made.
        options: of `HfApi.create_commit`: `repo_type`, `commit_message`, `revision`, `create_pr`, `token`, ...

    Returns:
        `huggingface_hub.CommitInfo`.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(token=options.pop("token", None))
    there = api.list_repo_files(repo_id, revision=options.get("revision"), repo_type=options.get("repo_type"))
    stale = [path for path in there if own.fullmatch(path) and path not in contents]
    operations = [CommitOperationAdd(path, content) for path, content in contents.items()]
    return api.create_commit(repo_id, [*operations, *map(CommitOperationDelete, stale)], **options)
