"""What a training uploads: exports alone, each as one commit, never a pickle."""

from typing import Any

from transformers import Trainer
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress

from ..errors import SettingsError
from ..export.upload import push_export
from ..modeling_medmerge import MedMergeModel


class HubTrainer(Trainer):
    """`transformers.Trainer` that uploads a [`MedMergeModel`] as the model does itself; any other as `Trainer`."""

    def _plain_wrapper(self) -> Any:
        if isinstance(self.model, MedMergeModel):
            return self.model  # at every step: accelerate would look through all modules for compiled ones
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    def init_hf_repo(self, *args: Any, **kwargs: Any) -> None:
        """As `Trainer`; refuses strategies that upload optimizer states, since those are pickles."""
        if self.args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            raise SettingsError(
                f"hub_strategy={self.args.hub_strategy.value!r} uploads optimizer states, which are pickles. Take "
                "'end' or 'every_save'; checkpoints stay on this machine."
            )
        super().init_hf_repo(*args, **kwargs)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Save the export to `output_dir` and upload it, alone, as [`MedMergeModel.push_to_hub`] does.

        Args:
            commit_message: first line.
            blocking: `False` uploads in the background.
            token: instead of `args.hub_token`.
            revision: branch; `args.hub_revision` by default.
            private: whether a repository made here is; `args.hub_private_repo` by default.
            kwargs: `tags` for the card. What else `Trainer.create_model_card` takes (`dataset`, `finetuned_from`, ...)
                this card has from the merge itself.

        Returns:
            `CommitInfo`, or a `Future` of it; `None` on processes that do not write.
        """
        if not isinstance(self._plain_wrapper(), MedMergeModel):
            return super().push_to_hub(commit_message, blocking, token, revision, **kwargs)
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if private is not None:
            self.args.hub_private_repo = private
        token = token or self.args.hub_token
        if self.hub_model_id is None:
            self.init_hf_repo(token=token)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self._finish_current_push()
        return push_export(
            self.args.output_dir,
            self.hub_model_id,
            token=token,
            revision=revision or getattr(self.args, "hub_revision", None),
            commit_message=commit_message,
            run_as_future=not blocking,
            tags=[tags] if isinstance(tags := kwargs.get("tags") or [], str) else tags,
        )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """`hub_strategy="every_save"`: an export of now goes up in the background."""
        model = self._plain_wrapper()
        if not isinstance(model, MedMergeModel):
            super()._push_from_checkpoint(checkpoint_folder)
            return
        running = getattr(self, "push_in_progress", None)
        busy = running is not None and not running.is_done()
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        if busy and not self.args.hub_always_push:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        self._finish_current_push()
        model.save_pretrained(self.args.output_dir)
        job = push_export(
            self.args.output_dir,
            self.hub_model_id,
            token=self.args.hub_token,
            revision=getattr(self.args, "hub_revision", None),
            commit_message=f"Training in progress, step {self.state.global_step}",
            run_as_future=True,
        )
        self.push_in_progress = PushInProgress([job])
