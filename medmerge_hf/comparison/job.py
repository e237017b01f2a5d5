"""One run of a method: its data, its budget, what it leaves behind."""

import copy
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.special import expit, softmax
from transformers import TrainerCallback, set_seed
from transformers.trainer_utils import SaveStrategy

from ..data import ImageDataset
from ..modeling_medmerge import MedMergeModel
from ..networks.batch_norm import recalibrate_batch_norm
from ..runs.build import make_model, make_single, target_images
from ..runs.settings import Settings
from ..runs.stages import eval_transform, make_trainer, whole_arguments
from ..training.distillation import Teachers
from ..training.trainer import MedMergeTrainer
from .run_store import Outcome


IMAGES = 128  # of the target, for statistics

PASSES = 2  # over the augmented training images, for statistics that nothing trains any more

SPLITS = ("validation", "test")

COPIES = 1000  # how far the seeds of further networks of one run lie apart

State = dict[str, torch.Tensor]


class KeepBest(TrainerCallback):
    """The best model on validation, kept in memory: checkpoints would take as long as training a small model."""

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Nothing is kept yet."""
        self.score = -np.inf
        self.kept: State = {}

    def on_evaluate(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Keep what learns, and the statistics, if it is better than before."""
        score = kwargs["metrics"]["eval_macro_f1"]
        if score > self.score:
            frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
            found = {name: tensor for name, tensor in model.state_dict().items() if name not in frozen}
            self.score, self.kept = score, {name: tensor.detach().clone() for name, tensor in found.items()}

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Back to the best."""
        model.load_state_dict(self.kept, strict=False)


@dataclasses.dataclass
class Job:
    """One method on one target with one seed.

    Attributes:
        settings: of the run; a method of a single source finds that one alone in them.
        target: the data set.
        earlier: outcomes of the methods that this one needs: of each source, or of the one that it takes.
    """

    settings: Settings
    target: Any
    earlier: Mapping[str, Sequence[Outcome]] = dataclasses.field(default_factory=dict)

    def trainer(self, model: MedMergeModel, stage: str, teachers: Teachers | None = None) -> MedMergeTrainer:
        """For `merge`, `finetune`, or `both` with the epochs of both; with what the model learns from, if anything."""
        settings = self.settings
        args = whole_arguments(settings) if stage == "both" else copy.copy(getattr(settings, stage))
        keep_best = args.load_best_model_at_end
        args.save_strategy, args.load_best_model_at_end = SaveStrategy.NO, False
        set_seed(settings.run.seed)
        trainer = make_trainer(model, self.target, settings, args, teachers)
        if keep_best:
            trainer.add_callback(KeepBest())
        return trainer

    def images(self, model: MedMergeModel) -> list[torch.Tensor]:
        """Batches of training images without augmentation."""
        batches = list(target_images(model, self.target, self.settings.run.seed))
        return batches[: max(1, IMAGES // len(batches[0]))]

    def outcome(
        self,
        trainer: MedMergeTrainer,
        states: Mapping[str, State] | None = None,
        splits: Sequence[str] = SPLITS,
        steps: int = 0,
        **notes: Any,
    ) -> Outcome:
        """What a trained model predicts.

        Args:
            trainer: with the model.
            states: that other methods start from.
            splits: that it predicts.
            steps: gradient steps that were taken before, whoever took them.
            notes: of the outcome.
        """
        transform = eval_transform(trainer.model)
        splits = [split for split in splits if split in self.target]
        found = {split: trainer.predict(ImageDataset(self.target[split], transform)) for split in splits}
        link = expit if self.target.multi_label else functools.partial(softmax, axis=1)
        probabilities = {split: link(output.predictions) for split, output in found.items()}
        labels = {split: np.asarray(output.label_ids) for split, output in found.items()}
        names = self.target.classes
        notes |= {"classes": names, "steps": steps + trainer.state.global_step}
        return Outcome(probabilities, labels, dict(states or {}), notes)

    def of_state(self, state: State, splits: Sequence[str] = SPLITS, **notes: Any) -> Outcome:
        """What given weights predict, BatchNorm statistics re-estimated on training images.

        They are augmented as in training: with statistics of plain ones a trained network loses about a point.
        """
        model = self.trained(state)
        trainer = self.trainer(model, "finetune")
        recalibrate_batch_norm(model, (batch for _ in range(PASSES) for batch in trainer.get_train_dataloader()))
        return self.outcome(trainer, splits=splits, **notes)

    def validation_of(self, state: State) -> float:
        """Macro F1 of given weights on validation."""
        return validation_f1(self.of_state(state, splits=("validation",)))

    def single(self, place: int = 0) -> MedMergeModel:
        """One of the sources, the first by default, with a new head."""
        set_seed(self.settings.run.seed)
        return make_single(self.settings.source.sources[place], self.settings, self.target)

    def trained(self, state: State, place: int = 0) -> MedMergeModel:
        """What training made of one of the sources, the first by default."""
        model = self.single(place)
        model.network.load_state_dict(state)
        return model

    def again(self, number: int) -> "Job":
        """The same on the same images with another head, order and augmentation."""
        settings = self.settings
        run, merge, finetune = copy.copy(settings.run), copy.copy(settings.merge), copy.copy(settings.finetune)
        run.seed = merge.seed = finetune.seed = run.seed + COPIES * number
        settings = dataclasses.replace(settings, run=run, merge=merge, finetune=finetune)
        return dataclasses.replace(self, settings=settings)

    def merging(self, **options: Any) -> MedMergeModel:
        """The sources attached, with other options of theirs."""
        set_seed(self.settings.run.seed)
        source = dataclasses.replace(self.settings.source, **options)
        return make_model(dataclasses.replace(self.settings, source=source), self.target)


def steps_of(outcomes: Sequence[Outcome]) -> int:
    """Gradient steps behind several outcomes."""
    return sum(outcome.notes["steps"] for outcome in outcomes)


def weights_of(model: MedMergeModel) -> State:
    """A copy of a collapsed model's network."""
    return {name: tensor.detach().clone() for name, tensor in model.network.state_dict().items()}


def validation_f1(outcome: Outcome) -> float:
    """Macro F1 on validation."""
    return outcome.scores("validation")["macro_f1"]


def train(job: Job, model: MedMergeModel, stage: str = "both", steps: int = 0) -> Outcome:
    """What a model predicts after a stage, or after one with the epochs of both."""
    trainer = job.trainer(model, stage)
    trainer.train()
    return job.outcome(trainer, steps=steps)
