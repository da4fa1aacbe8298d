"""The things on BridgeSim's table: shapes made of primitives, colours, and where to grasp them.

A thing's own frame has x along its length and z up as it lies; the origin is near its centre of
mass. Names are those of the instructions.
"""

from __future__ import annotations

from dataclasses import dataclass

Colour = tuple[float, float, float]

BLOCK_HALF_M = 0.019
PLATE_RADIUS_M = 0.056
PLATE_HEIGHT_M = 0.008
TOWEL_HALF_M = (0.062, 0.050)
TOWEL_HEIGHT_M = 0.004
BASKET_HALF_M = (0.062, 0.052)  # inside
BASKET_WALL_M = 0.034
_WALL = 0.004  # half thickness
_FLOOR = 0.003


@dataclass(frozen=True)
class Part:
    """One primitive.

    Attributes:
        kind: box, cylinder, capsule or ellipsoid.
        size_m: as in MJCF.
        at_m: its centre in the thing's frame.
        colour: index into the thing's colours.
        along_x: whether a cylinder's or capsule's axis is the thing's x axis instead of z.
        solid: False for what is only seen.
    """

    kind: str
    size_m: tuple[float, ...]
    at_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    colour: int = 0
    along_x: bool = False
    solid: bool = True


@dataclass(frozen=True)
class Thing:
    """Shape and handling of one thing.

    Attributes:
        parts: primitives.
        colours: colours of its parts.
        rest_z_m: height of its origin when it lies on the table.
        radius_m: of a circle around it.
        unseen_colours: colours that standard data never show.
        density: of all its parts, kg/m³.
        grasp_x_m: where along its x axis the fingers close; they close along its y axis.
        turns: rotations about z, in one revolution, after which it is grasped alike.
        unseen_name: name in the unseen colours, where the colour is part of the name.
    """

    parts: tuple[Part, ...]
    colours: tuple[Colour, ...]
    rest_z_m: float
    radius_m: float
    unseen_colours: tuple[Colour, ...]
    density: float = 600.0
    grasp_x_m: float = 0.0
    turns: int = 2
    unseen_name: str = ""


_CARROT = (
    Part("capsule", (0.0135, 0.016), (-0.012, 0.0, 0.0), along_x=True),
    Part("capsule", (0.0110, 0.014), (0.018, 0.0, -0.0025), along_x=True),
    Part("capsule", (0.0075, 0.010), (0.038, 0.0, -0.006), along_x=True),
    Part("ellipsoid", (0.013, 0.011, 0.009), (-0.048, 0.0, 0.0), 1, solid=False),
)
_PLATE = (
    Part("cylinder", (PLATE_RADIUS_M, PLATE_HEIGHT_M / 2), (0.0, 0.0, 0.0)),
    Part(
        "cylinder",
        (0.74 * PLATE_RADIUS_M, 0.0005),
        (0.0, 0.0, PLATE_HEIGHT_M / 2),
        1,
        solid=False,
    ),
)
_SPOON = (
    Part("box", (0.040, 0.0075, 0.0060), (-0.020, 0.0, 0.0)),
    Part("ellipsoid", (0.023, 0.0190, 0.0075), (0.038, 0.0, 0.0015)),
)
_TOWEL = (
    Part("box", (*TOWEL_HALF_M, TOWEL_HEIGHT_M / 2)),
    Part("box", (0.008, TOWEL_HALF_M[1], 0.0004), (0.040, 0.0, TOWEL_HEIGHT_M / 2), 1, solid=False),
    Part(
        "box", (0.008, TOWEL_HALF_M[1], 0.0004), (-0.040, 0.0, TOWEL_HEIGHT_M / 2), 1, solid=False
    ),
)
_BLOCK = (Part("box", (BLOCK_HALF_M, BLOCK_HALF_M, BLOCK_HALF_M)),)
_EGGPLANT = (
    Part("ellipsoid", (0.034, 0.0225, 0.0225), (-0.008, 0.0, 0.0)),
    Part("capsule", (0.0140, 0.012), (0.020, 0.0, -0.0075), along_x=True),
    Part("ellipsoid", (0.011, 0.0125, 0.0125), (0.044, 0.0, -0.0075), 1, solid=False),
)
_X, _Y = BASKET_HALF_M
_MID = BASKET_WALL_M / 2
_BASKET = (
    Part("box", (_X, _Y, _FLOOR), (0.0, 0.0, _FLOOR), 1),
    Part("box", (_WALL, _Y + 2 * _WALL, _MID), (_X + _WALL, 0.0, _MID)),
    Part("box", (_WALL, _Y + 2 * _WALL, _MID), (-_X - _WALL, 0.0, _MID)),
    Part("box", (_X, _WALL, _MID), (0.0, _Y + _WALL, _MID)),
    Part("box", (_X, _WALL, _MID), (0.0, -_Y - _WALL, _MID)),
)

