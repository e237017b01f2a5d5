"""Every error that this package raises on purpose.

Each is a [`MedMergeError`], which is also a `ValueError`, so that code written for transformers and timm catches it.
"""


class MedMergeError(ValueError):
    """Base of all errors of this package."""


class SettingsError(MedMergeError):
    """A setting is out of range, or settings contradict each other."""


class SourceError(MedMergeError):
    """A source cannot be used. Base of the errors below that name one source."""


class SourceNotFoundError(SourceError):
    """No file, folder, timm network or Hub repository answers to this reference."""


class CorruptSourceError(SourceError):
    """A checkpoint file is truncated, is of another format, or holds no tensors."""


class UnsafePickleError(SourceError):
    """A pickle would have to execute code to be loaded."""


class NonFiniteSourceError(SourceError):
    """A source holds NaN or infinity."""


class ArchitectureMismatchError(SourceError):
    """A source is not the anchor's architecture: tensors are missing, left over or of another shape."""


class TooFewSourcesError(SourceError):
    """A merge needs an anchor and at least one other source."""


class DuplicateSourceError(SourceError):
    """Two sources hold the same weights, so there is nothing to learn between them."""


class ChangedSourceError(SourceError):
    """A source loaded again is not the one that was merged (sha256 of its weights differs)."""


class AlignmentError(MedMergeError):
    """A network cannot be traced, or a permuted source would compute something else."""


class PreprocessingError(MedMergeError):
    """Training, evaluation and the export would not see the same pixels of an image."""


class StateError(MedMergeError):
    """The model is not in the state (merging or collapsed) that the call needs."""


class CheckpointError(MedMergeError):
    """A checkpoint cannot be resumed from."""


class DataError(MedMergeError):
    """The target data set cannot be trained on: no labels, unreadable images, empty classes, ..."""


class ExportError(MedMergeError):
    """An export did not survive the check that precedes every save."""


class OutputDirError(MedMergeError):
    """The output folder holds something that this run must not overwrite."""
