import ast
import re
import zipfile

import pytest
import timm
import torch

from medmerge_hf import MedMergeModel, inspect_sources
from medmerge_hf.conversion.convert import convert_onto
from medmerge_hf.conversion.verification import apply_variant
from medmerge_hf.errors import ArchitectureMismatchError, CorruptSourceError, MedMergeError, SourceError
from medmerge_hf.networks.backbone import load_backbone
from medmerge_hf.networks.build import build_network, network_config
from medmerge_hf.networks.timm_config import timm_config
from medmerge_hf.sources.load import load_source
from medmerge_hf.sources.readers import hdf5_probe


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Keras with the NumPy of today

keras = pytest.importorskip("keras")
h5py = pytest.importorskip("h5py")


def applied(name, size, **options):
    """A network of keras.applications with weights far from how they begin."""
    torch.manual_seed(0)
    made = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), **options)
    for weight in made.weights:
        shape = tuple(weight.shape)
        if weight.path.endswith(("moving_mean", "beta", "bias")):
            weight.assign(0.1 * torch.randn(shape))
        elif weight.path.endswith(("moving_variance", "gamma")) and "normalization/" not in weight.path:
            weight.assign(0.75 + 0.5 * torch.rand(shape))
    return made


def features_of_keras(made, images):
    """Before the pooling and the head."""
    with torch.no_grad():
        return torch.as_tensor(made(images.permute(0, 2, 3, 1), training=False)).permute(0, 3, 1, 2)


def save(made, place, form):
    file = place / f"made{form}"
    made.save_weights(file) if form == ".weights.h5" else made.save(file)
    return str(file)


