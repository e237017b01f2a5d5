"""A page to try the network on. Start it by `python app.py`, after `pip install -r requirements.txt`."""

import functools
from pathlib import Path

import gradio as gr
import matplotlib
import numpy as np
from classifier import HERE, Classifier, load_classifier
from reading.errors import DataError


MOST = "the most probable class"

FIGURE = "medmerge/kernel_weights.png"

WAITING = "Choose a file, or one of the examples."

# Seconds that a file which somebody uploaded is kept.
KEPT = 3600

# Code wraps, since a box that scrolls is out of reach of the keyboard; words in tables stay whole.
CSS = """
#card pre, #card pre code { white-space: pre-wrap !important; overflow-wrap: anywhere; }
#card th, #card td { word-break: normal; overflow-wrap: break-word; padding: 4px 6px; font-size: 0.85em; }
@media (max-width: 768px) { #card { max-height: none !important; overflow-x: auto; } }
#file .or, footer a, footer button { color: var(--body-text-color) !important; }
"""

# For those who listen or have no mouse: examples get names, the box for files is called what it shows, a text that has
# changed is read out, the card can be scrolled. Gradio draws the box anew whenever the file changes.
ACCESS = """() => setTimeout(() => {
    document.getElementById("answer").setAttribute("aria-live", "polite");
    document.querySelector("#file button[aria-dropeffect]")?.removeAttribute("aria-label");
    document.querySelectorAll("#examples button").forEach((button, index) => {
        button.setAttribute("aria-label", `Example ${index + 1}`);
    });
    const card = document.getElementById("card");
    card.tabIndex = 0;
    card.setAttribute("role", "region");
    card.setAttribute("aria-label", "Model card");
}, 100)"""


def overlay(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A picture with a heat map over it.

    Args:
        picture: `[H, W, 3]`, 0 to 1.
        heat: `[H, W]`, 0 to 1; where it is 0 the picture stays as it is.

    Returns:
        `[H, W, 3]`, 0 to 1.
    """
    strength = 0.65 * heat[..., None]
    return picture * (1 - strength) + matplotlib.colormaps["inferno"](heat)[..., :3] * strength


def as_image(picture: np.ndarray) -> np.ndarray:
    """8 bits, and large enough to be looked at."""
    factor = max(1, 256 // max(picture.shape[:2]))
    return np.rint(picture * 255).astype(np.uint8).repeat(factor, 0).repeat(factor, 1)


def answer(classifier: Classifier, path: str | None, chosen: str) -> tuple[str, gr.Label, gr.Image, gr.Image, str]:
    """What the page shows of a file.

    Args:
        classifier: of the Space.
        path: of the file; `None` where there is none.
        chosen: class of the heat map, or [`MOST`].

    Returns:
        Text, probabilities, what the network saw, its heat map, and what the heat map says.
    """
    nothing = gr.Label(None, visible=False), gr.Image(None, visible=False), gr.Image(None, visible=False), ""
    if path is None:
        return WAITING, *nothing
    try:
        seen = classifier(classifier.read(path))
    except DataError as error:
        return f"**Nothing was classified.** {error}", *nothing
    best = max(seen.probabilities, key=seen.probabilities.__getitem__)
    name = best if chosen == MOST else chosen
    heat = classifier.where(seen, name)
    text = classifier.in_words(seen.probabilities)
    shown = gr.Label(seen.probabilities, visible=True), gr.Image(as_image(seen.picture), visible=True)
    if heat is None:
        return text, *shown, gr.Image(None, visible=False), f"No place of the image raises {name}: no heat map."
    told = (
        f"Yellow: the places that raise the score of **{name}** most (Grad-CAM at `{classifier.heat_map.layer}`). It "
        "shows where the network looked, neither why nor whether it is right."
    )
    drawn = gr.Image(as_image(overlay(seen.picture, heat)), visible=True, alt_text=f"Heat map of {name}")
    return text, *shown, drawn, told


def card_of(classifier: Classifier) -> str:
    """The model card without its header, its picture served by this page."""
    text = (HERE / "model" / "README.md").read_text()
    text = text.split("\n---\n", 1)[-1] if text.startswith("---\n") else text
    text = text.replace("```python", "```")  # colours of code are too pale to be read
    return text.replace(f"]({FIGURE})", f"](/gradio_api/file={HERE / 'model' / FIGURE})")


def page(classifier: Classifier) -> gr.Blocks:
    """The page.

    Args:
        classifier: of the Space.

    Returns:
        What `launch` starts.
    """
    title, names = classifier.settings["title"], ", ".join(classifier.names)
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(KEPT, KEPT)) as blocks:
        gr.Markdown(
            f"# {title}: try it\n\nGive it an image, and see how probable it finds {names}, and where it looked. For "
            "research; no medical device."
        )
        with gr.Row():
            with gr.Column(scale=3):
                upload = gr.File(label="Image or DICOM file", elem_id="file")
                add_examples(upload)
                chosen = gr.Dropdown([MOST, *classifier.names], value=MOST, label="Heat map for")
                shown = add_answer()
            with gr.Column(scale=2):
                gr.Markdown(card_of(classifier), max_height=900, elem_id="card")
        gr.on([blocks.load, upload.change], js=ACCESS)
        changes, inputs = [upload.change, chosen.change], [upload, chosen]
        gr.on(changes, functools.partial(answer, classifier), inputs, shown, api_name="classify")
    return blocks


def add_examples(upload: gr.File) -> None:
    """Pictures that put a file in the place of an uploaded one."""
    files = sorted((HERE / "examples").glob("*.png"), key=lambda file: (len(file.stem), file))
    if files:
        layout = {"components": [gr.Image(visible=False)], "samples_per_page": len(files)}
        samples = [[str(file)] for file in files]
        examples = gr.Dataset(samples=samples, label="Examples", elem_id="examples", **layout)
        examples.click(lambda sample: sample[0], examples, upload, api_visibility="private")


def add_answer() -> list[gr.Component]:
    """The parts of the page that [`answer`] fills."""
    text = gr.Markdown(WAITING, elem_id="answer")
    label = gr.Label(label="Probability of each class", visible=False, show_heading=False)
    with gr.Row():
        name, buttons = "What the network saw", ["download", "fullscreen"]
        seen = gr.Image(label=name, alt_text=name, buttons=buttons, visible=False)
        heat = gr.Image(label="Heat map", buttons=buttons, visible=False)
    return [text, label, seen, heat, gr.Markdown()]


if __name__ == "__main__":
    gr.set_static_paths([Path(HERE, "model", FIGURE)])
    links = ["gradio", "settings"]
    page(load_classifier()).launch(css=CSS, max_file_size="100mb", run_history=False, footer_links=links)
