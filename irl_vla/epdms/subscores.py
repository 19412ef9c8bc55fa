"""All sub-scores of simulated rollouts but comfort: the inner function of the scorer and of the PDM-Closed planner."""

from dataclasses import dataclass

import numpy as np

from irl_vla.epdms.collision import Occupancy, RedLights, score_contacts, score_red_lights
from irl_vla.epdms.polygons import Bools, Ints
from irl_vla.epdms.progress import progress
from irl_vla.epdms.road_rules import RoadGeometry, score_road_rules
from irl_vla.geometry import Floats


@dataclass(frozen=True, slots=True, eq=False)
class RolloutScores:
    """Raw sub-scores of P rollouts; EP needs a comparison and comfort a history, so both are made elsewhere.

    Attributes:
        nc, dac, ddc, tlc, ttc, lk: (P,).
        progress_m: (P,) along the centreline, before any normalisation.
        collision_step, ttc_step: (P,) int64 first step of an at-fault collision and of a TTC violation, or -1.
        areas: (P, 41, 5) bool flags in the order of ``road_rules.AREA_NAMES``.
    """

    nc: Floats
    dac: Floats
    ddc: Floats
    tlc: Floats
    ttc: Floats
    lk: Floats
    progress_m: Floats
    collision_step: Ints
    ttc_step: Ints
    areas: Bools

    @property
    def multiplier(self) -> Floats:
        """(P,) product of the four multiplying sub-scores."""
        return self.nc * self.dac * self.tlc * self.ddc


def score_rollouts(rollouts: Floats, roads: RoadGeometry, objects: Occupancy, lights: RedLights) -> RolloutScores:
    """Scores simulated states; the result of a rollout does not depend on the others in the batch.

    Args:
        rollouts: (P, 41, 11) states, global.
        roads: from ``road_rules.road_geometry``.
        objects: from ``collision.occupancy`` (arrays, with an initial ignore list) or ``collision.occupancy_of``.
        lights: from ``collision.red_lights``.
    """
    rollouts = np.ascontiguousarray(rollouts, np.float64)
    rules = score_road_rules(rollouts, roads)
    contacts = score_contacts(rollouts, rules.areas, objects)
    return RolloutScores(
        nc=contacts.nc,
        dac=rules.dac,
        ddc=rules.ddc,
        tlc=score_red_lights(rollouts, lights),
        ttc=contacts.ttc,
        lk=rules.lk,
        progress_m=progress(rollouts, roads.centerline),
        collision_step=contacts.collision_step,
        ttc_step=contacts.ttc_step,
        areas=rules.areas,
    )
