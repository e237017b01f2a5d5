"""The methods of a comparison, each from sources to predictions with the same data, transforms and steps.

A budget is the epochs (or `max_steps`) of both stages together. What has one stage gets them all in it.
"""

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from building import make_model, make_single, target_images, training_features
from choosing import choose_sources
from runs import Outcome
from settings import Settings
from train import eval_transform, make_trainer
from transformers import TrainerCallback, set_seed
from transformers.trainer_utils import SaveStrategy

from medmerge_hf import MedMergeModel, MedMergeTrainer
from medmerge_hf.baselines import collapse_to, freeze_backbone, regmean_sources, scramble_sources, slerp_sources
from medmerge_hf.comparison import BEST_FORM, CONTROL, NOISE
from medmerge_hf.data import ImageDataset
from medmerge_hf.metrics import sigmoid, softmax
from medmerge_hf.normalization import recalibrate_batch_norm
from medmerge_hf.ranking import rank
from medmerge_hf.report import short_name
from medmerge_hf.soups import average, even, greedy_choice, learned_soup


SHARES = (0.25, 0.5, 0.75)
IMAGES = 128  # of the target, for estimates and statistics
PASSES = 2  # over the augmented training images, for statistics that nothing trains any more
SPLITS = ("validation", "test")
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
        tuned: outcomes of fine-tuning each source alone, for soups.
        stages: outcome of LP-FT, for WiSE-FT.
    """

    settings: Settings
    target: Any
    tuned: Sequence[Outcome] = ()
    stages: Outcome | None = None

    def trainer(self, model: MedMergeModel, stage: str) -> MedMergeTrainer:
        """For `merge`, `finetune`, or `both` with the epochs of both."""
        settings = self.settings
        args = copy.copy(settings.merge if stage == "merge" else settings.finetune)
        keep_best = args.load_best_model_at_end
        args.save_strategy, args.load_best_model_at_end = SaveStrategy.NO, False
        if stage == "both":
            args.num_train_epochs += settings.merge.num_train_epochs
            args.max_steps += max(settings.merge.max_steps, 0)  # -1 in both where epochs count
        set_seed(settings.run.seed)
        trainer = make_trainer(model, self.target, settings, args)
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
        **notes: Any,
    ) -> Outcome:
        """What a trained model predicts."""
        transform = eval_transform(trainer.model)
        splits = [split for split in splits if split in self.target]
        found = {split: trainer.predict(ImageDataset(self.target[split], transform)) for split in splits}
        link = sigmoid if self.target.multi_label else softmax
        probabilities = {split: link(output.predictions) for split, output in found.items()}
        labels = {split: np.asarray(output.label_ids) for split, output in found.items()}
        names = self.target.classes
        return Outcome(probabilities, labels, dict(states or {}), {**notes, "classes": names})

    def of_state(self, state: State, splits: Sequence[str] = SPLITS, **notes: Any) -> Outcome:
        """What given weights predict, BatchNorm statistics re-estimated on training images.

        They are augmented as in training: with statistics of plain ones a trained network loses about a point.
        """
        model = self.single()
        model.network.load_state_dict(state)
        trainer = self.trainer(model, "finetune")
        recalibrate_batch_norm(model, (batch for _ in range(PASSES) for batch in trainer.get_train_dataloader()))
        return self.outcome(trainer, splits=splits, **notes)

    def validation_of(self, state: State) -> float:
        """Macro F1 of given weights on validation."""
        return validation_f1(self.of_state(state, splits=("validation",)))

    def single(self) -> MedMergeModel:
        """The first source with a new head."""
        set_seed(self.settings.run.seed)
        return make_single(self.settings.source.sources[0], self.settings, self.target)

    def merging(self, **options: Any) -> MedMergeModel:
        """The sources attached, with other options of theirs."""
        set_seed(self.settings.run.seed)
        source = dataclasses.replace(self.settings.source, **options)
        return make_model(dataclasses.replace(self.settings, source=source), self.target)


def weights_of(model: MedMergeModel) -> State:
    """A copy of a collapsed model's network."""
    return {name: tensor.detach().clone() for name, tensor in model.network.state_dict().items()}


# Of each source alone


def fine_tuned(job: Job) -> Outcome:
    """Everything from the first step on."""
    trainer = job.trainer(job.single(), "both")
    trainer.train()
    return job.outcome(trainer, {"end": weights_of(trainer.model)})


