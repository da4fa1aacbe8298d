"""Frames of recorded episodes that a command names by number."""

from __future__ import annotations

from wm_gym.data.episodes import EpisodeDataset
from wm_gym.errors import UserError


def check_place(data: EpisodeDataset, episode: int, frame: int, ahead: int = 0) -> None:
    """Refuse a frame that is not there, or one without enough actions after it.

    Raises:
        ValueError: saying which there are.
    """
    if not 0 <= episode < len(data):
        raise UserError(f"episode={episode}; {data.folder} holds episodes 0 to {len(data) - 1}")
    length = int(data.lengths[episode])
    if not 0 <= frame <= length:
        raise UserError(f"frame={frame}; episode {episode} has frames 0 to {length}")
    if not 0 <= ahead <= length - frame:
        raise UserError(
            f"horizon={ahead}; after frame {frame} episode {episode} has {length - frame} actions"
        )