THINGS: dict[str, Thing] = {
    "carrot": Thing(
        _CARROT,
        ((0.96, 0.46, 0.08), (0.16, 0.55, 0.16)),
        rest_z_m=0.0135,
        radius_m=0.060,
        unseen_colours=((0.55, 0.16, 0.50), (0.60, 0.72, 0.20)),
    ),
    "plate": Thing(
        _PLATE,
        ((0.93, 0.93, 0.95), (0.66, 0.72, 0.84)),
        rest_z_m=PLATE_HEIGHT_M / 2,
        radius_m=PLATE_RADIUS_M,
        density=1500.0,
        unseen_colours=((0.25, 0.55, 0.52), (0.16, 0.40, 0.38)),
    ),
    "spoon": Thing(
        _SPOON,
        ((0.04, 0.52, 0.44),),
        rest_z_m=0.0060,
        radius_m=0.062,
        density=900.0,
        grasp_x_m=-0.010,
        unseen_colours=((0.92, 0.92, 0.88),),
    ),
    "towel": Thing(
        _TOWEL,
        ((0.36, 0.42, 0.78), (0.80, 0.83, 0.95)),
        rest_z_m=TOWEL_HEIGHT_M / 2,
        radius_m=0.080,
        density=2500.0,
        unseen_colours=((0.80, 0.36, 0.42), (0.96, 0.86, 0.80)),
    ),
    "green block": Thing(
        _BLOCK,
        ((0.12, 0.62, 0.22),),
        rest_z_m=BLOCK_HALF_M,
        radius_m=0.027,
        turns=4,
        unseen_name="red block",
        unseen_colours=((0.82, 0.10, 0.12),),
    ),
    "yellow block": Thing(
        _BLOCK,
        ((0.98, 0.82, 0.10),),
        rest_z_m=BLOCK_HALF_M,
        radius_m=0.027,
        turns=4,
        unseen_name="blue block",
        unseen_colours=((0.12, 0.30, 0.86),),
    ),
    "eggplant": Thing(
        _EGGPLANT,
        ((0.34, 0.10, 0.44), (0.24, 0.52, 0.20)),
        rest_z_m=0.0225,
        radius_m=0.056,
        density=400.0,
        unseen_colours=((0.94, 0.92, 0.84), (0.24, 0.52, 0.20)),
    ),
    "basket": Thing(
        _BASKET,
        ((0.95, 0.78, 0.16), (0.78, 0.60, 0.10)),
        rest_z_m=0.0,
        radius_m=0.092,
        density=1200.0,
        unseen_colours=((0.85, 0.40, 0.66), (0.66, 0.28, 0.50)),
    ),
}
"""What the four tasks need."""

DISTRACTORS: dict[str, Thing] = {
    "red can": Thing(
        (
            Part("cylinder", (0.020, 0.030)),
            Part("cylinder", (0.017, 0.0005), (0.0, 0.0, 0.030), 1, solid=False),
        ),
        ((0.80, 0.12, 0.14), (0.80, 0.80, 0.82)),
        rest_z_m=0.030,
        radius_m=0.020,
        unseen_colours=((0.16, 0.60, 0.62), (0.80, 0.80, 0.82)),
    ),
    "blue cup": Thing(
        (
            Part("cylinder", (0.024, 0.024)),
            Part("cylinder", (0.019, 0.0005), (0.0, 0.0, 0.024), 1, solid=False),
            Part("box", (0.008, 0.004, 0.012), (0.030, 0.0, 0.0), solid=False),
        ),
        ((0.20, 0.44, 0.84), (0.10, 0.22, 0.46)),
        rest_z_m=0.024,
        radius_m=0.030,
        unseen_colours=((0.90, 0.62, 0.20), (0.46, 0.30, 0.10)),
    ),
    "pink brush": Thing(
        (
            Part("box", (0.036, 0.010, 0.009), (0.0, 0.0, 0.0)),
            Part("box", (0.014, 0.012, 0.006), (0.030, 0.0, 0.0), 1, solid=False),
        ),
        ((0.94, 0.44, 0.66), (0.96, 0.94, 0.92)),
        rest_z_m=0.009,
        radius_m=0.046,
        unseen_colours=((0.36, 0.24, 0.16), (0.96, 0.94, 0.92)),
    ),
}
"""What standard data never show; only ever in the way."""


TABLES: dict[str, Colour] = {
    "wood": (0.72, 0.56, 0.40),
    "slate": (0.30, 0.36, 0.42),
    "mint": (0.62, 0.80, 0.70),
}
BACKGROUNDS: dict[str, Colour] = {
    "grey": (0.62, 0.64, 0.66),
    "brick": (0.56, 0.28, 0.22),
    "navy": (0.14, 0.18, 0.36),
}


@dataclass(frozen=True)
class Appearance:
    """Colours of a scene.

    Attributes:
        table: colour of the table.
        background: colour of what is behind it.
        unseen_things: whether the things wear their unseen colours.
    """

    table: Colour
    background: Colour
    unseen_things: bool
