"""How a [`MedMergeModel`] is written, read again and uploaded."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .errors import SettingsError, StateError
from .export import (
    KERNEL_WEIGHTS,
    export_dtype,
    export_network,
    no_progress_bars,
    plain_copy,
    push_export,
    save_card,
    save_merge_state,
    save_processor,
    staged_directory,
)
from .kernel_views import KernelViews
from .sources import Source
from .transforms import resolve_preprocessing


if TYPE_CHECKING:
    from .modeling_medmerge import MedMergeModel


PUSH_OPTIONS = (
    *("repo_id", "private", "revision", "create_pr", "token", "commit_message", "commit_description", "tags"),
)


class SavingModel(KernelViews):
    """The half of [`MedMergeModel`] that deals with files."""

    image_processor: Any

    def _small_state(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a merge cannot take from its sources again: kernel weights, head, buffers."""
        frozen = set(self._frozen_names())
        return {name: t.detach().cpu().clone() for name, t in state_dict.items() if name not in frozen}

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

        In its folder `medmerge/` lie the config of the merge and its state (kernel weights, head and statistics as the
        merge stage ended). The folder is written elsewhere, read back, compared and then moved into place.

        Args:
            save_directory: the folder.
            is_main_process: `False` writes nothing.
            state_dict: instead of the model's own.
            collapse: `False` writes the small form to train on instead: kernel weights, head and statistics without
                the sources. [`MedMergeTrainer`] does so in its `checkpoint-*` folders.
            push_to_hub: also upload the folder, see [`push_to_hub`]; `repo_id` is by default the folder's name.
            dtype: of the exported weights, `"float16"` or `"bfloat16"` for half the size; float32 by default. The
                merge state stays as it is.
            kwargs: of [`push_to_hub`] and of `PreTrainedModel.save_pretrained`: `max_shard_size`, ...

        Raises:
            ExportError: what was written does not read back as it is in memory.
            StateError: `collapse=False` of a collapsed model.
        """
        if not is_main_process:
            return
        state_dict = self.state_dict() if state_dict is None else state_dict
        push = {key: kwargs.pop(key) for key in PUSH_OPTIONS if key in kwargs}
        if not collapse:
            if push_to_hub:
                raise SettingsError("The small form is for training on; only the export goes to the Hub.")
            if self.merge is None:
                raise StateError("This model is collapsed: it has only the plain form. Save it with collapse=True.")
            with no_progress_bars():
                super().save_pretrained(save_directory, state_dict=self._small_state(state_dict), **kwargs)
                save_processor(self.image_processor, Path(save_directory))
            return
        destination = Path(save_directory)
        with staged_directory(destination) as folder:
            plain = plain_copy(self.network, self.merge, state_dict)
            if dtype is not None:
                plain = plain.to(export_dtype(dtype))
            export_network(plain, self.image_processor, folder, **kwargs)
            if self.image_processor is not None:
                self.config.record = {**self.config.record, "preprocessing": resolve_preprocessing(self).summary}
            small = self._small_state(state_dict) if self.merge is not None else self.merge_state
            save_merge_state(small, self.config, self._layout() if small else None, folder)
            save_card(folder, destination)
        if push_to_hub:
            push_export(destination, push.pop("repo_id", destination.absolute().name), **push)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        token: str | bool | None = None,
        commit_message: str | None = None,
        commit_description: str | None = None,
        tags: list[str] | None = None,
        max_shard_size: int | str = "50GB",
        dtype: "torch.dtype | str | None" = None,
    ) -> Any:
        """Export and upload in one commit: weights, config, image processor, merge state, model card, picture.

        An upload that breaks off leaves the files of the repository as they were. No pickle is uploaded, and no path
        of this machine; the card there is replaced.

        Args:
            repo_id: `user/name`, or `name` for the user whose token it is. Made if it is not there.
            private: whether a repository made here is; by default what the account says.
            revision: branch to commit to, made if it is not there; `main` by default.
            create_pr: open a pull request instead.
            token: instead of the one logged in with (`hf auth login`, `HF_TOKEN`).
            commit_message: first line.
            commit_description: more lines.
            tags: more of them for the card.
            max_shard_size: of a weights file.
            dtype: see [`save_pretrained`].

        Returns:
            `huggingface_hub.CommitInfo`.

        Raises:
            ExportError: as [`save_pretrained`]; nothing is uploaded then.
        """
        with tempfile.TemporaryDirectory() as folder:
            export = Path(folder) / repo_id.rsplit("/", 1)[-1]
            self.save_pretrained(export, max_shard_size=max_shard_size, dtype=dtype)
            return push_export(
                export,
                repo_id,
                private=private,
                revision=revision,
                create_pr=create_pr,
                token=token,
                commit_message=commit_message,
                commit_description=commit_description,
                tags=tags,
            )

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As `nn.Module.load_state_dict`; once collapsed, also from the tensors of an export.

        Raises:
            StateError: tensors of an export, while merging: they hold no kernel weights, so a plain `Trainer` cannot
                resume a merge or go back to its best weights ([`MedMergeTrainer`] can). Or tensors of the merge stage,
                once collapsed.
        """
        if self.merge is None and KERNEL_WEIGHTS in state_dict:
            raise StateError(
                "This is a checkpoint of the merge stage, and the model is collapsed. from_pretrained(checkpoint) "
                "gives the model that it belongs to."
            )
        if any(name.startswith("network.") for name in state_dict):
            return super().load_state_dict(state_dict, strict=strict, assign=assign)
        if self.merge is not None:
            raise StateError(
                "These are the tensors of a collapsed export, without kernel weights. To resume a merge or load its "
                "best checkpoint, train with MedMergeTrainer; it writes checkpoints that hold them."
            )
        return self.network.load_state_dict(state_dict, strict=strict, assign=assign)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        merging: bool = False,
        sources: Sequence[Source] | None = None,
        **kwargs: Any,
    ) -> "MedMergeModel":
        """Load an export, or a checkpoint of the merge stage.

        Args:
            pretrained_model_name_or_path: a folder or a Hub id.
            merging: attach the sources again, as the merge stage ended. A checkpoint of the merge stage always does.
            sources: where the sources are now, if not where the config says; they must hold the same weights.
            kwargs: of `hf_hub_download`: `revision`, `token`, `cache_dir`, `local_files_only`, ...

        Returns:
            The model, in eval mode.

        Raises:
            SourceError: a source that has vanished or changed; its message names it.
            StateError: an export without merge state.
        """
        from .loading import load_merged

        return load_merged(cls, str(pretrained_model_name_or_path), merging, sources, **kwargs)