def lp_ft(job: Job) -> Outcome:
    """The head first (Kumar et al., arXiv 2202.10054)."""
    model = job.single()
    trainer = job.trainer(freeze_backbone(model), "merge")
    trainer.train()
    probed = weights_of(model)
    trainer = job.trainer(freeze_backbone(model, False), "finetune")
    trainer.train()
    return job.outcome(trainer, {"start": probed, "end": weights_of(model)})


def reestimated(job: Job) -> Outcome:
    """LP-FT with BatchNorm statistics re-estimated in between, as a merge has them at its collapse."""
    stages: Any = job.stages
    model = job.single()
    model.network.load_state_dict(stages.states["start"])
    recalibrate_batch_norm(model.network, job.images(model))
    return _train(job, model, "finetune")


def wise_ft(job: Job) -> Outcome:
    """Between the linear probe and LP-FT's end, where validation is best (Wortsman et al., arXiv 2109.01903)."""
    stages: Any = job.stages
    start, end = stages.states["start"], stages.states["end"]
    states = {share: average([start, end], [1 - share, share]) for share in SHARES}
    found = {share: job.validation_of(state) for share, state in states.items()}
    best = max(found, key=lambda share: found[share])
    return job.of_state(states[best], share=best) if found[best] >= validation_f1(stages) else stages


def promise(job: Job) -> Outcome:
    """What a source promises before anything is trained ([`ranking`]); its features are kept to be compared."""
    model = job.single()
    features, labels = training_features(model, job.target, job.settings.run.seed)
    return Outcome({}, {}, {"features": {"train": torch.from_numpy(features).float()}}, rank(features, labels))


def validation_f1(outcome: Outcome) -> float:
    """Macro F1 on validation."""
    return outcome.scores("validation")["macro_f1"]


# Of all sources


def _train(job: Job, model: MedMergeModel, stage: str = "both") -> Outcome:
    trainer = job.trainer(model, stage)
    trainer.train()
    return job.outcome(trainer)


def _average(job: Job, **options: Any) -> Outcome:
    model = job.merging(**options)
    return _train(job, model.collapse(job.images(model)))


def uniform_average(job: Job) -> Outcome:
    """The mean of the sources, then fine-tuned."""
    return _average(job, init=[1 / len(job.settings.source.sources)])


def aligned_average(job: Job) -> Outcome:
    """The mean of the aligned sources, statistics re-estimated (REPAIR, arXiv 2211.08403), then fine-tuned."""
    return _average(job, init=[1 / len(job.settings.source.sources)], align="activations")


def fisher(job: Job) -> Outcome:
    """Fisher merging (arXiv 2111.09832), then fine-tuned."""
    return _average(job, granularity="element", estimate="fisher")


def spherical(job: Job) -> Outcome:
    """SLERP of two sources, then fine-tuned."""
    model = job.merging()
    return _train(job, collapse_to(model, slerp_sources(model), job.images(model)))


def regmean(job: Job) -> Outcome:
    """RegMean (arXiv 2212.09849), then fine-tuned."""
    model = job.merging()
    images = job.images(model)
    return _train(job, collapse_to(model, regmean_sources(model, images), images))


def _soup_states(job: Job) -> list[State]:
    return [outcome.states["end"] for outcome in job.tuned]


def uniform_soup(job: Job) -> Outcome:
    """The mean of the fine-tuned sources (arXiv 2203.05482)."""
    states = _soup_states(job)
    return job.of_state(average(states, even(states)))


def greedy(job: Job) -> Outcome:
    """The greedy soup of the fine-tuned sources; the best of them as it is, where no other is taken in."""
    states, scores = _soup_states(job), [validation_f1(outcome) for outcome in job.tuned]
    chosen = greedy_choice(states, scores, job.validation_of)
    if len(chosen) == 1:
        return job.tuned[chosen[0]]
    return job.of_state(average([states[place] for place in chosen], even(chosen)))


def learned(job: Job) -> Outcome:
    """The soup with a learned share a layer."""
    model = job.single()
    transform = eval_transform(model)
    rows = [ImageDataset(job.target["validation"], transform)[i] for i in range(len(job.target["validation"]))]
    images, labels = torch.stack([row["pixel_values"] for row in rows]), torch.tensor([r["labels"] for r in rows])
    return job.of_state(learned_soup(model.network, _soup_states(job), images, labels))


def ensemble(job: Job) -> Outcome:
    """The mean prediction of the fine-tuned sources: S networks to run, an upper reference."""
    first = job.tuned[0]
    probabilities = {
        split: np.mean([outcome.probabilities[split] for outcome in job.tuned], axis=0) for split in first.labels
    }
    return Outcome(probabilities, first.labels, notes={"classes": first.notes["classes"]})


