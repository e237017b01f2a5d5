"""Synthetic imaging tasks, drawn: for demonstrations and tests without downloads. They are no medical images.

Three tasks of three classes each, 64 px:
  vessels      a round fundus with branching vessels; lesions: none, small dark dots, bright patches
  cells        a stained smear with one white cell; nucleus: round, two lobes, several lobes
  projections  a grey projection of two lungs; finding: none, a nodule, diffuse haze
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter


SIZE = 64

Random = np.random.Generator


def _noise(image: Image.Image, random: Random, strength: float) -> Image.Image:
    pixels = np.asarray(image, dtype=np.float32) * random.uniform(0.85, 1.15)
    pixels += random.normal(0, strength, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8), image.mode)


def _dot(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: tuple[int, ...] | int) -> None:
    draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)


def _vessel(draw: ImageDraw.ImageDraw, random: Random, x: float, y: float, angle: float, width: float) -> None:
    while width > 0.6 and np.hypot(x - SIZE / 2, y - SIZE / 2) < SIZE * 0.42:
        step = random.uniform(3, 6)
        x2, y2 = x + step * np.cos(angle), y + step * np.sin(angle)
        draw.line([x, y, x2, y2], fill=(120, 35, 25), width=max(1, round(width)))
        x, y, angle, width = x2, y2, angle + random.normal(0, 0.25), width * 0.93
        if random.random() < 0.15:
            _vessel(draw, random, x, y, angle + random.choice([-0.7, 0.7]), width * 0.7)


def vessels(random: Random, label: int) -> Image.Image:
    """A fundus: no lesion, dark dots, or bright patches."""
    image = Image.new("RGB", (SIZE, SIZE), (8, 5, 5))
    draw = ImageDraw.Draw(image)
    _dot(
        draw,
        SIZE / 2,
        SIZE / 2,
        SIZE * 0.46,
        (190 + int(random.integers(-20, 20)), 90 + int(random.integers(-15, 15)), 50),
    )
    disc_x, disc_y = SIZE * random.uniform(0.2, 0.35), SIZE * random.uniform(0.42, 0.58)
    for angle in random.uniform(-0.3, 0.3, 4) + np.array([-1.2, -0.5, 0.5, 1.2]):
        _vessel(draw, random, disc_x, disc_y, angle, random.uniform(1.6, 2.6))
    _dot(draw, disc_x, disc_y, 4.5, (250, 215, 150))
    for _ in range(int(random.integers(4, 9)) if label else 0):
        x, y = SIZE * random.uniform(0.25, 0.8, 2)
        radius, colour = (
            (random.uniform(0.8, 1.4), (100, 20, 18)) if label == 1 else (random.uniform(1.2, 2.4), (245, 225, 130))
        )
        _dot(draw, x, y, radius, colour)
    return _noise(image.filter(ImageFilter.GaussianBlur(0.6)), random, 7)


def cells(random: Random, label: int) -> Image.Image:
    """A white cell among red ones: nucleus round, of two lobes, or of several."""
    image = Image.new("RGB", (SIZE, SIZE), (235, 225, 215))
    draw = ImageDraw.Draw(image)
    for x, y in random.uniform(0, SIZE, (int(random.integers(6, 14)), 2)):
        _dot(draw, x, y, random.uniform(6, 8), (225, 165 + int(random.integers(-10, 10)), 160))
    x, y = random.uniform(SIZE * 0.38, SIZE * 0.62, 2)
    _dot(draw, x, y, random.uniform(14, 18), (200, 190, 215))
    lobes = (1, 2, int(random.integers(3, 6)))[label]
    start = random.uniform(0, 2 * np.pi)
    for lobe in range(lobes):
        angle, away = start + 2 * np.pi * lobe / lobes, 0 if lobes == 1 else 6.5
        radius = random.uniform(7, 9) if lobes == 1 else random.uniform(3.5, 5)
        _dot(draw, x + away * np.cos(angle), y + away * np.sin(angle), radius, (95, 50, 140))
    return _noise(image.filter(ImageFilter.GaussianBlur(0.7)), random, 6)


def projections(random: Random, label: int) -> Image.Image:
    """Two lungs between bright tissue: clear, with a nodule, or hazy on one side."""
    image = Image.new("L", (SIZE, SIZE), 165 + int(random.integers(-15, 15)))
    draw = ImageDraw.Draw(image)
    lungs = [(SIZE * 0.3, SIZE * 0.5), (SIZE * 0.7, SIZE * 0.5)]
    for x, y in lungs:
        w, h = SIZE * random.uniform(0.13, 0.17), SIZE * random.uniform(0.28, 0.34)
        draw.ellipse([x - w, y - h, x + w, y + h], fill=60)
    for rib in np.arange(SIZE * 0.2, SIZE * 0.85, random.uniform(6, 8)):
        for x, _ in lungs:
            draw.arc([x - 14, rib - 4, x + 14, rib + 8], 180, 360, fill=105, width=1)
    x, y = lungs[int(random.integers(2))]
    x, y = x + random.uniform(-5, 5), y + random.uniform(-12, 12)
    if label == 1:
        _dot(draw, x, y, random.uniform(2.5, 4), 175)
    for _ in range(40 if label == 2 else 0):
        _dot(
            draw,
            x + random.normal(0, 5),
            y + random.normal(0, 7),
            random.uniform(0.8, 1.8),
            int(random.integers(100, 150)),
        )
    return _noise(image.filter(ImageFilter.GaussianBlur(0.8)), random, 9)


TASKS: dict[str, tuple[Callable[[Random, int], Image.Image], tuple[str, ...]]] = {
    "vessels": (vessels, ("clear", "dots", "patches")),
    "cells": (cells, ("round", "two_lobes", "many_lobes")),
    "projections": (projections, ("clear", "nodule", "haze")),
}


def write_task(task: str, folder: Path, images: dict[str, int], seed: int = 0) -> Path:
    """Draw a task as an imagefolder.

    Args:
        task: a key of `TASKS`.
        folder: receives `split/class/number.png`.
        images: split -> images a class.
        seed: of everything drawn.

    Returns:
        The folder.
    """
    draw, classes = TASKS[task]
    random = np.random.default_rng([seed, *task.encode()])
    for split, count in images.items():
        for label, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                draw(random, label).save(folder / split / name / f"{index:04}.png")
    return folder
