import pytest
import timm
import torch
import torchvision
from tiny import unlike
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.vision_transformer import VisionTransformer
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from medmerge_hf import MedMergeModel, SourceReference
from medmerge_hf.conversion import name_maps
from medmerge_hf.conversion.name_maps import TORCHVISION, align_by_order
from medmerge_hf.errors import ArchitectureMismatchError
from medmerge_hf.sources.load import load_source


SMALL = ["mobilenetv2_100", "mobilenetv3_small_100", "efficientnet_b0"]
LARGE = [
    *("vit_base_patch16_224", "vgg16", "vgg16_bn", "mobilenetv3_large_100", "efficientnet_b4", "convnext_base"),
    *("convnext_tiny", "swin_tiny_patch4_window7_224"),
]
ANY_SIZE = ("mobilenet", "efficientnet", "convnext")


def original(architecture, seed=0):
    """torchvision's network with weights of its own."""
    torch.manual_seed(seed)
    return unlike(torchvision.models.get_model(TORCHVISION.get(architecture, architecture), weights=None), seed)


def merge(anchor, other, image_size=None):
    """The merge of two sources at `w = 1`, and what was noted of the other."""
    model = MedMergeModel.from_sources([anchor, other], num_labels=2, init=1.0, image_size=image_size)
    return model, "; ".join(model.config.sources[1]["notes"])


def save(tensors, file):
    torch.save(dict(tensors), file)
    return str(file)


@pytest.mark.parametrize("architecture", [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)])
def test_torchvision_checkpoints_are_translated_and_proven(architecture, tmp_path):
    file = save({f"module.{k}": t for k, t in original(architecture).state_dict().items()}, tmp_path / "tv.pth")
    _, notes = merge(timm.create_model(architecture), file, 64 if architecture.startswith(ANY_SIZE) else None)
    assert f"torchvision's names for {TORCHVISION[architecture]} translated" in notes
    assert "features equal to" in notes
    assert ("eps 0.001 folded" in notes) == architecture.startswith("mobilenetv3")


SWIN = {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4, "img_size": 64}
DIMS = {"dims": (8, 16, 16, 24), "depths": (1, 1, 2, 1)}
SHRUNK = {
    "convnext_tiny": (
        lambda: ConvNeXt([CNBlockConfig(*row) for row in ((8, 16, 1), (16, 16, 1), (16, 24, 2), (24, None, 1))]),
        DIMS,
    ),
    "swin_tiny_patch4_window7_224": (
        lambda: SwinTransformer([4, 4], 8, [2, 2], [1, 2], [4, 4]),
        {**SWIN, "depths": (2, 2)},
    ),
    "vit_base_patch16_224": (
        lambda: VisionTransformer(32, 16, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=64),
        {"img_size": 32, "embed_dim": 16, "depth": 2, "num_heads": 2},
    ),
}


@pytest.fixture
def shrunk(monkeypatch):
    """Make torchvision's network of an architecture a smaller one of its class."""

    def shrink(make):
        monkeypatch.setattr(name_maps, "torchvision_network", lambda kind: make())
        name_maps.torchvision_original.cache_clear()

    yield shrink
    name_maps.torchvision_original.cache_clear()


@pytest.mark.parametrize("architecture", SHRUNK)
def test_classes_of_torchvision_are_translated_and_proven_at_any_width(architecture, shrunk, tmp_path):
    make, arguments = SHRUNK[architecture]
    shrunk(make)
    file = save(unlike(make()).state_dict(), tmp_path / "tv.pth")
    _, notes = merge(timm_folder(tmp_path / "timm", architecture, **arguments), file)
    assert f"torchvision's names for {TORCHVISION[architecture]} translated" in notes
    assert "features equal to" in notes


def test_the_names_of_another_network_are_refused(tmp_path):
    file = save(original("efficientnet_b0").state_dict(), tmp_path / "tv.pth")
    with pytest.raises(ArchitectureMismatchError, match="not the anchor's architecture mobilenetv2_100"):
        merge(timm.create_model("mobilenetv2_100"), file, 64)