def medmerge(job: Job, learned: bool = True, scrambled: bool = False) -> Outcome:
    """The merge as the settings have it: kernel weights and head learn, then everything."""
    job = dataclasses.replace(job, settings=choose_sources(job.settings, job.target))
    model = job.merging()
    if scrambled:
        scramble_sources(model, job.settings.run.seed)
    model.merge.source_bias.requires_grad_(learned)  # type: ignore[union-attr]
    trainer = job.trainer(model, "merge")
    trainer.train()
    trainer.collapse()
    depth = by_depth(model)
    middle = job.outcome(trainer)
    trainer = job.trainer(model, "finetune")
    trainer.train()
    merged = {split: middle.scores(split)["macro_f1"] for split in middle.labels}
    return job.outcome(trainer, depth=depth, merged=merged)


def unmerged(job: Job) -> Outcome:
    """What the merge does beside merging: the anchor's head first, new statistics, then everything."""
    return medmerge(job, learned=False)


def of_noise(job: Job) -> Outcome:
    """The merge with noise in the place of the other sources: what so many weights gain that know nothing."""
    return medmerge(job, scrambled=True)


def medmerge_tuned(job: Job, learned: bool = True) -> Outcome:
    """The merge of the fine-tuned sources, aligned, beginning with the best of them, which stays if it is the better.

    It costs what a soup or the ensemble costs, every source fine-tuned, and a merge stage; nothing follows.
    """
    order = sorted(range(len(job.tuned)), key=lambda place: -validation_f1(job.tuned[place]))
    states = [job.tuned[place].states["end"] for place in order]
    sources = []
    for state in states:
        alone = job.single()
        alone.network.load_state_dict(state)
        sources.append(getattr(alone.network, "timm_model", alone.network))
    model = job.merging(sources=sources, align="activations", keep_best=None)
    model.network.load_state_dict(states[0])  # the head of the best, too
    model.merge.source_bias.requires_grad_(learned)  # type: ignore[union-attr]
    trainer = job.trainer(model, "merge")
    trainer.args.eval_on_start = True
    trainer.train()
    depth = by_depth(model)
    trainer.collapse()
    return max([job.tuned[order[0]], job.outcome(trainer, depth=depth)], key=validation_f1)


def longer(job: Job) -> Outcome:
    """What the merge of fine-tuned sources does beside merging: the best one's head trained on, new statistics."""
    return medmerge_tuned(job, learned=False)


def by_depth(model: MedMergeModel) -> dict[str, dict[str, float]]:
    """Stage of the network -> source -> root mean square weight over the stage's kernels."""
    table = model.source_shares()
    table = table.assign(stage=table["stage"].astype(str), source=table["source"].astype(str))
    found: dict[str, dict[str, float]] = {}
    for (stage, source), rows in table.groupby(["stage", "source"], sort=False):
        mean_square = float(np.average(rows["size"] ** 2, weights=rows["kernels"]))
        found.setdefault(stage, {})[short_name(source)] = mean_square**0.5
    return found


EACH: dict[str, Callable[[Job], Outcome]] = {
    "fine-tuned": fine_tuned,
    "LP-FT": lp_ft,
    "LP-FT re-estimated": reestimated,
    "WiSE-FT": wise_ft,
}
RANKING = "ranking"
USUAL = ("fine-tuned", "LP-FT")
ALL: dict[str, Callable[[Job], Outcome]] = {
    "uniform average": uniform_average,
    "SLERP": spherical,
    "Fisher": fisher,
    "RegMean": regmean,
    "aligned average": aligned_average,
    "uniform soup": uniform_soup,
    "greedy soup": greedy,
    "learned soup": learned,
    "ensemble": ensemble,
    "fine-tuned longer": longer,
    "MedMerge (paper)": medmerge,
    BEST_FORM: medmerge,
    "MedMerge of fine-tuned": medmerge_tuned,
    CONTROL: unmerged,
    NOISE: of_noise,
}
AS_BEST = (BEST_FORM, CONTROL, NOISE)  # take the options of the config's `best`
AFTER_LP_FT = ("LP-FT re-estimated", "WiSE-FT")
AFTER_FINE_TUNING = (
    "uniform soup",
    "greedy soup",
    "learned soup",
    "ensemble",
    "fine-tuned longer",
    "MedMerge of fine-tuned",
)
