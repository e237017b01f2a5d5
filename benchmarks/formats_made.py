"""Files as their owners have them, each made by the library that its owner used, with random weights.

A case makes a file and returns the network that the library itself runs, to compare with what is read.
"""

import copy
import dataclasses
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn


# Of a made file: the source, and what computes its features, where there is something.
Made = tuple[dict[str, Any], nn.Module | None]


@dataclasses.dataclass(frozen=True)
class Case:
    """A file of a format.

    Args:
        what: the file, in words.
        libraries: modules that make it; the first is named with its version.
        architecture: timm's name of the anchor's network.
        make: writes it into a folder.
        size: pixels of the images that are compared.
        extracted: whether it is refused with a command, which is followed.
        tolerance: relative difference of features.
    """

    what: str
    libraries: tuple[str, ...]
    architecture: str
    make: Callable[[Path], Made]
    size: int = 64
    extracted: bool = False
    tolerance: float = 1e-4


def lively(network: Any, seed: int = 0) -> Any:
    """A network in eval mode whose statistics, biases and scales are far from how they begin."""
    torch.manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if name.endswith(("running_mean", "bias", "bias_table", "cls_token", "pos_embed")):
            tensor.normal_(0, 0.1)
        elif name.endswith("running_var") or (tensor.ndim == 1 and tensor.is_floating_point()):
            tensor.uniform_(0.5, 1.5)
    return network.eval()


class Parts(nn.Module):
    """A module of named parts, as training scripts write them."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, images: Tensor) -> Tensor:
        """What the first part makes of images."""
        return next(self.children())(images)


def _resnet18(seed: int = 0) -> Any:
    return lively(torchvision.models.resnet18(weights=None), seed)


def saved(found: Any, folder: Path, name: str = "made.pth", **stated: Any) -> dict[str, Any]:
    """The source of a file of `torch.save`."""
    torch.save(found, folder / name)
    return {"id": str(folder / name), **stated}


# What PyTorch itself writes


def _torch_wrapped(folder: Path) -> Made:
    network = _resnet18()
    wrapped = nn.DataParallel(network)
    return saved({"state_dict": wrapped.state_dict(), "epoch": 3}, folder), network


def _torch_legacy(folder: Path) -> Made:
    network = _resnet18()
    torch.save(network.state_dict(), folder / "made.pth", _use_new_zipfile_serialization=False)
    return {"id": str(folder / "made.pth")}, network


def _safetensors_file(folder: Path) -> Made:
    from safetensors.torch import save_file

    network = _resnet18()
    save_file(network.state_dict(), folder / "made.safetensors")
    return {"id": str(folder / "made.safetensors")}, network


def _torch_export(folder: Path) -> Made:
    network = _resnet18()
    torch.export.save(torch.export.export(network, (torch.zeros(1, 3, 64, 64),)), folder / "made.pt2")
    return {"id": str(folder / "made.pt2")}, network


def _torch_script(folder: Path) -> Made:
    network = _resnet18()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(network, torch.zeros(1, 3, 64, 64)).save(str(folder / "made.pt"))
    return {"id": str(folder / "made.pt")}, network


def _torch_module(folder: Path) -> Made:
    network = _resnet18()
    return saved(network, folder), network


def _torch_float8(folder: Path) -> Made:
    from safetensors.torch import save_file

    network = _resnet18()
    tensors = {k: t.to(torch.float8_e4m3fn) if t.ndim > 1 else t for k, t in network.state_dict().items()}
    save_file(tensors, folder / "made.safetensors")
    network.load_state_dict({k: t.float() if t.is_floating_point() else t for k, t in tensors.items()})
    return {"id": str(folder / "made.safetensors")}, network


# Trainers


def _lightning_checkpoint(folder: Path) -> Made:
    import lightning

    class Task(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.save_hyperparameters({"lr": 1e-3})
            self.model, self.loss = _resnet18(), nn.CrossEntropyLoss(weight=torch.ones(1000))

        def training_step(self, batch: Any, index: int) -> Tensor:
            found: Tensor = self.loss(self.model(batch[0]), batch[1])
            return found

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters())

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(max_steps=1, accelerator="cpu", enable_model_summary=False, **quiet)
    task, rows = Task(), torch.utils.data.TensorDataset(torch.rand(2, 3, 32, 32), torch.tensor([0, 1]))
    trainer.fit(task, torch.utils.data.DataLoader(rows, batch_size=2))
    trainer.save_checkpoint(folder / "made.ckpt")
    return {"id": str(folder / "made.ckpt")}, task.model.eval()


def _fastai_learner(with_opt: bool) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        from fastai.vision.all import DataLoaders, Learner, create_vision_model, models

        network = lively(create_vision_model(models.resnet18, 5, pretrained=False))
        learner = Learner(DataLoaders([], []), network, loss_func=nn.CrossEntropyLoss(), path=folder)
        learner.create_opt()
        return {"id": str(learner.save("made", with_opt=with_opt))}, network[0]

    return make


def _timm_saver(folder: Path) -> Made:
    from timm.utils import CheckpointSaver, ModelEmaV3

    network = lively(timm.create_model("resnet18"))
    average = ModelEmaV3(network)
    lively(average.module, 1)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    saver = CheckpointSaver(network, optimizer, model_ema=average, checkpoint_dir=str(folder))
    saver.save_checkpoint(epoch=1, metric=0.5)
    return {"id": str(folder / "last.pth.tar"), "entry": "state_dict_ema"}, average.module.eval()


def _mmpretrain_classifier(width: int, **backbone: Any) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        from mmpretrain.models import build_classifier

        head = {"num_classes": 5, "in_channels": width, "loss": {"type": "CrossEntropyLoss"}}
        kind = "VisionTransformerClsHead" if backbone["type"] == "VisionTransformer" else "LinearClsHead"
        config: dict[str, Any] = {"type": "ImageClassifier", "backbone": backbone, "head": {"type": kind, **head}}
        if kind == "LinearClsHead" and backbone["type"] != "ConvNeXt":
            config["neck"] = {"type": "GlobalAveragePooling"}
        network = lively(build_classifier(config))
        found = {"meta": {"epoch": 1}, "state_dict": network.state_dict(), "optimizer": {}}
        return saved(found, folder), Last(network.backbone)

    return make


class Last(nn.Module):
    """The last of what a network returns."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Any:
        """Features."""
        found = self.network(images)
        return found[-1] if isinstance(found, (tuple, list)) else found


