"""TorchScript: a zip of tensors and of code. It is not a source; its tensors can be taken out."""

from ...errors import UnsafePickleError
from ..place import Place, advice
from ..reference import LoadedSource, SourceReference
from .registry import reader


def _is_torchscript(place: Place) -> bool:
    return place.has("constants.pkl") and place.has("data.pkl")


@reader("TorchScript", _is_torchscript)
def read_torchscript(place: Place, reference: SourceReference, weights: bool = True) -> LoadedSource:
    """Refuse it: torch's own reader runs what the file brings along."""
    raise UnsafePickleError(
        f"Source {str(place.path)!r} is a TorchScript archive (torch.jit.save): a network with its code, which "
        f"torch's own reader would run. {advice(place.path)}"
    )
