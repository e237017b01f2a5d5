"""[`MedMergeModel`]: several sources while they are merged, one plain network afterwards."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from transformers.modeling_outputs import ImageClassifierOutput

from .adaptation import harmonise_onto
from .alignment import Alignment
from .blending import Constraint, Granularity, KernelWeights
from .configuration_medmerge import MedMergeConfig, SourceDtype
from .errors import SettingsError, StateError, TooFewSourcesError
from .export import plain_copy
from .networks import (
    architecture_name,
    backbone_parameters,
    backbone_prefix,
    build_network,
    load_backbone,
    matching,
    merged_parameters,
    network_config,
    target_labels,
)
from .normalization import recalibrate_batch_norm
from .provenance import Stage
from .saving import SavingModel
from .source_alignment import align_sources, permute_sources
from .sources import LoadedSource, Source, identify, load_source
from .substitution import Substitution
from .transforms import (
    default_processor,
    input_of,
    normalise_processor,
    resize_processor,
    resize_timm_config,
    timm_processor,
)


class MedMergeModel(SavingModel):
    """An image classifier merged from several sources (MedMerge, arXiv 2403.11646).

    It is in one of two states. **Merging**: the sources are frozen and attached; one weight a kernel and source, and
    the new head, learn. **Collapsed**: one plain backbone, everything learns. [`collapse`] takes it from the first to
    the second. Make one with [`from_sources`] or [`from_pretrained`].

    Args:
        config: the configuration. The constructor alone gives a collapsed network with random weights.

    Attributes:
        network: the plain timm-wrapper or transformers classifier. While merging it holds the anchor.
        merge: the kernel weights and differences, or `None` once collapsed.
        merge_state: once collapsed, kernel weights, head and statistics as the merge stage ended.
        image_processor: of the anchor, exported with the model.
    """

    config: MedMergeConfig
    config_class = MedMergeConfig
    base_model_prefix = "network"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    model_tags = ["medmerge", "merge"]  # noqa: RUF012  (transformers' own form)
    accepts_loss_kwargs = False

    def __init__(self, config: MedMergeConfig) -> None:
        super().__init__(config)
        labels = {"num_labels": config.num_labels, "id2label": config.id2label, "label2id": config.label2id}
        plain = network_config(config.network, **labels, problem_type=config.problem_type)
        self.network = build_network(plain)
        self.merge: KernelWeights | None = None
        self._substitution: Any = None
        self._blended: tuple[Tensor, list[Any], dict[str, Tensor]] | None = None
        self._recomputes = False
        self.merge_state: dict[str, Tensor] = {}
        self.source_statistics: list[dict[str, Tensor]] = []
        self.image_processor: Any = timm_processor(plain) if plain.model_type == "timm_wrapper" else None
        self.post_init()

    @classmethod
    def from_sources(
        cls,
        sources: Sequence[Source],
        *,
        num_labels: int | None = None,
        id2label: Mapping[int, str] | None = None,
        problem_type: str | None = None,
        architecture: str | None = None,
        image_size: int | None = None,
        granularity: Granularity = "filter",
        constraint: Constraint = "complementary",
        init: float | Sequence[float] = 0.0,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        freeze: Sequence[str] = (),
        source_dtype: SourceDtype = "float32",
        align: Alignment | None = None,
        align_images: Any = None,
        token: str | bool | None = None,
    ) -> "MedMergeModel":
        """Attach sources of one architecture, ready for the merge stage.

        Args:
            sources: anchor first, then at least one other. Each a timm name or Hub id (`@revision` allowed), a local
                folder of timm or transformers, a checkpoint file, an `nn.Module`, or a [`SourceReference`] (or a dict
                of its fields) that also says which input and which network the weights were made for.
            num_labels: classes of the target task; read off `id2label` where that is given.
            id2label: names of the classes.
            problem_type: `single_label_classification`, `multi_label_classification` or `regression`.
            architecture: timm name of the network, needed where the anchor is a weights file or a bare module.
            image_size: pixels; by default the anchor's own.
            granularity: what shares one weight, see [`MedMergeConfig`].
            constraint: see [`MedMergeConfig`].
            init: weight of every other source at the start, or one each; 0 is the anchor.
            include: see [`MedMergeConfig`], as `exclude` and `freeze`.
            exclude: patterns of tensors that stay the anchor's.
            freeze: patterns of tensors whose kernel weights stay at `init`.
            source_dtype: see [`MedMergeConfig`].
            align: permute the other sources' channels onto the anchor's first, see [`align`].
            align_images: images of the target for `align="activations"`.
            token: of the Hub, instead of the one logged in with. It is not kept.

        Returns:
            A model in the merging state, in eval mode.

        Raises:
            SourceError: one of its kinds; the message names the source, the tensor and the way out.
            SettingsError: settings that contradict each other or the data.

        Example:
            >>> import timm
            >>> anchor, other = (timm.create_model("test_resnet") for _ in range(2))
            >>> model = MedMergeModel.from_sources([anchor, other], num_labels=3)
            >>> model(torch.zeros(1, 3, 64, 64)).logits.shape
            torch.Size([1, 3])
        """
        if len(sources) < 2:
            raise TooFewSourcesError(
                f"from_sources got {len(sources)} source: a merge needs an anchor and at least one other. To "
                "fine-tune a single checkpoint, load it with AutoModelForImageClassification."
            )
        labels = target_labels(num_labels, id2label)
        merge = {"granularity": granularity, "constraint": constraint, "init": init, "source_dtype": source_dtype}
        chosen = {"include": include, "exclude": exclude, "freeze": freeze}
        config = MedMergeConfig(**merge, **chosen, problem_type=problem_type, **labels)  # type: ignore[arg-type]
        anchor = load_source(sources[0], architecture, token=token)
        model = cls.from_anchor(anchor, config, image_size)
        name = anchor.reference.architecture
        model.attach([anchor, *(load_source(source, name, token=token) for source in sources[1:])])
        if align is not None:
            model.align(align, align_images)
        return model.eval()

    @classmethod
    def from_anchor(
        cls, anchor: LoadedSource, config: MedMergeConfig, image_size: int | None = None
    ) -> "MedMergeModel":
        """A collapsed model of an anchor's architecture and preprocessing, with fresh weights.

        Args:
            anchor: a source that says which network it is.
            config: labels and merge settings; its `network` is filled in.
            image_size: pixels; by default the anchor's own.

        Returns:
            The model, for [`attach`] or for weights of its own.

        Raises:
            SettingsError: the anchor does not say which network it is, or the network cannot take this size.
        """
        plain = anchor.network_config
        if plain is None:
            raise SettingsError(
                f"Source {anchor.reference.id!r} does not say which network it is: pass architecture='resnet18' "
                "(timm's name)."
            )
        if image_size is not None and plain["model_type"] == "timm_wrapper":
            plain = resize_timm_config(plain, image_size)
        stated = anchor.reference.input
        if stated is not None and plain["model_type"] == "timm_wrapper":
            given = {"mean": list(stated.pixel_mean), "std": list(stated.pixel_std)}
            plain = {**plain, "pretrained_cfg": {**plain["pretrained_cfg"], **given}}
        config.network = plain
        model = cls(config)
        if model.image_processor is None:
            processor = anchor.image_processor or default_processor(image_size or 224)
            processor = resize_processor(processor, image_size) if image_size else processor
            model.image_processor = normalise_processor(processor, stated) if stated else processor
        return model

    def attach(self, loaded: Sequence[LoadedSource], permutation: Tensor | None = None) -> None:
        """Enter the merging state: the anchor in the network, the other sources' differences beside it, all frozen.

        Args:
            loaded: the sources, anchor first.
            permutation: `[S - 1, channels]`, of an earlier [`align`].

        Raises:
            SourceError: a source that does not fit the network, is there twice, or is not the one in the config.
        """
        images = input_of(self)
        anchor = harmonise_onto(self.network, loaded[0], images, anchor=True)
        found = [harmonise_onto(self.network, source, images, statistics=True) for source in loaded[1:]]
        backbone = backbone_parameters(self.network)
        others = [source.only(backbone) for source in found]
        self.source_statistics = [s.without(backbone) for s in found]
        self.config.sources = identify(
            [source.reference for source in loaded], [anchor.only(backbone), *others], self.config.sources
        )
        load_backbone(self.network, anchor.tensors)
        for parameter in backbone.values():
            parameter.requires_grad_(False)
        merged = merged_parameters(self.network, self.config)
        shapes = {name: parameter.shape for name, parameter in merged.items()}
        dtype = getattr(torch, self.config.source_dtype)
        self.merge = KernelWeights(shapes, len(loaded), self.config.granularity, self.config.constraint, dtype)
        self.merge.set_sources(anchor.tensors, [source.tensors for source in others])
        self.merge.reset(self.config.init)
        self.merge.held = set(matching(shapes, self.config.freeze))
        self.merge.to(self.device)
        self._substitution = Substitution(self.network, merged)
        if permutation is not None:
            permute_sources(self, permutation)
        self._keys_to_ignore_on_save = self._frozen_names()

    def align(self, method: Alignment = "weights", images: Any = None) -> None:
        """Permute the channels of the other sources onto the anchor's, before the merge stage.

        Each source still computes what it did (checked to 1e-4). The permutations are kept in the merge state.

        Args:
            method: `weights` pairs channels of like weights (arXiv 2209.04836), `activations` those that respond alike
                to the target's images (arXiv 2211.08403).
            images: of the target, for `activations`: `[N, C, H, W]` as the model takes them, or batches of a
                dataloader; the first 128 are used.

        Raises:
            AlignmentError: torch.export cannot trace the network, or a check fails.
            StateError: it is collapsed, or aligned already.
        """
        align_sources(self, method, images)

    # The two states

    @property
    def merging(self) -> bool:
        """Whether sources are attached and kernel weights learn."""
        return self.merge is not None

    @property
    def stage(self) -> Stage:
        """What training does now: `merge`, `head` (of a frozen backbone) or `finetune`."""
        if self.merge is not None:
            return "merge"
        frozen = not any(parameter.requires_grad for parameter in backbone_parameters(self.network).values())
        return "head" if frozen else "finetune"

    supports_gradient_checkpointing = True

    def _set_gradient_checkpointing(self, enable: bool = True, *args: Any, **kwargs: Any) -> None:
        if not self.network.supports_gradient_checkpointing:
            raise SettingsError(f"{architecture_name(self.network)} does not support gradient checkpointing.")
        self.network._set_gradient_checkpointing(enable, *args, **kwargs)
        self._recomputes = enable

    def sync_batch_norm(self) -> None:
        """Let BatchNorm take its statistics over all processes, in either state."""
        from timm.layers import convert_sync_batchnorm

        self.network = convert_sync_batchnorm(self.network)
        if self.merge is not None:
            self._substitution = Substitution(self.network, merged_parameters(self.network, self.config))

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As `nn.Module.state_dict`, of the parameters also while merged tensors stand in their places."""
        if self._substitution is not None:
            self._substitution.restore()
        return super().state_dict(*args, **kwargs)

    def _frozen_names(self) -> list[str]:
        """State dict names of what comes from the sources and never changes while merging."""
        if self.merge is None:
            return []
        backbone = [f"network.{backbone_prefix(self.network)}{name}" for name in self.merge.names]
        return backbone + [f"merge.{name}" for name, _ in self.merge.named_parameters() if "differences." in name]

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> ImageClassifierOutput:
        """Classify images with the merged weights.

        Args:
            pixel_values: `[N, C, H, W]`, normalised as the anchor's image processor does.
            labels: `[N]` classes, `[N, num_labels]` floats for several labels or regression. With them comes a loss.
            output_hidden_states: also return what each stage of the network computes.
            return_dict: `False` for a tuple.

        Returns:
            Loss (with labels) and logits `[N, num_labels]`.
        """
        kwargs = {"labels": labels, "output_hidden_states": output_hidden_states, "return_dict": return_dict}
        if self.merge is None:
            return self.network(pixel_values, **kwargs)
        if torch.compiler.is_compiling():
            prefix = backbone_prefix(self.network)
            merged = {prefix + name: tensor for name, tensor in self.merge(backbone_parameters(self.network)).items()}
            return functional_call(self.network, merged, (pixel_values,), kwargs)
        return self._forward_merged(pixel_values, **kwargs)

    def _forward_merged(self, pixel_values: Tensor, **kwargs: Any) -> ImageClassifierOutput:
        places: Any = self._substitution
        if places.network is not self.network:
            raise StateError(
                "This is a replica of a merge (DataParallel): start one process a GPU, with `accelerate launch`."
            )
        merged = self._merged_tensors()
        if not (self._recomputes and torch.is_grad_enabled()):
            with places.of(merged):
                return self.network(pixel_values, **kwargs)
        # Blocks are computed again in the backward pass: the merged tensors stay in their places until its end.
        places.install(merged)
        output = self.network(pixel_values, **kwargs)
        logits = output[-1] if isinstance(output, tuple) else output.logits
        finish = torch.autograd.Variable._execution_engine.queue_callback
        logits.register_hook(lambda grad: finish(places.restore))
        return output

    def _merged_tensors(self) -> dict[str, Tensor]:
        """Blend; without gradients only where something changed since the last time."""
        merge: Any = self.merge
        anchor = self._substitution.parameters()
        if torch.is_grad_enabled():
            self._blended = None
            return merge(anchor)
        learned = merge.source_bias.detach()
        frozen = [(t.data_ptr(), t._version) for t in (*anchor.values(), *merge.differences.parameters())]
        if self._blended is None or self._blended[1] != frozen or not _equal(self._blended[0], learned):
            self._blended = (learned.clone(), frozen, merge(anchor))
        return self._blended[2]

    @torch.no_grad()
    def collapse(self, batches: Iterable[Any] | None = None) -> "MedMergeModel":
        """Turn the merge into one plain backbone, in place. Everything learns from here on.

        Args:
            batches: training batches of the target, to estimate BatchNorm statistics on (see
                [`recalibrate_batch_norm`]). Without them those of the merge stage stay.

        Returns:
            The model itself.

        Raises:
            StateError: it is collapsed already.
        """
        if self.merge is None:
            raise StateError(
                "This model is collapsed already; from_pretrained(..., merging=True) attaches the sources."
            )
        self.merge_state = self._small_state(self.state_dict())
        merged = self.merge(backbone_parameters(self.network))
        for name, parameter in backbone_parameters(self.network).items():
            if name in merged:
                parameter.copy_(merged[name])
            parameter.requires_grad_(True)
        self.merge = self._substitution = self._blended = None
        self.source_statistics = []
        self._keys_to_ignore_on_save = []
        if batches is not None:
            recalibrate_batch_norm(self.network, batches)
        return self

    def plain_model(self) -> Any:
        """The ordinary classifier: a timm-wrapper (`.timm_model` is the timm network) or transformers model.

        Returns:
            Once collapsed the network itself; while merging a copy with the weights of now.
        """
        return self.network if self.merge is None else plain_copy(self.network, self.merge, self.state_dict())


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.device == other.device and torch.equal(one, other)


__all__ = ["MedMergeModel"]
