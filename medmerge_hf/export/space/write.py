"""The folder of a Space, on this machine and on the Hub."""

import importlib.resources
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ...configuration_medmerge import MERGE_CONFIG, MedMergeConfig
from ...data.images import png_bytes
from ...data.single import read_image, reading_rule
from ...errors import OutputDirError, SettingsError, StateError
from ...networks.backbone import is_timm
from ...networks.build import input_shape
from ...networks.saved_network import no_progress_bars
from ...sources.hub import commit_of, fetch_file
from ..card.model_card import FIGURE, source_licenses
from ..reading import SavedModel, read_saved
from ..staging import CARD, staged_directory
from ..upload import commit_export, ensure_repository, export_contents


# The highest probability below which the page calls an answer none.
THRESHOLD = 0.8

PACKAGE = Path(__file__).parents[2]

# Of this package, as they lie in it: so a Space reads files as a training does.
READING = ("errors.py", "data/single.py", "data/dicom.py", "data/dicom_pixels.py")

# The Hub installs this one; the others come with `requirements.txt`.
GRADIO = "6.31.0"

REQUIREMENTS = (
    *(f"gradio>={GRADIO},<7", "torch>=2.6", "torchvision", "transformers>=5.0,<6", "captum>=0.8,<1"),
    *("matplotlib", "numpy>=2", "pillow"),
    *("pydicom>=3,<4", "pylibjpeg", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg"),
)
OF_TIMM = "timm>=1.0.26,<2"

# What this writes, by paths in a repository.
SPACE_FILE = re.compile(
    r"app\.py|classifier\.py|heat_map\.py|space\.json|requirements\.txt|README\.md|(reading|model|examples)/.+"
)


class Export(NamedTuple):
    """An export that a Space is made for.

    Attributes:
        name: folder, or Hub id.
        commit: on the Hub; empty for a folder.
        saved: what was read of it.
    """

    name: str
    commit: str
    saved: SavedModel

    @property
    def title(self) -> str:
        """Its name without owner or folder."""
        return Path(self.name).expanduser().resolve().name if not self.commit else self.name.rsplit("/", 1)[-1]


def make_space(
    export: str,
    out: Path,
    examples: Sequence[str | Path] = (),
    threshold: float = THRESHOLD,
    push: str | None = None,
    private: bool | None = None,
) -> str | None:
    """Write a Gradio Space for an export, and push it: all of it or nothing.

    Args:
        export: its folder, which is copied into the Space, or its Hub id, from which the Space loads it.
        out: a folder that is not there, or is empty.
        examples: image or DICOM files. Their pixels are shown, without names and metadata.
        threshold: the page calls an answer none below this probability, 0.5 to 1.
        push: `user/name` of a Space on the Hub.
        private: whether a Space made there is.

    Returns:
        Its address, where it was pushed.

    Raises:
        OutputDirError: `out` holds something.
        SourceError: there is no export, or a broken one.
        StateError: it is no export of this package.
        SettingsError: a threshold out of range, an export without preprocessing, or nobody is logged in.
        DataError: an example cannot be read.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputDirError(f"{out} is not empty: name another folder for the Space, or move away what lies there.")
    if not 0.5 <= threshold <= 1:
        raise SettingsError(f"threshold={threshold} is not between 0.5 and 1: below 0.5 no class is likely.")
    if private and not push:
        raise SettingsError("private=True says nothing of a folder: name the Space on the Hub, --push USER/NAME.")
    found = open_export(export)
    contents = space_contents(found, examples, threshold)
    with staged_directory(out) as folder:
        for path, content in contents.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                (folder / path).write_bytes(content)
            else:
                shutil.copyfile(content, folder / path)
        return push_space(contents, push, private) if push else None


def open_export(name: str) -> Export:
    """Read an export, and check that a page can be made for it.

    Args:
        name: folder or Hub id.

    Raises:
        SourceError: there is none, or a broken one.
        StateError: it is no export of this package.
        SettingsError: nothing says how it is fed with images.
    """
    local = name.startswith((".", "/", "~")) or Path(name).is_dir()
    commit = "" if local else commit_of(name, None, "config.json")
    with no_progress_bars():
        saved = read_saved(name, merging=False, revision=commit or None)
    if not (saved.folder / MERGE_CONFIG).is_file():
        raise StateError(
            f"{name!r} is a checkpoint to train on, no export. MedMergeModel.from_pretrained({name!r})"
            ".save_pretrained('merged') makes one: then name merged."
        )
    if input_shape(saved.network)[0] not in (1, 3) or not (is_timm(saved.network) or saved.image_processor):
        raise SettingsError(
            f"{name!r} says not how images are made into its {input_shape(saved.network)[0]} channels: a page can "
            "show networks for grey or RGB images, with a preprocessor_config.json beside those of transformers."
        )
    return Export(name, commit, saved)


def space_contents(export: Export, examples: Sequence[str | Path], threshold: float) -> dict[str, str | bytes]:
    """Everything that a Space is made of.

    Args:
        export: of [`open_export`].
        examples: image or DICOM files.
        threshold: below which an answer is none.

    Returns:
        Path in the Space -> path of a file, or its content.

    Raises:
        DataError: an example cannot be read.
    """
    record = export.saved.config.record
    rule = reading_rule(record.get("data", {}).get("pixel_rule"))
    place = {"model": export.name if export.commit else "model", "revision": export.commit}
    channels = input_shape(export.saved.network)[0]
    settings = {"title": export.title, **place, "channels": channels, "threshold": threshold, **rule}
    app = importlib.resources.files(__package__).joinpath("app")
    contents: dict[str, str | bytes] = {file.name: file.read_bytes() for file in app.iterdir() if file.is_file()}
    contents |= {f"reading/{path}": str(PACKAGE / path) for path in READING}
    contents["space.json"] = json.dumps(settings, indent=2).encode()
    needed = (*REQUIREMENTS, OF_TIMM) if is_timm(export.saved.network) else REQUIREMENTS
    contents["requirements.txt"] = "".join(f"{line}\n" for line in needed).encode()
    contents[CARD] = readme(export).encode()
    for number, file in enumerate(examples, 1):
        contents[f"examples/{number}.png"] = _pixels_alone(read_image(file, rule))
    return contents | _model(export)


def _model(export: Export) -> dict[str, str | bytes]:
    """What lies in `model/`: the export, or its card alone where the Space loads it from the Hub."""
    folder = export.saved.folder
    if not export.commit:
        files = export_contents(folder, export.title)
        if (folder / CARD).is_file():
            files[CARD] = str(folder / CARD)
    else:
        names = [CARD, FIGURE] if export.saved.state else [CARD]
        files = {name: str(fetch_file(export.name, name, export.commit)) for name in names}
    return {f"model/{path}": content for path, content in files.items()}


def _pixels_alone(image: Image.Image) -> bytes:
    """PNG without a name, comment, date, place or colour profile of the file that it was."""
    return png_bytes(Image.fromarray(np.asarray(image)))


def readme(export: Export) -> str:
    """The page that tells the Hub how to run a Space."""
    from huggingface_hub import SpaceCard, SpaceCardData

    config: MedMergeConfig = export.saved.config
    data = SpaceCardData(
        title=export.title,
        sdk="gradio",
        sdk_version=GRADIO,
        python_version="3.12",
        app_file="app.py",
        license=source_licenses(config)[0],
        models=[export.name] if export.commit else None,
        tags=["medmerge", "medical-imaging"],
        emoji="🔬",
        colorFrom="blue",
        colorTo="gray",
        pinned=False,
        short_description="Try an image classifier; research only, no diagnosis",
    )
    template = importlib.resources.files(__package__).joinpath("templates/space.md.jinja").read_text()
    names = [str(name) for name in config.id2label.values()]
    return str(SpaceCard.from_template(data, template_str=template, title=export.title, names=names))


def push_space(contents: Mapping[str, str | bytes], repo_id: str, private: bool | None = None) -> str:
    """Upload a Space as one commit.

    Args:
        contents: of [`space_contents`].
        repo_id: `user/name`.
        private: whether a Space made here is.

    Returns:
        Its address.

    Raises:
        SettingsError: nobody is logged in, or the Hub refuses it.
    """
    from huggingface_hub import HfApi

    with _refused(repo_id):
        repo_id = ensure_repository(repo_id, private=private, repo_type="space", space_sdk="gradio")
        commit_export(repo_id, contents, SPACE_FILE, repo_type="space", commit_message="Upload Space")
    return f"{HfApi().endpoint}/spaces/{repo_id}"


@contextmanager
def _refused(repo_id: str) -> Iterator[None]:
    """Say what a user can do about a Space that the Hub does not take."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    try:
        HfApi().whoami()
        yield
    except Exception as error:  # of the client, its HTTP library or the system
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        if isinstance(error, LocalTokenNotFoundError) or status == 401:
            way_out = "nobody is logged in to the Hub. `hf auth login` (or HF_TOKEN=...) with a token that may write"
        elif status == 403:
            way_out = "the token may not write there. `hf auth login` with one that may, or name a Space of your own"
        else:
            first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
            way_out = f"the Hub did not take it ({type(error).__name__}: {first_line}). See whether the name is right"
        raise SettingsError(
            f"{repo_id} was not pushed: {way_out}, then run the same command again. Nothing was written."
        ) from error
