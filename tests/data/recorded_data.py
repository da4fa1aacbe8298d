"""Tiny recorded datasets whose frames and actions say which row of which episode they are."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np

BITS, CELL, FPS = 10, 8, 10
LENGTHS = (7, 23, 12)
TASKS = ("push the block", "open the drawer", "push the block")
TOP, WRIST = "observation.images.top", "observation.images.wrist"


def coded_frame(number: int) -> np.ndarray:
    """A frame (16, 80, 3) that shows a number as black and white cells, safe from compression."""
    bits = np.asarray([(number >> bit) & 1 for bit in range(BITS)], np.uint8) * 255
    return np.broadcast_to(bits.repeat(CELL)[None, :, None], (16, BITS * CELL, 3)).copy()


def decode_frame(frames: np.ndarray) -> np.ndarray:
    """Numbers (...,) that frames (..., 16, 80, 3) show."""
    cells = frames[..., 4:12, CELL // 2 :: CELL, :].mean((-3, -1)) > 127
    return (cells * (1 << np.arange(BITS))).sum(-1)


def row_number(episode: int, row: int) -> int:
    """What row `row` of an episode shows and its first action component says."""
    return 40 * episode + row + 1


def write_video(path: Path, numbers: list[int], *, gop: int = 12, b_frames: int = 2) -> None:
    """Encode coded frames with H.264, key frames `gop` apart."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(FPS))
        stream.width, stream.height, stream.pix_fmt = BITS * CELL, 16, "yuv420p"
        stream.codec_context.gop_size = gop
        stream.options = {"crf": "12", "sc_threshold": "0", "bf": str(b_frames)}
        for number in numbers:
            frame = av.VideoFrame.from_ndarray(coded_frame(number), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _rows(episode: int, first_index: int) -> dict[str, list]:
    rows = range(LENGTHS[episode])
    return {
        "action": [[float(row_number(episode, r)), -float(r)] for r in rows],
        "timestamp": [r / FPS for r in rows],
        "frame_index": list(rows),
        "episode_index": [episode for _ in rows],
        "index": [first_index + r for r in rows],
        "task_index": [0 if TASKS[episode] == TASKS[0] else 1 for _ in rows],
        "next.success": [r >= LENGTHS[episode] - 3 for r in rows],
    }


def _info(version: str, **paths: str) -> dict:
    def camera(dtype: str = "video") -> dict:
        return {"dtype": dtype, "shape": [16, 80, 3], "names": ["height", "width", "channel"]}

    return {
        "codebase_version": version,
        "fps": FPS,
        "total_episodes": len(LENGTHS),
        "total_frames": sum(LENGTHS),
        "chunks_size": 1000,
        "features": {
            "action": {"dtype": "float32", "shape": [2], "names": ["code", "row"]},
            TOP: camera(),
            WRIST: camera(),
            "next.success": {"dtype": "bool", "shape": [1], "names": None},
        },
        **paths,
    }


def view_numbers(camera: str, episode: int) -> list[int]:
    """Numbers that a camera shows in an episode; the wrist camera's are 500 higher."""
    return [row_number(episode, r) + 500 * (camera == WRIST) for r in range(LENGTHS[episode])]


def write_v21(folder: Path, **video) -> Path:
    """A LeRobot v2.1 dataset: one parquet file and one video per episode."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    paths = {
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/"
        "episode_{episode_index:06d}.mp4",
    }
    (folder / "meta").mkdir(parents=True)
    (folder / "meta" / "info.json").write_text(json.dumps(_info("v2.1", **paths)), encoding="utf-8")
    lines = [
        json.dumps({"episode_index": e, "tasks": [TASKS[e]], "length": n})
        for e, n in enumerate(LENGTHS)
    ]
    (folder / "meta" / "episodes.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "data" / "chunk-000").mkdir(parents=True)
    for e in range(len(LENGTHS)):
        table = pa.table(_rows(e, sum(LENGTHS[:e])))
        pq.write_table(table, folder / "data" / "chunk-000" / f"episode_{e:06d}.parquet")
        for camera in (TOP, WRIST):
            path = folder / "videos" / "chunk-000" / camera / f"episode_{e:06d}.mp4"
            write_video(path, view_numbers(camera, e), **video)
    return folder


def write_v30(folder: Path, **video) -> Path:
    """A LeRobot v3.0 dataset: episodes 0 and 1 share their files, episode 2 has the next ones."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    paths = {
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }
    for part in ("meta/episodes/chunk-000", "data/chunk-000"):
        (folder / part).mkdir(parents=True)
    (folder / "meta" / "info.json").write_text(json.dumps(_info("v3.0", **paths)), encoding="utf-8")
    tasks = pa.table({"task_index": [0, 1], "__index_level_0__": [TASKS[0], TASKS[1]]})
    pq.write_table(tasks, folder / "meta" / "tasks.parquet")
    entries = []
    for file, members in enumerate(((0, 1), (2,))):
        tables = [pa.table(_rows(e, sum(LENGTHS[:e]))) for e in members]
        pq.write_table(
            pa.concat_tables(tables), folder / "data" / "chunk-000" / f"file-{file:03d}.parquet"
        )
        for camera in (TOP, WRIST):
            numbers = [n for e in members for n in view_numbers(camera, e)]
            path = folder / "videos" / camera / "chunk-000" / f"file-{file:03d}.mp4"
            write_video(path, numbers, **video)
        for e in members:
            before = sum(LENGTHS[m] for m in members if m < e)
            entry = {
                "episode_index": e,
                "tasks": [TASKS[e]],
                "length": LENGTHS[e],
                "data/chunk_index": 0,
                "data/file_index": file,
                "stats/action/mean": [0.0, 0.0],
            }
            for camera in (TOP, WRIST):
                entry |= {
                    f"videos/{camera}/chunk_index": 0,
                    f"videos/{camera}/file_index": file,
                    f"videos/{camera}/from_timestamp": before / FPS,
                    f"videos/{camera}/to_timestamp": (before + LENGTHS[e]) / FPS,
                }
            entries.append(entry)
    # not in the order of episodes, as after a merge of datasets
    table = pa.Table.from_pylist(entries[::-1])
    pq.write_table(table, folder / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    return folder


def write_mp4_npz(folder: Path, *, views: bool = False, **video) -> Path:
    """One split of the published models' layout."""
    folder.mkdir(parents=True)
    for e, length in enumerate(LENGTHS):
        actions = np.asarray(_rows(e, 0)["action"], np.float32)
        facts = {"success": np.array(e == 1), "language_instruction": np.array(TASKS[e])}
        np.savez(folder / f"{e:09d}.npz", actions=actions, **facts)
        for number, camera in enumerate((TOP, WRIST) if views else (TOP,)):
            name = f"{e:09d}_view{number}.mp4" if views else f"{e:09d}.mp4"
            write_video(folder / name, view_numbers(camera, e), **video)
        assert length == len(actions)
    return folder
