"""[`MedMergeModel`]: several sources while they are merged, one plain network afterwards."""

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageClassification, PreTrainedModel

from .alignment.align_sources import align_sources, permute_sources
from .alignment.permutations import Alignment
from .configuration_medmerge import MedMergeConfig, SourceDtype
from .conversion.attach import anchor_config, anchor_processor, attach_sources, kernel_layout
from .errors import StateError, TooFewSourcesError
from .export.card.record import Stage
from .export.checkpoint import save_checkpoint
from .export.folder import save_export
from .export.options import known_options
from .export.reading import fitting_tensors, no_differences, read_saved
from .export.upload import push_export, push_saved
from .merging.kernel_table import kernel_table
from .merging.kernel_weights import KERNEL_WEIGHTS, PERMUTATION, Constraint, Granularity, KernelWeights
from .merging.merged_network import MergedNetwork, plain_copy, with_values
from .networks.backbone import backbone_learns, backbone_module
from .networks.build import build_network, target_labels
from .networks.caches import clear_caches
from .networks.outputs import classify
from .networks.preprocessing import input_of, timm_processor
from .networks.saved_network import load_checked, load_saved_network
from .sources.load import load_source
from .sources.reference import LoadedSource, Source


class MedMergeModel(PreTrainedModel):
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
        plain = config.plain_config()
        super().__init__(config)
        self.network = build_network(plain)
        self.config._attn_implementation = self.network.config._attn_implementation
        self.supports_gradient_checkpointing = self.network.supports_gradient_checkpointing
        self.merge: KernelWeights | None = None
        self._merged: MergedNetwork | None = None
        self.merge_state: dict[str, Tensor] = {}
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
            sources: anchor first. Each a timm name or Hub id (`@revision` allowed), a folder of timm or transformers,
                a checkpoint file, an `nn.Module`, or a [`SourceReference`] (or a dict of its fields), which says more.
            num_labels: classes of the target task; read off `id2label` where that is given.
            id2label: names of the classes.
            problem_type: `single_label_classification`, `multi_label_classification` or `regression`.
            architecture: timm name of the network, needed where the anchor is a weights file or a bare module.
            image_size: pixels; by default the anchor's own.
            granularity: what shares one weight, see [`MedMergeConfig`], as all down to `source_dtype`.
            constraint: how weights follow from what is learned.
            init: weight of every other source at the start, or one each; 0 is the anchor.
            include: patterns of the tensors that are merged.
            exclude: patterns of tensors that stay the anchor's.
            freeze: patterns of tensors whose kernel weights stay at `init`.
            source_dtype: in which the other sources are held.
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
                "fine-tune one checkpoint, load it with AutoModelForImageClassification."
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
    def from_anchor(cls, anchor: LoadedSource, config: MedMergeConfig, image_size: int | None) -> "MedMergeModel":
        """A collapsed model of an anchor's architecture and preprocessing, with fresh weights, for [`attach`]."""
        config.network = anchor_config(anchor, image_size)
        model = cls(config)
        with_values(dict(model.network.named_parameters()))
        model.image_processor = model.image_processor or anchor_processor(anchor, model.network, image_size)
        return model

    def attach(self, loaded: Sequence[LoadedSource], permutation: Tensor | None = None) -> None:
        """Enter the merging state: the anchor in the network, the other sources' differences beside it, all frozen.

        Args:
            loaded: the sources, anchor first; what is raised for them: see [`attach_sources`].
            permutation: `[S - 1, channels]`, of an earlier [`align`].
        """
        merged, self.config.sources = attach_sources(self.network, loaded, self.config, input_of(self))
        merged.weights.to(self.device)
        if permutation is not None:
            permute_sources(merged, permutation)
        self._merged, self.merge = merged, merged.weights
        self._keys_to_ignore_on_save = merged.source_names()

    def align(self, method: Alignment = "weights", images: Any = None) -> None:
        """Permute the other sources' channels onto the anchor's before the merge stage; each still computes the same.

        Args:
            method: `weights` pairs channels of like weights (arXiv 2209.04836), `activations` those that respond alike
                to the target's images (arXiv 2211.08403).
            images: of the target, for `activations`; this and what is raised: see [`align_sources`].
        """
        align_sources(self.merged_network, method, images)
        self.config.align = {"method": method}

    @property
    def merging(self) -> bool:
        """Whether sources are attached and kernel weights learn."""
        return self.merge is not None

    @property
    def merged_network(self) -> MergedNetwork:
        """Network, kernel weights and the sources behind them; a StateError once collapsed."""
        if self._merged is None:
            raise StateError("This model is collapsed; from_pretrained(..., merging=True) attaches the sources.")
        return self._merged

    @property
    def stage(self) -> Stage:
        """What training does now: `merge`, `head` (of a frozen backbone) or `finetune`."""
        return "merge" if self.merging else "finetune" if backbone_learns(self.network) else "head"

    def train(self, mode: bool = True) -> "MedMergeModel":
        """As `nn.Module.train`; a backbone that is frozen stays in eval mode, its BatchNorm statistics as they are."""
        super().train(mode)
        if mode and self.stage == "head":
            backbone_module(self.network).eval()
        return self

    def get_correct_attn_implementation(self, requested_attention: str | None, is_init_check: bool = False) -> str:
        """As the network judges; before there is one, what the config says."""
        if (network := self._modules.get("network")) is None:
            return requested_attention or "eager"
        return network.get_correct_attn_implementation(requested_attention, is_init_check)

    def _set_gradient_checkpointing(self, enable: bool = True, *args: Any, **kwargs: Any) -> None:
        self.network._set_gradient_checkpointing(enable, *args, **kwargs)
        if self._merged is not None:
            self._merged.recomputes = enable

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        output_attentions: bool | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> Any:
        """Classify images with the merged weights.

        Args:
            pixel_values: `[N, C, H, W]`, normalised as the anchor's image processor does.
            labels: `[N]` classes, `[N, num_labels]` floats for several labels or regression. With them comes a loss.
            output_hidden_states: also return what each block of the network computes; by default as the config says.
            return_dict: `False` for a tuple; by default as the config says.
            output_attentions: also return the attentions, of transformers' networks with `eager` attention.
            interpolate_pos_encoding: take images of another size than the network was made for, where it can.

        Returns:
            Loss (with labels) and logits `[N, num_labels]`. What the network cannot return is an error.
        """
        wanted = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        forward = self.network if self._merged is None else self._merged.computing(self.network, pixel_values)
        others = (labels, wanted, interpolate_pos_encoding, return_dict)
        return classify(self.network, self.config, forward, pixel_values, *others)

    @torch.no_grad()
    def collapse(self, batches: Iterable[Any] | None = None) -> "MedMergeModel":
        """Turn the merge into one plain backbone, in place. Everything learns from here on.

        Where it fails half-way (an image that cannot be read, Ctrl-C), the model is merging as before.

        Args:
            batches: training batches of the target, to estimate BatchNorm statistics on (see
                [`recalibrate_batch_norm`]). Without them those of the merge stage stay.
        """
        merged = self.merged_network
        state = merged.small_state(self.state_dict())
        merged.collapse(batches)
        self.merge_state, self.merge, self._merged = state, None, None
        self._keys_to_ignore_on_save = []
        return self

    def plain_model(self) -> Any:
        """The ordinary timm-wrapper or transformers classifier: the network, or while merging a copy as of now."""
        return self.network if self.merge is None else plain_copy(self.network, self.merge, self.state_dict())

    def kernel_layout(self) -> tuple[KernelWeights, Tensor]:
        """Names and kernel shapes, and what was learned `[S - 1, kernels]`."""
        if self.merge is not None:
            return self.merge, self.merge.source_bias.detach().cpu()
        if not self.merge_state:
            raise StateError("This model has no kernel weights: it was not made by a merge.")
        with torch.device("meta"):
            layout = kernel_layout(self.network, self.config, len(self.config.sources))
        return layout, self.merge_state[KERNEL_WEIGHTS]

    def kernel_weights(self) -> Any:
        """The weights of all sources, in either state.

        Returns:
            A `pandas.DataFrame` of `tensor`, `kernel` (row-major), `source` and `weight`; a kernel's sum to 1.
        """
        return kernel_table(*self.kernel_layout(), [source["id"] for source in self.config.sources])

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As `nn.Module.state_dict`, of the parameters also while merged tensors stand in their places."""
        if self._merged is not None:
            self._merged.swap.restore()
        return super().state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As `nn.Module.load_state_dict`, once collapsed also of an export; only frozen parameters may be missing."""
        if not fitting_tensors(state_dict, self.merging):
            return load_saved_network(self.network, state_dict, assign)
        clear_caches(self.network)
        return load_checked(self, partial(super().load_state_dict, strict=strict, assign=assign), state_dict)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        collapse: bool = True,
        push_to_hub: bool = False,
        dtype: "torch.dtype | str | None" = None,
        **kwargs: Any,
    ) -> None:
        """Write the plain model, which `AutoModelForImageClassification`, `pipeline` and timm's `local-dir:` read.

        `medmerge/` in it holds config and state of the merge. All is written elsewhere, read back and then put there.

        Args:
            save_directory: the folder.
            is_main_process: `False` writes nothing.
            state_dict: instead of the model's own.
            collapse: `False` writes the form to train on, of a merge without its sources, by the names in memory, as
                [`MedMergeTrainer`] does in its `checkpoint-*` folders: no card, nothing is read back.
            push_to_hub: also upload the folder, see [`push_to_hub`]; `repo_id` is by default the folder's name.
            dtype: of the exported weights, `"float16"` or `"bfloat16"` for half the size; as they are by default.
            kwargs: `max_shard_size` of a weights file, and what [`push_to_hub`] takes.

        Raises:
            ExportError: what was written does not read back as it is in memory.
            SettingsError: an unknown keyword, or an export that timm could not read.
        """
        if not is_main_process:
            return
        push, shards = known_options(kwargs, collapse, push_to_hub, dtype)
        state_dict = with_values(self.state_dict() if state_dict is None else state_dict)
        small = self.merge_state if self._merged is None else self._merged.small_state(state_dict)
        destination = Path(save_directory)
        if not collapse:
            tensors, state = (small, {}) if self.merging else (state_dict, small)
            return save_checkpoint(destination, tensors, self.config, self.image_processor, state)
        plain = plain_copy(self.network, self.merge, state_dict, share=True)
        layout = self.kernel_layout()[0] if small else None
        save_export(destination, plain, self.image_processor, self.config, small, layout, dtype, **shards)
        if push_to_hub:
            push_export(destination, push.pop("repo_id", destination.absolute().name), **push)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        max_shard_size: int | str = "50GB",
        dtype: "torch.dtype | str | None" = None,
        **options: Any,
    ) -> Any:
        """Export and upload in one commit: weights, config, image processor, merge state, model card, picture.

        An upload that breaks off leaves the repository as it was. No pickle goes along, and no path of this machine.

        Args:
            repo_id: `user/name`, or `name` for the user whose token it is. Made if it is not there.
            max_shard_size: of a weights file.
            dtype: see [`save_pretrained`], as what is raised; nothing is uploaded then.
            options: see [`export.upload.push_export`].

        Returns:
            `huggingface_hub.CommitInfo`.
        """
        save = partial(self.save_pretrained, max_shard_size=max_shard_size, dtype=dtype)
        return push_saved(save, repo_id, **options)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        merging: bool = False,
        sources: Sequence[Source] | None = None,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Load an export, or a checkpoint of either stage; the model is in eval mode.

        Args:
            pretrained_model_name_or_path: a folder or a Hub id.
            merging: attach the sources again, as the merge stage ended. A checkpoint of the merge stage always does.
            sources: where the sources are now, if not where the config says; they must hold the same weights.
            output_loading_info: also return a dict of what was missing or left over: nothing, it would be an error.
            kwargs: `dtype` (as saved by default), `config`, `variant`, see [`read_saved`]; and of `hf_hub_download`:
                `revision`, `token`, `cache_dir`, `local_files_only`, `subfolder`, ...

        Raises:
            SettingsError: an unknown keyword, or a dtype for a merge.
            SourceError: a source that has vanished or changed.
            StateError: nothing was merged there, or the network was changed since.
        """
        saved = read_saved(str(pretrained_model_name_or_path), merging, **kwargs)
        model = cls(saved.config)
        model.image_processor = model.image_processor or saved.image_processor
        if saved.network is not None:
            model.network, model.merge_state = saved.network, saved.state
        else:
            with saved.way_out():
                model.attach(saved.load_sources(sources), saved.state.get(PERMUTATION))
            saved.restore(model, model._keys_to_ignore_on_save)
        return (model.eval(), no_differences()) if output_loading_info else model.eval()


AutoModelForImageClassification.register(MedMergeConfig, MedMergeModel, exist_ok=True)