def test_left_over_tensors_of_a_translated_checkpoint_are_refused(tmp_path):
    tensors = original("mobilenetv2_100").state_dict() | {"features.19.0.weight": torch.zeros(3, 3, 1, 1)}
    with pytest.raises(ArchitectureMismatchError, match=r"features\.19\.0\.weight.*nothing of it is dropped"):
        merge(timm.create_model("mobilenetv2_100"), save(tensors, tmp_path / "tv.pth"), 64)


def pair(architecture):
    """torchvision's network and timm's."""
    return original(architecture), timm.create_model(architecture)


def small_densenets(folder):
    """A DenseNet of torchvision, and a folder with timm's."""
    torch.manual_seed(0)
    size = {"growth_rate": 8, "block_config": (2, 2, 2, 2)}
    network = unlike(torchvision.models.DenseNet(num_init_features=16, **size))
    return network, timm_folder(folder / "timm", "densenet121", **size)


@pytest.mark.parametrize("architecture", ["resnet18", "densenet121", "mobilenetv2_100"])
def test_numbered_children_as_in_radimagenet_are_named_again(architecture, tmp_path):
    network, anchor = small_densenets(tmp_path) if architecture == "densenet121" else pair(architecture)
    body = torch.nn.Sequential(*list(network.children())[:-1])
    numbered = {f"backbone.{name}": tensor for name, tensor in body.state_dict().items()}
    plain = save(network.state_dict(), tmp_path / "plain.pth")
    ours, notes = merge(anchor, save(numbered, tmp_path / "numbered.pth"), 64)
    theirs, _ = merge(anchor, plain, 64)
    assert "numbering undone" in notes
    assert ours.config.sources[1]["sha256"] == theirs.config.sources[1]["sha256"]


def test_chexnets_densenet_names_are_renewed(tmp_path):
    network, anchor = small_densenets(tmp_path)
    state = network.state_dict()
    renamed = {
        f"module.densenet121.{k.replace('.norm1.', '.norm.1.').replace('.conv2.', '.conv.2.')}": t
        for k, t in state.items()
    }
    renamed = {k.replace("classifier.", "classifier.0."): t for k, t in renamed.items()}
    ours, notes = merge(anchor, save(renamed, tmp_path / "old.pth"))
    theirs, _ = merge(anchor, save(state, tmp_path / "new.pth"))
    assert "old DenseNet names renewed" in notes
    assert ours.config.sources[1]["sha256"] == theirs.config.sources[1]["sha256"]


NATIVE = {
    "vit": (
        "vit_tiny_patch16_224",
        {"embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": 32},
        lambda: ViTForImageClassification(
            ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32)
        ),
    ),
    "convnext": (
        "convnext_tiny",
        DIMS,
        lambda: ConvNextForImageClassification(ConvNextConfig(hidden_sizes=[8, 16, 16, 24], depths=[1, 1, 2, 1])),
    ),
    "swin": (
        "swin_tiny_patch4_window7_224",
        SWIN,
        lambda: SwinForImageClassification(
            SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4, image_size=64)
        ),
    ),
}


def timm_folder(folder, architecture, **arguments):
    network = unlike(timm.create_model(architecture, **arguments), 1)
    timm.models.save_for_hf(network, folder, model_config={"model_args": arguments}, safe_serialization=True)
    return str(folder)


@pytest.mark.parametrize("kind", ["vit", "convnext", "swin"])
def test_transformers_checkpoints_merge_onto_timm_networks(kind, tmp_path):
    architecture, arguments, make = NATIVE[kind]
    network = unlike(make())
    network.save_pretrained(tmp_path / "native")
    anchor = timm_folder(tmp_path / "timm", architecture, **arguments)
    _, notes = merge(anchor, str(tmp_path / "native"))
    assert f"transformers' names for {kind} translated" in notes
    assert "features equal to" in notes
    _, from_file = merge(anchor, str(tmp_path / "native" / "model.safetensors"))
    assert "not verified" in from_file


