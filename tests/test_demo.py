import demo
import matplotlib.image
import numpy as np
import pytest
from phantoms import TASKS, write_task


def test_its_figure_and_table_show_every_method(tmp_path):
    for task in TASKS:
        write_task(task, tmp_path / task, {"train": 1})
    scores = {name: {"merged": [0.3, 0.4], "fine-tuned": [0.5, 0.6]} for name in ("cells alone", "MedMerge")}
    demo.draw_figure(scores, tmp_path, tmp_path / "demo.png")
    assert np.ptp(matplotlib.image.imread(tmp_path / "demo.png")[..., :3]) > 0.5
    assert "0.350 ± 0.071" in demo.table(scores)


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(SystemExit, match="no folder of an earlier demo"):
        demo.main([str(tmp_path)])
    assert (tmp_path / "thesis.tex").exists()


@pytest.mark.slow
def test_it_runs_to_its_end(tmp_path, monkeypatch, capsys):
    stage = {"max_steps": 2, "use_cpu": True, "disable_tqdm": True}
    monkeypatch.setattr(demo, "SEEDS", (0,))
    monkeypatch.setattr(demo, "OPTIONS", {"image_size": 32, "merge": stage, "finetune": stage})
    demo.main([str(tmp_path / "demo")])
    printed = capsys.readouterr().out
    assert "MedMerge" in printed
    assert "logits differ by" in printed
    assert (tmp_path / "demo" / "demo.png").is_file()
