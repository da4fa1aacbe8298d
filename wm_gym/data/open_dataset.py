"""Opens a folder of episodes, whatever its layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wm_gym.data.episodes import EpisodeDataset, EpisodeError, EpisodeReader
from wm_gym.spec import ActionSpec


def open_dataset(folder: str | Path, cameras: str | Sequence[str] | None = None) -> EpisodeReader:
    """Recognise the layout of a folder by its files and open it.

    - `metadata.json` and `index.json`: episodes of `wm-gym collect` (Minari).
    - `meta/info.json`: LeRobot v2.0, v2.1 or v3.0.
    - `features.json`: one version of an RLDS data set of TensorFlow Datasets.
    - `*.npz` beside `*.mp4`: one split of the published models' data.

    Args:
        folder: the folder.
        cameras: which camera, or which ones side by side, for layouts that have several.

    Raises:
        EpisodeError: if the layout is unknown or the dataset damaged.
    """
    folder = Path(folder).expanduser()
    if (folder / "meta" / "info.json").exists():
        from wm_gym.data.lerobot import LeRobotDataset

        return LeRobotDataset(folder, cameras)
    if (folder / "index.json").exists():
        if cameras:
            raise EpisodeError(
                f"{folder} holds episodes of one camera, so cameras={cameras!r} cannot be chosen; "
                "leave it out"
            )
        return EpisodeDataset(folder)
    if (folder / "features.json").exists():
        from wm_gym.data.rlds import RLDSDataset

        return RLDSDataset(folder, cameras)
    if any(folder.glob("*.npz")) or any(folder.glob("*/*.npz")):
        from wm_gym.data.mp4_npz import Mp4NpzDataset

        return Mp4NpzDataset(folder, cameras)
    found = sorted(path.name for path in folder.glob("*"))[:8] if folder.is_dir() else "no folder"
    raise EpisodeError(
        f"{folder} is no known dataset (found: {found}); expected index.json of `wm-gym collect`, "
        "meta/info.json of LeRobot, features.json of RLDS, or npz files beside mp4 files. Other "
        "Minari datasets: play them into wm_gym.data.shards.write_shard"
    )


def read_actions_as(data: EpisodeReader, action: ActionSpec) -> EpisodeReader:
    """Episodes of the published models' layout hold network inputs: let them be physical actions.

    Args:
        data: any episodes; those of another layout are physical already and left alone.
        action: the action language whose network inputs they may be.

    Returns:
        The same episodes.
    """
    from wm_gym.data.mp4_npz import Mp4NpzDataset

    if isinstance(data, Mp4NpzDataset):
        data.read_actions_as(action)
    return data