def test_transformers_resnets_merge_onto_timms(tmp_path):
    config = ResNetConfig(embedding_size=64, hidden_sizes=[16, 24, 24, 32], depths=[1, 1, 2, 1], layer_type="basic")
    network = unlike(ResNetForImageClassification(config))
    network.save_pretrained(tmp_path)
    anchor = timm_folder(tmp_path / "timm", "resnet18", channels=(16, 24, 24, 32), layers=(1, 1, 2, 1))
    model, notes = merge(anchor, str(tmp_path))
    assert "features equal to" in notes
    images = torch.rand(1, 3, 64, 64)
    ours = model.plain_model()
    norms = {k: t for k, t in load_source(str(tmp_path)).tensors.items() if "running" in k}
    assert len(norms) == 2 * 15
    assert ours(images).logits.shape == (1, 2)


def test_kerass_stride_in_a_transformers_resnet_is_refused(tmp_path):
    sizes = {"embedding_size": 64, "hidden_sizes": [32, 64, 96, 128], "depths": [1, 2, 1, 1]}
    unlike(ResNetForImageClassification(ResNetConfig(**sizes, downsample_in_bottleneck=True))).save_pretrained(
        tmp_path
    )
    with pytest.raises(ArchitectureMismatchError, match=r"another network.*stride of layer2\.0\.conv1 is \(2, 2\)"):
        merge(timm_folder(tmp_path / "timm", "resnet50", channels=(8, 16, 24, 32), layers=(1, 2, 1, 1)), str(tmp_path))


def test_a_module_of_foreign_names_is_paired_by_order_and_run(monkeypatch):
    class Foreign(torch.nn.Module):
        def __init__(self):
            super().__init__()
            inner = unlike(timm.create_model("test_resnet"))
            self.parts = torch.nn.ModuleList(m for m in inner.modules() if not list(m.children()))
            self.inner = [inner]

        def forward(self, images):
            return self.inner[0].eval()(images)

        def _apply(self, function, recurse=True):
            self.inner[0]._apply(function)
            return self

    _, notes = merge(timm.create_model("test_resnet"), Foreign())
    assert "paired by shape and order" in notes
    assert "features equal to" in notes


def test_a_key_map_is_applied_and_kept(tmp_path):
    network = unlike(timm.create_model("test_resnet"))
    file = save({f"encoder/{k.replace('layer', 'block')}": t for k, t in network.state_dict().items()}, tmp_path / "a")
    reference = {"id": file, "key_map": {r"^encoder/": "", r"block(\d)": r"layer\1"}}
    model, notes = merge(timm.create_model("test_resnet"), reference)
    assert "key_map applied" in notes
    assert model.config.sources[1]["key_map"] == reference["key_map"]
    with pytest.raises(ArchitectureMismatchError):
        merge(timm.create_model("test_resnet"), SourceReference(file, key_map={"^encoder/": ""}))


def test_order_alone_is_taken_only_when_asked_for(tmp_path):
    state = unlike(timm.create_model("test_resnet")).state_dict()
    file = save(
        {f"tensor{i}": t for i, t in enumerate(t for t in state.values() if t.is_floating_point())}, tmp_path / "a"
    )
    anchor = timm.create_model("test_resnet")
    with pytest.raises(ArchitectureMismatchError, match="missing"):
        merge(anchor, file)
    assert "paired by shape and order" in merge(anchor, {"id": file, "key_map": "order"})[1]
    more = save({**torch.load(file), "more": torch.zeros(7)}, tmp_path / "b")
    with pytest.raises(ArchitectureMismatchError, match="one-to-one"):
        merge(anchor, {"id": more, "key_map": "order"})


def test_alignment_must_be_one_to_one():
    assert align_by_order({"a": (2,), "b": (2,)}, {"x": (2,), "y": (2,)}) == {"a": "x", "b": "y"}
    assert align_by_order({"a": (2,)}, {"x": (2,), "y": (2,)}) is None
    assert align_by_order({"a": (2,), "b": (3,)}, {"x": (2,)}) is None


@pytest.mark.parametrize("folder", ["mobilenetv2", "efficientnet_b0"])
def test_real_checkpoints_under_torchvisions_names_are_merged(real_data, folder):
    files = sorted((real_data / "checkpoints" / folder).glob("*.safetensors"))
    architecture = "mobilenetv2_100" if folder == "mobilenetv2" else folder
    model = MedMergeModel.from_sources(
        [str(file) for file in files], architecture=architecture, num_labels=2, image_size=64
    )
    notes = [" ".join(source["notes"]) for source in model.config.sources]
    assert any("features equal to" in note for note in notes)
