"""Kill a run of train.py again and again, resume it, and compare it with one that was not killed.

    python kill_points.py CONFIG.yaml FOLDER COUNT [--clock]

A process of its own: it imports everything once and forks a child for each run, which is only safe as long as it has
not computed anything itself.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import matplotlib.figure  # noqa: F401  (or every child imports it)
import torch
from safetensors.torch import load_file

from medmerge_hf.runs.train import main
from medmerge_hf.training.checkpoints import last_checkpoint


def run_in_child(config, out, kill_at_write=None):
    """Start a run in a forked process; it kills itself when it opens its n-th file to write. Returns its pid."""
    child = os.fork()
    if child:
        return child
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(str(out) + ".log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    writes = 0

    def count(event, args):
        nonlocal writes
        if event == "open" and str(out) in str(args[0]) and args[2] & (os.O_WRONLY | os.O_RDWR):
            writes += 1
            if writes == kill_at_write:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    status = 1
    try:
        main([str(config), "--output_dir", str(out)])
        Path(f"{out}.writes").write_text(str(writes))
        status = 0
    finally:
        os._exit(status)


def ended(child, seconds=None):
    """Exit status of a child, or None where it was killed: by itself, or after some seconds."""
    deadline = time.monotonic() + (seconds if seconds is not None else 300)
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else None
        time.sleep(0.01)
    assert seconds is not None, "the run hangs"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def outcome(out):
    """All that must be the same: every tensor of the export, optimizer states, figures."""
    figures = json.loads((out / "all_results.json").read_text())
    found = {key: value for key, value in figures.items() if "runtime" not in key and "time" not in key}
    for name in ("model.safetensors", "medmerge/state.safetensors"):
        found |= {f"{name}: {key}": tensor.tolist() for key, tensor in load_file(out / name).items()}
    for stage in ("merge", "finetune"):
        last = last_checkpoint(out / stage)
        state = torch.load(last / "optimizer.pt", weights_only=True)["state"]
        found |= {f"{stage} {index} {key}": t.tolist() for index, s in state.items() for key, t in s.items()}
        found[stage] = last.name
    record = json.loads((out / "medmerge" / "config.json").read_text())["record"]
    found["page"] = (out / "report.html").read_text().replace(out.name, "")
    return {**found, "results": record["results"], "training": record["training"]}


def kill_points(config, tmp_path, count, clock, seed=0):
    """Kill a run at random writes (with `clock` at random moments too), resume it, compare; how many were equal."""
    start = time.monotonic()
    assert ended(run_in_child(config, tmp_path / "whole")) == 0, (tmp_path / "whole.log").read_text()[-2000:]
    duration, expected = time.monotonic() - start, outcome(tmp_path / "whole")
    writes, rng = int((tmp_path / "whole.writes").read_text()), random.Random(seed)
    equal = killed = tries = 0
    while killed < count:
        tries += 1
        out = tmp_path / f"killed{tries}"
        if clock and tries % 2:
            first = ended(run_in_child(config, out), seconds=rng.uniform(0, duration))
        else:
            first = ended(run_in_child(config, out, kill_at_write=rng.randint(1, writes)))
        if first is not None:
            continue  # it was faster than the clock
        killed += 1
        assert ended(run_in_child(config, out)) == 0, (tmp_path / f"killed{tries}.log").read_text()[-2000:]
        equal += outcome(out) == expected
        shutil.rmtree(out)
    return equal


if __name__ == "__main__":
    config, folder, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    equal = kill_points(config, folder, count, clock="--clock" in sys.argv)
    print(f"{count} runs killed and resumed: {equal} equal to the run that was not killed")
