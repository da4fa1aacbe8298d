"""Captions that stay in their box: wrapped by words, and shortened where even that is too much."""

from __future__ import annotations

from functools import cache

from PIL import ImageDraw, ImageFont

LINE_PX = 16
"""Height of a line, from its highest to its lowest letter and the gap below."""
ELLIPSIS = "…"


@cache
def caption_font() -> ImageFont.FreeTypeFont:
    """The font of every caption."""
    font = ImageFont.load_default(size=13)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font


def text_width(text: str) -> int:
    """Pixels that a line takes to the right of where it begins."""
    font = caption_font()
    return -int(-max(font.getlength(text), font.getbbox(text)[2]) // 1)


def shorten(text: str, width_px: int) -> str:
    """The text, or as much of it as fits before an ellipsis; nothing if not even that fits."""
    if text_width(text) <= width_px:
        return text
    for end in range(len(text) - 1, -1, -1):
        shortened = text[:end].rstrip() + ELLIPSIS
        if text_width(shortened) <= width_px:
            return shortened
    return ""


def wrap(text: str, width_px: int, max_lines: int) -> list[str]:
    """Break a text into lines.

    Args:
        text: any white space in it counts as one space.
        width_px: room for a line; a word that is wider is shortened.
        max_lines: room for lines; an ellipsis stands for what comes after the last one.

    Returns:
        At most `max_lines` lines, none wider than `width_px` in `caption_font`; all of them empty
        where a word is too wide and an ellipsis, too.
    """
    lines: list[str] = []
    words = text.split()
    while words and len(lines) < max_lines:
        if len(lines) == max_lines - 1:
            lines.append(shorten(" ".join(words), width_px))
            break
        line = words.pop(0)
        while words and text_width(f"{line} {words[0]}") <= width_px:
            line += f" {words.pop(0)}"
        lines.append(shorten(line, width_px))
    # where not even an ellipsis fits, what is left would look like the whole text
    return lines if all(lines) else [""] * len(lines)


def draw_lines(draw: ImageDraw.ImageDraw, left: int, top: int, lines: list[str]) -> None:
    """Write lines below each other, the first one's box beginning at (left, top)."""
    for number, line in enumerate(lines):
        draw.text((left, top + number * LINE_PX), line, fill="black", font=caption_font())