# Self-supervised training


def _body(seed: int) -> Any:
    return nn.Sequential(*list(_resnet18(seed).children())[:-1])


def _lightly_simclr(folder: Path) -> Made:
    from lightly.models.modules import SimCLRProjectionHead

    network = Parts(backbone=_body(0), projection_head=SimCLRProjectionHead(512, 512, 128))
    return saved({"state_dict": network.state_dict()}, folder), network.backbone  # type: ignore[return-value]


def _lightly_moco(entry: str | None) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        from lightly.loss import NTXentLoss
        from lightly.models.modules import MoCoProjectionHead

        parts: dict[str, nn.Module] = {"backbone": _body(0), "projection_head": MoCoProjectionHead(512, 512, 128)}
        parts |= {"backbone_momentum": _body(1), "criterion": NTXentLoss(memory_bank_size=(16, 128))}
        return saved({"state_dict": Parts(**parts).state_dict()}, folder, entry=entry), parts[entry or "backbone"]

    return make


def _lightly_dino(folder: Path) -> Made:
    from lightly.models.modules import DINOProjectionHead

    heads = {f"{who}_head": DINOProjectionHead(512, 64, 64, 128) for who in ("student", "teacher")}
    network = Parts(student_backbone=_body(0), teacher_backbone=_body(1), **heads)
    teacher: Any = network.teacher_backbone
    return saved({"state_dict": network.state_dict()}, folder), teacher


def _lightly_mae(folder: Path) -> Made:
    from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM

    network = lively(timm.create_model("vit_tiny_patch16_224", num_classes=0))
    sizes = {"num_patches": 196, "patch_size": 16, "embed_dim": 192, "decoder_embed_dim": 64}
    decoder = MAEDecoderTIMM(**sizes, decoder_depth=1, decoder_num_heads=4)
    whole = Parts(backbone=MaskedVisionTransformerTIMM(vit=copy.deepcopy(network)), decoder=decoder)
    return saved({"state_dict": whole.state_dict()}, folder), whole.backbone.vit.eval()  # type: ignore[union-attr]


# Packages of networks


def _lukemelas(folder: Path) -> Made:
    from efficientnet_pytorch import EfficientNet

    network = lively(EfficientNet.from_name("efficientnet-b0"))
    return saved(network.state_dict(), folder), network


def _geffnet_lite(folder: Path) -> Made:
    import geffnet

    network = lively(geffnet.create_model("tf_efficientnet_lite0", pretrained=False))
    return saved(network.state_dict(), folder), network


def _smp_encoder(folder: Path) -> Made:
    import segmentation_models_pytorch as smp

    network = lively(smp.Unet("resnet18", encoder_weights=None))
    return saved({"state_dict": network.state_dict()}, folder), Last(network.encoder)


def _torchxrayvision_densenet(folder: Path) -> Made:
    import torchxrayvision

    network = lively(torchxrayvision.models.DenseNet(weights=None, in_channels=3))
    return saved(network.state_dict(), folder), network


def _radimagenet(folder: Path) -> Made:
    network = lively(torchvision.models.densenet121(weights=None))
    body = Parts(backbone=nn.Sequential(*list(network.children())[:-1]), classifier=nn.Linear(2, 2))
    return saved({f"module.{k}": t for k, t in body.state_dict().items()}, folder), network


def _monai_network(name: str, **options: Any) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        from monai.networks import nets

        network = lively(getattr(nets, name)(spatial_dims=2, **options))
        stated: dict[str, Any] = {"variant": {"stride": "conv2"}} if name == "resnet18" else {}
        return saved(network.state_dict(), folder, **stated), network

    return make


