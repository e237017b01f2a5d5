"""`method: auto`: every source fine-tuned, weighed on images that none has seen, and taught to one merged network.

The images without labels of the target teach as well. What comes out is the merge, unless the best source alone tells
the held-out images better by more than chance.
"""

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate.state import PartialState
from transformers import set_seed

from ..evaluation.ensemble import HeldOut, clearly_worse
from ..export.card.record import record_choice, record_data
from ..modeling_medmerge import MedMergeModel
from ..sources.reference import stated_name
from ..training.checkpoints import last_checkpoint
from .build import make_single, with_sources
from .history import keep_history
from .rank import rank_target
from .run_folder import write_json
from .settings import Settings
from .stages import evaluate, make_trainer, merge_and_finetune, whole_arguments
from .teachers import held_out, shares_of, teachers_of


logger = logging.getLogger(__name__)

STUDENT = "taught merge"

EXPORT, DONE = "export", "results.json"


@dataclasses.dataclass(eq=False)
class Candidate:
    """A network that may be exported.

    Attributes:
        name: of the source that it is, or of the merge.
        model: trained.
        figures: on validation and test.
        seen: what it says of the validation images.
    """

    name: str
    model: MedMergeModel
    figures: dict[str, float]
    seen: HeldOut


def auto(target: Any, settings: Settings, resume: bool = False) -> tuple[MedMergeModel, dict[str, float]]:
    """The best single network of these sources, labels and images without labels.

    Args:
        target: the data set.
        settings: of the run; both stages of the merge together, and each source alone, take the same number of steps.
        resume: go on from what a killed run left in the output folder.

    Returns:
        The model that is exported, and its figures; those of the others after their names.
    """
    ranking = rank_target(settings, target)
    logger.info("%s", ranking.to_markdown())
    alone = [_alone(place, target, settings, resume) for place in range(len(settings.source.sources))]
    best = min(alone, key=lambda one: one.seen.loss)
    own = anchored(settings, alone.index(best))
    shares = shares_of([one.seen for one in alone])
    teachers = teachers_of([one.model for one in alone], shares)
    model, figures = merge_and_finetune(target, own, settings.run.resamples, resume, teachers)
    student = Candidate(STUDENT, model, figures, held_out(model, target, settings))
    chosen = best if clearly_worse(student.seen.truths, best.seen.truths) else student
    weights = {one.name: float(share) for one, share in zip(alone, shares, strict=True)}
    logger.info("Weights of the teachers: %s. Exported: %s.", weights, chosen.name)
    _record(chosen, student, alone, weights, ranking.advice)
    others = [one for one in (*alone, student) if one is not chosen]
    rest = {f"{one.name}, {key}": value for one in others for key, value in one.figures.items()}
    return chosen.model, {**chosen.figures, **rest}


def _record(
    chosen: Candidate, student: Candidate, alone: Sequence[Candidate], weights: Mapping[str, float], advice: str
) -> None:
    """The figures of all candidates, and how one was chosen, stand on the card of the one that is exported."""
    candidates, config = [student, *alone], chosen.model.config
    config.record = {
        **config.record,
        "results": [row for one in candidates for row in one.model.config.record["results"]],
    }
    losses = {one.name: one.seen.loss for one in (*alone, student)}
    temperatures = {one.name: one.seen.temperature for one in (*alone, student)}
    record_choice(config, advice, losses, temperatures, weights, chosen.name)


def anchored(settings: Settings, anchor: int) -> Settings:
    """The settings with another source as the anchor, the first one.

    Args:
        settings: of the run.
        anchor: place of the source.
    """
    return with_sources(settings, sorted(range(len(settings.source.sources)), key=lambda place: place != anchor))


def _alone(place: int, target: Any, settings: Settings, resume: bool) -> Candidate:
    """A source fine-tuned as long as the merge; one that a killed run finished is read back."""
    own, source = settings.below(f"teachers/{place}"), settings.source.sources[place]
    folder = Path(own.run.output_dir)
    if not (resume and (folder / DONE).is_file()):
        _train_alone(source, target, own, resume)
    PartialState().wait_for_everyone()
    # Read back also by the run that trained it: the last bits of what weights compute depend on where they lie.
    model, figures = MedMergeModel.from_pretrained(folder / EXPORT), json.loads((folder / DONE).read_text())
    return Candidate(stated_name(source), model, figures, held_out(model, target, settings))


def _train_alone(source: Any, target: Any, settings: Settings, resume: bool) -> None:
    set_seed(settings.run.seed)
    model = make_single(source, settings, target)
    record_data(model.config, target)
    trainer = make_trainer(model, target, settings, whole_arguments(settings))
    trainer.train(resume_from_checkpoint=last_checkpoint(trainer.args.output_dir) if resume else None)
    keep_history(trainer)
    figures = evaluate(trainer, target, "finetuned", settings.run.resamples)
    if settings.finetune.should_save:
        model.save_pretrained(Path(settings.run.output_dir) / EXPORT)
        write_json(Path(settings.run.output_dir) / DONE, figures)
