import matplotlib.image
import numpy as np

from medmerge_hf.export.card.kernel_plot import plot_kernel_weights


def test_kernel_weight_picture_is_drawn(model, tmp_path):
    plot_kernel_weights(model.kernel_weights(), tmp_path / "a.png")
    pixels = matplotlib.image.imread(tmp_path / "a.png")
    assert np.ptp(pixels[..., :3]) > 0.5