NETWORKS = {
    "ResNet50": ("resnet50", 64),
    "MobileNetV2": ("mobilenetv2_100", 64),
    "DenseNet121": ("densenet121", 64),
    "EfficientNetB0": ("tf_efficientnet_b0", 64),
    "Xception": ("legacy_xception", 96),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_keras_compute_the_same_in_timms(name, tmp_path):
    architecture, size = NETWORKS[name]
    made = applied(name, size, include_top=False)
    file = save(made, tmp_path, ".weights.h5")
    loaded = load_source({"id": file, "variant": {"accept": True}, "input": "unit"})
    assert loaded.reference.architecture == architecture
    network = build_network(network_config(timm_config(architecture), num_labels=2)).eval()
    found = convert_onto(network, loaded, anchor=True)
    load_backbone(network, found.tensors)
    timms = apply_variant(network.timm_model, loaded.reference.variant)
    for module in timms.modules():  # folded already
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 1e-3 if architecture.startswith("tf_") else 1e-5
    images = torch.rand(2, 3, size, size)
    with torch.no_grad():
        ours = timms.forward_features(images)
    theirs = features_of_keras(made, images * 255 if "normalization" in str(made.layers[2].name) else images)
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-4


@pytest.mark.parametrize(
    ("form", "nested"), [(".h5", True), (".keras", True), (".weights.h5", True), (".keras", False)]
)
def test_every_form_of_file_gives_the_same_source(form, nested, tmp_path):
    base = applied("MobileNetV2", 64, include_top=not nested, **({} if nested else {"classes": 3}))
    made = base
    if nested:
        top = [keras.layers.Rescaling(1 / 255), base, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
        made = keras.Sequential(top)
        made.build((None, 64, 64, 3))
    source = {"id": save(made, tmp_path, form), "variant": {"accept": True}}
    anchor = timm.create_model("mobilenetv2_100")
    model = MedMergeModel.from_sources([anchor, source], num_labels=2, init=1.0, exclude=["conv_stem*"])
    weight = model.plain_model().timm_model.blocks[1][0].conv_dw.weight
    kernel = next(
        w for w in base.weights if w.path.endswith(("block_1_depthwise/kernel", "block_1_depthwise/depthwise_kernel"))
    )
    assert torch.allclose(weight[:, 0], torch.as_tensor(kernel.value)[..., 0].permute(2, 0, 1).cpu(), atol=1e-6)
    notes = "; ".join(model.config.sources[1]["notes"])
    for words in (
        "Keras' MobileNetV2",
        "eps 0.001 folded",
        "mean 0.5, std 0.5",
        "padding tf_same: features differ by",
    ):
        assert words in notes, words
    report = inspect_sources([anchor, source]).sources[1]
    assert report.problem is None
    assert report.matched == len(model.merge.names) + 1


def test_what_cannot_be_folded_is_refused_unless_it_is_accepted(tmp_path):
    file = save(applied("MobileNetV2", 64, include_top=False), tmp_path, ".h5")
    with pytest.raises(ArchitectureMismatchError, match=r"padding tf_same") as refused:
        MedMergeModel.from_sources([timm.create_model("mobilenetv2_100"), file], num_labels=2)
    variant = ast.literal_eval(re.search(r"variant=(\{.*\})\.", str(refused.value))[1])
    accepted = [timm.create_model("mobilenetv2_100"), {"id": file, "variant": variant}]
    assert MedMergeModel.from_sources(accepted, num_labels=2).config.sources[1]["variant"]["accept"]
    assert "padding tf_same" in inspect_sources([timm.create_model("mobilenetv2_100"), file]).sources[1].problem


def test_a_network_of_tensorflows_padding_takes_such_a_source(tmp_path):
    file = save(applied("EfficientNetB0", 64, include_top=False), tmp_path, ".keras")
    model = MedMergeModel.from_sources([timm.create_model("tf_efficientnet_b0"), file], num_labels=2)
    assert "padding" not in "; ".join(model.config.sources[1]["notes"])


def test_a_network_of_keras_is_an_anchor(tmp_path):
    file = save(applied("DenseNet121", 64, include_top=False), tmp_path, ".keras")
    report = inspect_sources([file, timm.create_model("densenet121")])
    assert report.ok
    assert report.sources[0].architecture == "densenet121"
    assert "BatchNorm eps 1.001e-05 folded" in "; ".join(report.sources[0].notes)


def test_the_first_dense_layer_of_vgg_sees_channels_before_pixels(tmp_path):
    with h5py.File(tmp_path / "vgg.h5", "w") as file:
        group = file.create_group("fc1/fc1")
        for block, last in enumerate((2, 2, 3, 3, 3), 1):
            for layer in range(1, last + 1):
                file.create_dataset(
                    f"block{block}_conv{layer}/block{block}_conv{layer}/kernel:0", data=torch.ones(3, 3, 1, 1)
                )
        kernel = torch.arange(7 * 7 * 512.0).reshape(-1, 1)
        group.create_dataset("kernel:0", data=kernel)
    found = load_source(str(tmp_path / "vgg.h5"))
    assert found.reference.architecture == "vgg16"
    assert torch.equal(found.tensors["fc1.weight"].reshape(512, 7, 7), kernel.reshape(7, 7, 512).permute(2, 0, 1))


def test_a_damaged_file_is_called_what_it_is(tmp_path):
    (tmp_path / "b.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 500)
    with pytest.raises(CorruptSourceError, match=r"Keras file \(HDF5\).*model\.save"):
        load_source(str(tmp_path / "b.h5"))
    with zipfile.ZipFile(tmp_path / "c.keras", "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", b"nothing")
    with pytest.raises(CorruptSourceError, match=r"Keras"):
        load_source(str(tmp_path / "c.keras"))


def test_a_file_that_unpacks_to_more_than_it_is_or_leads_away_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("layer/kernel", shape=(100_000, 100_000), chunks=True)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_dataset("layer/kernel", (4,), "f4", external=[(str(tmp_path / "secret"), 0, 16)])
    for name, words in (("a.h5", "unpack"), ("b.h5", "other files")):
        with pytest.raises(CorruptSourceError, match=words):
            load_source(str(tmp_path / name))


def test_without_h5py_the_way_out_is_named(tmp_path, monkeypatch):
    file = tmp_path / "a.h5"
    with h5py.File(file, "w") as made:
        made.create_dataset("layer/kernel", data=[1.0])
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(SourceError, match=r"pip install 'medmerge_hf\[keras\]'") as error:
        load_source(str(file))
    assert isinstance(error.value, MedMergeError)


def test_a_file_that_the_library_does_not_come_to_an_end_of_is_refused(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "a.h5", "w") as made:
        made.create_dataset("layer/kernel", data=[1.0])
    monkeypatch.setattr(hdf5_probe, "SECONDS", 0)
    with pytest.raises(CorruptSourceError, match=r"Keras file \(HDF5\).*does not come to an end"):
        load_source(str(tmp_path / "a.h5"))
