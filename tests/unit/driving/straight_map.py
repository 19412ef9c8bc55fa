"""A straight road along x made of 40 m pieces: blocks a, ab, b, bc, c (two-letter ones are connectors), 4 m lanes."""

import numpy as np
import shapely

from irl_vla.scene import Area, Lane, MapView, Roadblock

PIECE_M = 40.0
LANE_M = 4.0
CHAIN = ("a", "ab", "b", "bc", "c")


def straight_map(lane_count: int = 1, speed_limit_mps: float | None = 10.0) -> MapView:
    """Lane ``b0`` is that of block ``b`` around y = 0, ``b1`` the one to its left. Block ``bc`` is an intersection."""
    lanes: dict[bool, dict[str, Lane]] = {True: {}, False: {}}
    blocks: dict[bool, dict[str, Roadblock]] = {True: {}, False: {}}
    for index, block in enumerate(CHAIN):
        x0, x1, links = PIECE_M * index, PIECE_M * (index + 1), len(block) == 2
        before, after = CHAIN[max(0, index - 1) : index], CHAIN[index + 1 : index + 2]
        for lane in range(lane_count):
            y = LANE_M * lane
            lanes[links][f"{block}{lane}"] = Lane(
                id=f"{block}{lane}",
                roadblock_id=block,
                is_connector=links,
                baseline=np.stack([np.linspace(x0, x1, 21), np.full(21, y)], axis=-1),
                polygon=shapely.box(x0, y - LANE_M / 2, x1, y + LANE_M / 2),
                speed_limit_mps=speed_limit_mps,
                outgoing=tuple(f"{name}{lane}" for name in after),
                incoming=tuple(f"{name}{lane}" for name in before),
            )
        ids = tuple(f"{block}{lane}" for lane in range(lane_count))
        outline = shapely.box(x0, -LANE_M / 2, x1, LANE_M * (lane_count - 0.5))
        blocks[links][block] = Roadblock(block, links, outline, ids, after, before)
    # Connectors of blocks that are no junction must be drivable, too.
    areas = {
        "INTERSECTION": {"junction": Area("junction", blocks[True]["bc"].polygon)},
        "CARPARK_AREA": {"yard": Area("yard", blocks[True]["ab"].polygon)},
    }
    return MapView("straight", lanes[False], lanes[True], blocks[False], blocks[True], areas)
