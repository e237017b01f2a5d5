import subprocess
import sys

import pytest

from medmerge_hf.evaluation.page import render_page
from medmerge_hf.export.staging import export_files, hidden_folder, staged_directory


WRITER = """
import sys, time
from medmerge_hf.export.staging import staged_directory
with staged_directory(sys.argv[1]) as folder:
    (folder / "config.json").write_text("theirs")
    print("begun", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def writer(tmp_path):
    """Start another process that is about to write an export to `out [1]`."""
    started = []

    def start():
        command = [sys.executable, "-c", WRITER, str(tmp_path / "out [1]")]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline() == "begun\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def write(destination, text="ours"):
    with staged_directory(destination) as folder:
        (folder / "config.json").write_text(text)


def test_a_new_folder_appears_only_when_complete(tmp_path):
    with staged_directory(tmp_path / "new") as folder:
        (folder / "file").write_text("x")
        assert not (tmp_path / "new").exists()
    assert (tmp_path / "new" / "file").read_text() == "x"
    assert (tmp_path / "new").stat().st_mode & 0o700 == 0o700
    assert [file.name for file in tmp_path.iterdir()] == ["new"]


def test_what_a_killed_process_left_goes(writer, tmp_path):
    process = writer()
    process.kill()
    process.wait()
    assert len(list(tmp_path.iterdir())) == 2
    write(tmp_path / "out [1]")
    assert [file.name for file in tmp_path.iterdir()] == ["out [1]"]


def test_what_another_process_is_writing_stays(writer, tmp_path):
    process = writer()
    write(tmp_path / "out [1]")
    assert (tmp_path / "out [1]" / "config.json").read_text() == "ours"
    process.communicate("\n")
    assert process.returncode == 0
    assert (tmp_path / "out [1]" / "config.json").read_text() == "theirs"
    assert [file.name for file in tmp_path.iterdir()] == ["out [1]"]


def test_what_this_process_is_writing_stays(tmp_path):
    folder, remove = hidden_folder(tmp_path / "out")
    write(tmp_path / "out")
    assert folder.is_dir()
    remove()
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_folders_of_others_that_look_alike_stay(tmp_path):
    names = [".out-abcdefgh", ".out-abcdefgh.staging.old", ".output-abcdefgh.staging", ".out-abc.staging"]
    for name in names:
        (tmp_path / name).mkdir()
    write(tmp_path / "out")
    assert {file.name for file in tmp_path.iterdir()} == {"out", *names}


def test_an_existing_folder_is_staged_inside_it_since_it_may_be_a_mount_point(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with staged_directory(tmp_path) as folder:
        assert folder.parent == tmp_path
        (folder / "config.json").write_text("x")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "notes.txt"]


@pytest.mark.parametrize("ours", [True, False])
def test_the_page_of_an_earlier_run_goes_and_a_report_of_the_users_stays(tmp_path, ours):
    html = render_page("x", []) if ours else "<h1>mine</h1>"
    write(tmp_path)
    (tmp_path / "report.html").write_text(html)
    assert ("report.html" in export_files(tmp_path)) == ours
    write(tmp_path, "newer")
    assert (tmp_path / "report.html").is_file() != ours
