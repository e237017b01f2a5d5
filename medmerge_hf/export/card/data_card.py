"""What the model card says of the target data: images by class, what was left out, how pixels were scaled."""

from collections.abc import Iterable, Mapping
from typing import Any


SPLITS = ("train", "validation", "test")


def in_order(found: Iterable[str], order: Iterable[str]) -> list[str]:
    """Names in their natural order: a config that was saved is sorted by the alphabet.

    Args:
        found: in any order.
        order: those that are known; others follow.
    """
    order = list(order)
    return sorted(found, key=lambda name: order.index(name) if name in order else len(order))


def page(name: str, kind: str = "") -> str:
    """A link to a repository of the Hub.

    Args:
        name: its id.
        kind: `datasets/`, or nothing for a model.
    """
    from huggingface_hub.constants import ENDPOINT

    return f"[{name}]({ENDPOINT}/{kind}{name})"


def data_line(data: Mapping[str, Any]) -> str:
    """Which data set it is.

    Args:
        data: of [`record_data`], as all below.
    """
    if data.get("hub_id"):
        revision = f" at `{data['revision'][:12]}`" if data.get("revision") else ""
        return f"Data set: {page(data['hub_id'], 'datasets/')}{revision}. Images by class:"
    return f"Data set: {data.get('name') or 'not named'} (not on the Hub). Images by class:"


def unlabelled_lines(data: Mapping[str, Any]) -> list[str]:
    """Which images were used without a label."""
    pool = data.get("unlabelled")
    if not pool:
        return []
    where = pool["from"] or ""
    name, _, revision = where.partition("@") if "/" in where else ("", "", "")
    place = f"{page(name, 'datasets/')}{f' at `{revision[:12]}`' if revision else ''}" if name else where
    told = f", some of them from {place}" if place else ""
    return [f"{pool['images']} images were used without a label{told}: none of them stands in validation or test"]


def left_out_lines(data: Mapping[str, Any]) -> list[str]:
    """What lay there and was not used, a line a reason."""
    return [f"{count} left out: {reason}" for reason, count in sorted(data.get("left_out", {}).items())]


def pixel_lines(data: Mapping[str, Any]) -> list[str]:
    """How pixel values became those that the image processor is given; who uses the model has to do the same."""
    rule = data.get("pixel_rule") or {}
    lines = []
    if count := rule.get("deep_images"):
        ends = f"{rule['black']:g} is black and {rule['white']:g} is white"
        lines.append(f"{count} images of more than 8 bits a channel were scaled to 8, so that {ends}")
    if count := rule.get("dicom_images"):
        window = rule["dicom_window"]
        told = window if isinstance(window, str) else f"of centre {window[0]:g} and width {window[1]:g}"
        lines.append(f"{count} images are DICOM, seen through the window {told}")
    if count := rule.get("dicom_unwindowed"):
        low, high = rule["dicom_ends"]
        lines.append(f"{count} of them have no window of their own: there {low:g} is black and {high:g} is white")
    return lines
