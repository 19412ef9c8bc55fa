"""The clock of the simulation: steps of 0.1 s, of which every fifth is recorded (2 Hz)."""

from typing import Final

STEP_S: Final = 0.1
RECORD_EVERY: Final = 5
