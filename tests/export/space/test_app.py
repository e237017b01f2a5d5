import importlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers.modeling_outputs import ImageClassifierOutput

from medmerge_hf import MedMergeModel, resolve_preprocessing
from medmerge_hf.export.space.write import make_space


@pytest.fixture
def space(exports, load, tmp_path):
    """A function that makes a Space for an export and loads what runs there."""

    def space(kind, **settings):
        make_space(str(exports / kind), tmp_path / kind, **settings)
        return load(tmp_path / kind)

    return space


@pytest.mark.parametrize("kind", ["resnet", "grey", "native"])
def test_probabilities_and_their_names_are_those_of_the_export(exports, space, photograph, kind):
    classifier = space(kind)
    model = MedMergeModel.from_pretrained(exports / kind).eval()
    image = Image.open(photograph)
    with torch.no_grad():
        logits = model(resolve_preprocessing(model).eval_transform(image)[None]).logits[0]
    expected = logits.sigmoid() if kind == "grey" else logits.softmax(0)
    found = classifier(classifier.read(photograph))
    assert list(found.probabilities) == ["benign", "malignant", "normal"]
    np.testing.assert_allclose(list(found.probabilities.values()), expected.numpy(), rtol=0, atol=1e-5)
    assert expected.max() - expected.min() > 0.1


def test_the_picture_is_what_the_network_saw(space):
    colours = np.zeros((32, 32, 3), np.uint8)
    colours[:] = 200, 100, 50
    for kind in ("resnet", "native"):
        seen = space(kind)(Image.fromarray(colours))
        np.testing.assert_allclose(seen.picture, colours / 255, atol=1e-5)
    grey = space("grey")(Image.fromarray(colours[..., 0]))
    np.testing.assert_allclose(grey.picture, np.full((32, 32, 3), 200 / 255), atol=1e-5)


@pytest.mark.parametrize(("kind", "layer"), [("resnet", "layer3"), ("native", "layers.1.layernorm_before")])
def test_some_class_has_a_heat_map_of_the_image(space, photograph, kind, layer):
    classifier = space(kind)
    seen = classifier(classifier.read(photograph))
    maps = [classifier.where(seen, name) for name in classifier.names]
    drawn = [heat for heat in maps if heat is not None]
    assert classifier.heat_map.layer.endswith(layer)
    assert drawn
    for heat in drawn:
        assert heat.shape == seen.picture.shape[:2]
        assert heat.max() == pytest.approx(1)
        assert heat.min() >= 0
    again = classifier(classifier.read(photograph))
    assert again.probabilities == seen.probabilities  # whether or not one was drawn


class Corner(nn.Module):
    """A classifier of bright places, as channels first, channels last, or tokens behind a class token."""

    def __init__(self, form):
        super().__init__()
        self.form, self.features, self.norm = form, nn.Conv2d(1, 2, 4, stride=4), nn.Linear(2, 2)
        with torch.no_grad():
            self.features.weight[0], self.features.weight[1] = 1, -1
            self.features.bias.zero_()
            self.norm.weight.copy_(torch.eye(2))
            self.norm.bias.zero_()

    def forward(self, pixels):
        found = self.features(pixels).relu()
        if self.form == "tokens":
            tokens = found.flatten(2).transpose(1, 2)
            found = self.norm(torch.cat([torch.zeros_like(tokens[:, :1]), tokens], 1)).mean(1)
        else:
            found = self.norm(found.movedim(1, -1)).mean((1, 2)) if self.form == "last" else found.mean((2, 3))
        return ImageClassifierOutput(logits=found)


@pytest.mark.parametrize("form", ["first", "last", "tokens"])
def test_the_map_is_where_the_class_is(space, form):
    space("resnet")
    heat_map = importlib.import_module("heat_map")
    pixels = torch.full((1, 1, 32, 48), 0.1)
    pixels[..., :8, 36:] = 1.0
    heat = heat_map.HeatMap(Corner(form), pixels)(pixels, 0)
    assert heat.shape == (32, 48)
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert row < 10
    assert column >= 34
    assert heat[20:, :20].mean() < 0.5 * heat[:8, 36:].mean()


def test_a_network_without_places_has_no_map(space):
    space("resnet")
    heat_map = importlib.import_module("heat_map")

    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(64, 2)

        def forward(self, pixels):
            return ImageClassifierOutput(logits=self.head(pixels.flatten(1)))

    assert heat_map.HeatMap(Flat(), torch.zeros(1, 1, 8, 8))(torch.ones(1, 1, 8, 8), 0) is None


def test_an_answer_is_one_from_the_threshold_on(space):
    told = space("resnet", threshold=0.7).in_words
    assert told({"a": 0.3, "b": 0.7}).startswith("**b**, with a probability of 0.70.")
    assert told({"a": 0.31, "b": 0.69}).startswith("**Not sure.** The highest probability is 0.69 (b), below 0.70")
    assert "no diagnosis" in told({"a": 0.3, "b": 0.7})


def test_of_several_labels_each_is_found_or_not_or_unsure(space):
    told = space("grey", threshold=0.7).in_words
    assert told({"a": 0.9, "b": 0.71, "c": 0.2}).startswith("Found: a (0.90), b (0.71).\n")
    assert told({"a": 0.1, "b": 0.5, "c": 0.2}).startswith("Found: none of its labels. **Not sure** of b (0.50)")