def _detectron2_names(folder: Path) -> Made:
    network = lively(torchvision.models.resnet50(weights=None))
    rules: dict[str, Any] = {
        **{r"^conv1\.": "stem.conv1.", r"^bn1\.": "stem.conv1.norm.", r"downsample\.0\.": "shortcut."},
        **{r"downsample\.1\.": "shortcut.norm.", r"bn(\d)\.": r"conv\1.norm."},
        r"layer(\d)": lambda found: f"res{int(found[1]) + 1}",
    }
    arrays = {}
    for name, tensor in network.state_dict().items():
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked"):
            for pattern, replacement in rules.items():
                name = re.sub(pattern, replacement, name)
            arrays[f"backbone.bottom_up.{name}"] = tensor.numpy()
    content = {"model": arrays, "__author__": "x", "matching_heuristics": True}
    (folder / "made.pkl").write_bytes(pickle.dumps(content))
    return {"id": str(folder / "made.pkl"), "variant": {"stride": "conv2"}}, network


def _pytorch() -> list[Case]:
    own = ("torch", "torchvision")
    return [
        Case("torch.save, names under module.", own, "resnet18", _torch_wrapped),
        Case("torch.save before 1.6", own, "resnet18", _torch_legacy),
        Case("safetensors", ("safetensors",), "resnet18", _safetensors_file),
        Case("torch.export.save (.pt2)", own, "resnet18", _torch_export),
        Case("torch.jit.save (TorchScript)", own, "resnet18", _torch_script, extracted=True),
        Case("torch.save of a whole module", own, "resnet18", _torch_module, extracted=True),
        Case("float8 in safetensors", ("safetensors",), "resnet18", _torch_float8, extracted=True),
    ]


def _trainers() -> list[Case]:
    def mm(name: str, architecture: str, width: int, size: int = 64, **backbone: Any) -> Case:
        make = _mmpretrain_classifier(width, **backbone)
        return Case(f"MMPretrain, {name}", ("mmpretrain", "mmcv", "mmengine"), architecture, make, size)

    swin, vit = {"img_size": 224, "arch": "tiny"}, {"img_size": 224, "patch_size": 16, "arch": "deit-s"}
    return [
        Case("Trainer.save_checkpoint", ("lightning",), "resnet18", _lightning_checkpoint),
        Case("Learner.save", ("fastai",), "resnet18", _fastai_learner(with_opt=True)),
        Case("Learner.save(with_opt=False)", ("fastai",), "resnet18", _fastai_learner(with_opt=False)),
        Case("CheckpointSaver, entry state_dict_ema", ("timm",), "resnet18", _timm_saver),
        mm("ResNet-50", "resnet50", 2048, type="ResNet", depth=50, num_stages=4, out_indices=(3,), style="pytorch"),
        mm("ViT-S", "vit_small_patch16_224", 384, 224, type="VisionTransformer", **vit),
        mm("Swin-T", "swin_tiny_patch4_window7_224", 768, 224, type="SwinTransformer", **swin),
        mm("ConvNeXt-T", "convnext_tiny", 768, type="ConvNeXt", arch="tiny"),
        mm("MobileNetV2", "mobilenetv2_100", 1280, type="MobileNetV2"),
        mm("DenseNet-121", "densenet121", 1024, type="DenseNet", arch="121"),
        Case("SimCLR", ("lightly",), "resnet18", _lightly_simclr),
        Case("MoCo, by default q", ("lightly",), "resnet18", _lightly_moco(None)),
        Case("MoCo, entry backbone_momentum", ("lightly",), "resnet18", _lightly_moco("backbone_momentum")),
        Case("DINO, by default the teacher", ("lightly",), "resnet18", _lightly_dino),
        Case("MAE, without its decoder", ("lightly",), "vit_tiny_patch16_224", _lightly_mae, 224),
    ]


def _packages() -> list[Case]:
    resnet = {"n_input_channels": 3, "num_classes": 4, "conv1_t_stride": 2}
    dense = {"in_channels": 3, "out_channels": 4}
    return [
        Case("EfficientNet-B0 of lukemelas", ("efficientnet_pytorch",), "tf_efficientnet_b0", _lukemelas),
        Case("EfficientNet-lite0", ("geffnet",), "tf_efficientnet_lite0", _geffnet_lite),
        Case("encoder of a U-Net", ("segmentation_models_pytorch",), "resnet18", _smp_encoder),
        Case("torchxrayvision's DenseNet", ("torchxrayvision",), "densenet121", _torchxrayvision_densenet, 224),
        Case("RadImageNet's numbering (layout)", ("torchvision",), "densenet121", _radimagenet),
        Case("MONAI's DenseNet-121", ("monai",), "densenet121", _monai_network("DenseNet121", **dense)),
        Case("MONAI's ResNet-18", ("monai",), "resnet18", _monai_network("resnet18", **resnet)),
        Case("Detectron2's .pkl (layout)", ("torchvision",), "resnet50", _detectron2_names),
    ]


PYTORCH = [*_pytorch(), *_trainers(), *_packages()]
