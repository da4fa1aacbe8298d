"""What a wheel contains, and what the repository promises about itself."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
    "setuptools"
]
FOLDERS = ("wm_gym", "envs", "policies", "assets")


def package_name(folder: Path) -> str:
    name = ".".join(folder.relative_to(ROOT).parts)
    return name if name.split(".")[0] == "wm_gym" else f"wm_gym.{name}"


def test_every_package_of_the_tree_is_declared():
    found = {
        package_name(init.parent) for top in FOLDERS for init in (ROOT / top).rglob("__init__.py")
    }
    assert found == set(SETUPTOOLS["packages"])


def test_every_folder_with_code_is_a_package():
    stray = {
        str(path.parent.relative_to(ROOT))
        for top in FOLDERS
        for path in (ROOT / top).rglob("*.py")
        if not (path.parent / "__init__.py").exists()
    }
    assert not stray


def test_constraints_pin_every_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {line.split(">")[0].split("[")[0].lower().replace("_", "-") for line in wanted}
    assert names - {"setuptools"} <= pinned


def test_what_ships_stays_small():
    def megabytes(*folders: Path) -> float:
        files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
        return sum(path.stat().st_size for path in files if "__pycache__" not in path.parts) / 1e6

    assets = ROOT / "assets"
    assert megabytes(assets / "langtable-vae-mini", assets / "langtable-bc") <= 12
    assert megabytes(assets) <= 40


def test_a_clone_stays_small():
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, encoding="utf-8"
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    tracked = [ROOT / name for name in listed.stdout.split("\0") if name]
    size = sum(path.lstat().st_size for path in tracked if path.exists() or path.is_symlink())
    assert size <= 48 * 2**20, "scripts/pack_assets.py compresses weights without loss"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a wheel is made from, so that the checkout stays clean."""
    copy = tmp_path_factory.mktemp("source")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "."]
    subprocess.run([*command, "-w", "dist"], cwd=source, check=True, capture_output=True)
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_asset(wheel, source):
    names = set(zipfile.ZipFile(wheel).namelist())
    missing = []
    for top in FOLDERS:
        for path in (source / top).rglob("*"):
            if "__pycache__" in path.parts or path.suffix not in (
                ".py",
                ".json",
                ".safetensors",
                ".npz",
                ".xz",
                ".txt",
            ):
                continue
            inside = path.relative_to(source).as_posix()
            inside = inside if top == "wm_gym" else f"wm_gym/{inside}"
            if inside not in names:
                missing.append(inside)
    assert not missing
    assert not any(name.split("/")[0] in ("envs", "policies", "assets", "tests") for name in names)


@pytest.mark.slow
def test_the_wheel_works_where_it_is_unpacked(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        "import wm_gym, gymnasium, wm_gym.envs, wm_gym.policies.base, wm_gym.assets;"
        f"assert wm_gym.__file__.startswith({str(tmp_path)!r}), wm_gym.__file__;"
        f"assert wm_gym.envs.__file__.startswith({str(tmp_path)!r}), wm_gym.envs.__file__;"
        "from wm_gym.cli import main;"
        "assert 'WM-LangTable-VAE-v0' in gymnasium.registry;"
        "raise SystemExit(main(['list']))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
