"""`wm-gym check-parity`: nothing is skipped in silence, nothing broken passes."""

import json
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from wm_gym.cli import main
from wm_gym.packed_files import read_file

DATA = Path(__file__).parents[2] / "parity" / "data"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one small known case under another name."""
    (tmp_path / "my_idm.safetensors").write_bytes(read_file(DATA / "idm.safetensors"))
    return tmp_path


def test_a_known_case_passes_with_its_errors(folder, tmp_path, capsys):
    report = tmp_path / "report" / "parity.json"
    assert main(["check-parity", str(folder), "--json", str(report)]) == 0
    shown = capsys.readouterr().out
    assert "my_idm" in shown
    assert "1 passed, 0 failed, 0 unknown" in shown
    (case,) = json.loads(report.read_text(encoding="utf-8"))["cases"]
    assert case["passed"]
    assert case["max_abs"] < 5e-5


def test_json_cases_are_known_by_their_content(tmp_path, capsys):
    content = json.loads((DATA / "schedules.json").read_text(encoding="utf-8"))
    (tmp_path / "other.json").write_text(json.dumps(content), encoding="utf-8")
    assert main(["check-parity", str(tmp_path), "--strict"]) == 0
    assert "1 passed, 0 failed, 0 unknown" in capsys.readouterr().out
    content["rescale_bridge_action"]["examples"][2]["output"][3] += 0.01
    content["openvla_bridge_orig"]["examples"][0]["action_unnormalised"][1] += 0.01
    (tmp_path / "other.json").write_text(json.dumps(content), encoding="utf-8")
    assert main(["check-parity", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert "bridge action 2" in shown and "openvla action 0" in shown


def test_an_unknown_case_is_named_and_fails_when_strict(folder, capsys):
    (folder / "something_new.json").write_text("{}", encoding="utf-8")
    assert main(["check-parity", str(folder)]) == 0
    assert "1 passed, 0 failed, 1 unknown (something_new.json)" in capsys.readouterr().out
    assert main(["check-parity", str(folder), "--strict"]) == 1


def test_a_folder_of_unknown_cases_does_not_pass(tmp_path):
    (tmp_path / "something_new.json").write_text("{}", encoding="utf-8")
    assert main(["check-parity", str(tmp_path)]) == 1


def test_a_wrong_output_fails(folder, capsys):
    path = folder / "my_idm.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    tensors["output.actions"] = tensors["output.actions"] + 1e-2
    save_file(tensors, path, metadata)
    assert main(["check-parity", str(folder)]) == 1
    assert "FAILED" in capsys.readouterr().out


def test_a_truncated_case_fails_and_the_others_still_run(folder, capsys):
    whole = read_file(DATA / "svae.safetensors")
    (folder / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    assert main(["check-parity", str(folder)]) == 1
    shown = capsys.readouterr().out
    assert "half.safetensors: SafetensorError" in shown
    assert "1 passed, 1 failed" in shown
