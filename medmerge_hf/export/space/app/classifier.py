"""The network of a Space: an image -> a probability a class, and what may be said of them in plain words."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from heat_map import HeatMap
from PIL import Image
from reading.data.single import read_image
from transformers import AutoImageProcessor, AutoModelForImageClassification


HERE = Path(__file__).parent

CAUTION = (
    "The probabilities were not calibrated, and the network answers for images of anything. "
    "**This is no diagnosis**: nobody may be treated, or left untreated, because of it."
)


class Seen(NamedTuple):
    """What the network makes of an image.

    Attributes:
        probabilities: name of a class -> 0 to 1, in the order of the config.
        pixels: `[1, C, H, W]`, what the network was fed with.
        picture: the same as an image for people, `[H, W, 3]`, 0 to 1.
    """

    probabilities: dict[str, float]
    pixels: torch.Tensor
    picture: np.ndarray


class Classifier:
    """An export of medmerge_hf, loaded by transformers alone.

    Args:
        settings: of the Space: where the model is, how pixel values became 8 bits, from where on it is certain.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        local = HERE / settings["model"]
        where: dict[str, Any] = {} if local.is_dir() else {"revision": settings["revision"]}
        place = str(local) if local.is_dir() else settings["model"]
        self.settings = settings
        self.processor = AutoImageProcessor.from_pretrained(place, trust_remote_code=False, **where)
        self.model = AutoModelForImageClassification.from_pretrained(
            place, dtype=torch.float32, trust_remote_code=False, **where
        ).eval()
        config = self.model.config
        self.names = [config.id2label[index] for index in range(len(config.id2label))]
        self.multi_label = config.problem_type == "multi_label_classification"
        self.mode = "L" if settings["channels"] == 1 else "RGB"
        self.matrix, self.offset = self._colours()
        self.heat_map = HeatMap(self.model, self._pixels(Image.new(self.mode, (64, 64), "grey")))

    def _pixels(self, image: Image.Image) -> torch.Tensor:
        return self.processor(image.convert(self.mode), return_tensors="pt")["pixel_values"].float()

    def _colours(self) -> tuple[np.ndarray, np.ndarray]:
        """What the processor makes of colours, `matrix @ pixel + offset` of pixels of 0 to 1, to be undone."""
        basis = ("black", "red", "lime", "blue") if self.mode == "RGB" else ("black", "white")
        pixels = [self._pixels(Image.new(self.mode, (64, 64), colour)) for colour in basis]
        found = np.stack([one.mean((0, 2, 3)).double().numpy() for one in pixels])
        return (found[1:] - found[0]).T, found[0]

    def read(self, path: str | Path) -> Image.Image:
        """The image in a file, see [`read_image`]."""
        return read_image(path, self.settings)

    def __call__(self, image: Image.Image) -> Seen:
        """Classify an image of any mode."""
        pixels = self._pixels(image)
        with torch.inference_mode():
            logits = self.model(pixels).logits[0].double()
        scores = logits.sigmoid() if self.multi_label else logits.softmax(0)
        colours = pixels[0].permute(1, 2, 0).double().numpy() - self.offset
        picture = np.clip(colours @ np.linalg.inv(self.matrix).T, 0, 1)
        shown = np.broadcast_to(picture, (*picture.shape[:2], 3))
        return Seen(dict(zip(self.names, scores.tolist(), strict=True)), pixels, shown)

    def where(self, seen: Seen, name: str) -> np.ndarray | None:
        """The heat map of a class, `[H, W]`, 0 to 1; `None` where no place of the image raises it."""
        return self.heat_map(seen.pixels, self.names.index(name))

    def in_words(self, probabilities: dict[str, float]) -> str:
        """Say what the probabilities mean, and when they mean nothing.

        Args:
            probabilities: of [`Seen`].

        Returns:
            Markdown.
        """
        limit = self.settings["threshold"]
        if self.multi_label:
            unsure = {name: value for name, value in probabilities.items() if 1 - limit < value < limit}
            found = [f"{name} ({value:.2f})" for name, value in probabilities.items() if value >= limit]
            told = f"Found: {', '.join(found) or 'none of its labels'}."
            if unsure:
                listed = ", ".join(f"{name} ({value:.2f})" for name, value in unsure.items())
                told += f" **Not sure** of {listed}: between {1 - limit:.2f} and {limit:.2f} it is no answer."
            return f"{told}\n\n{CAUTION}"
        best = max(probabilities, key=probabilities.__getitem__)
        value = probabilities[best]
        if value < limit:
            told = (
                f"**Not sure.** The highest probability is {value:.2f} ({best}), below {limit:.2f}: take it as no "
                "answer, and ask somebody who can tell."
            )
        else:
            told = f"**{best}**, with a probability of {value:.2f}."
        return f"{told}\n\n{CAUTION}"


def load_classifier() -> Classifier:
    """The classifier of the Space that this file lies in."""
    return Classifier(json.loads((HERE / "space.json").read_text()))
