import numpy as np
import pytest

from irl_vla.epdms.comfort import (
    COMFORT_NAMES,
    comfort_flags,
    comfort_signals,
    extended_comfort,
    extended_comfort_rms,
    history_comfort,
    history_rows,
)

from .straight_road import TIME_US, scene, states


def rows(acceleration: np.ndarray | float = 0.0, count: int = 55) -> np.ndarray:
    table = np.zeros((1, count, 11))
    table[0, :, 5] = acceleration
    return table


def test_constant_and_ramped_acceleration_pass_the_filter_unchanged() -> None:
    ramp = np.linspace(0.5, 1.5, 55)
    signals = comfort_signals(rows(ramp))[:, 0]
    # The even window looks half a sample ahead between its borders.
    np.testing.assert_allclose(signals[0, 4:-4], ramp[4:-4] + 0.5 / 54, atol=1e-7)
    np.testing.assert_allclose(signals[0, [0, 3, -4, -1]], ramp[[0, 3, -4, -1]], atol=1e-7)
    # Slope by hand where the window of 15 lies between the borders of the first filter.
    np.testing.assert_allclose(signals[2, 11:-11], 10.0 / 54, atol=1e-6)
    np.testing.assert_allclose(signals[3], signals[2], atol=1e-12)


@pytest.mark.parametrize(("acceleration", "comfortable"), [(2.39, True), (2.41, False), (-4.04, True), (-4.06, False)])
def test_longitudinal_bounds(acceleration: float, comfortable: bool) -> None:
    flags = dict(zip(COMFORT_NAMES, comfort_flags(rows(acceleration))[0], strict=True))
    assert flags["lon_accel"] == comfortable
    assert flags["jerk"]
    assert flags["lat_accel"]


def test_turning_at_constant_rate() -> None:
    table = rows()
    table[0, :, 2] = (0.94 * 0.1 * np.arange(55) + np.pi) % (2 * np.pi) - np.pi
    assert comfort_flags(table)[0].tolist() == [True] * 6
    table[0, :, 2] = 0.96 * 0.1 * np.arange(55)
    assert dict(zip(COMFORT_NAMES, comfort_flags(table)[0], strict=True))["yaw_rate"] == False  # noqa: E712
    np.testing.assert_allclose(comfort_signals(table)[5], 0.96, atol=1e-8)


def test_history_ends_two_tenths_before_now() -> None:
    record = scene(speed_mps=10.0)
    history = history_rows(record.history_time_us, record.history_states)
    np.testing.assert_allclose(history[:, 0], -15.0 + np.arange(14), atol=1e-9)
    longer = record.history_time_us.copy()
    longer[0] -= 1
    assert len(history_rows(longer, record.history_states)) == 15


def test_history_counts() -> None:
    record = scene(speed_mps=10.0)
    harsh = record.history_states.copy()
    harsh[:2, 5] = -9.0
    calm = history_rows(record.history_time_us, record.history_states)
    rollouts = states(10.0)[None]
    assert history_comfort(rollouts, calm)[0] == 1.0
    assert history_comfort(rollouts, history_rows(record.history_time_us, harsh))[0] == 0.0


def test_extended_comfort_compares_the_same_instants() -> None:
    previous = states(5.0)
    previous[:, 5] = np.linspace(0.0, 1.0, 41)
    now = np.concatenate([previous[5:], np.zeros((5, 11))])
    # What follows the overlap does not count.
    np.testing.assert_array_equal(extended_comfort_rms(now, previous, 0.5), np.zeros(4))
    assert extended_comfort(now, previous, 0.5)
    now[:, 5] += 0.69
    assert extended_comfort(now, previous, 0.5)
    now[:, 5] += 0.02
    assert not extended_comfort(now, previous, 0.5)
    np.testing.assert_allclose(extended_comfort_rms(now, previous, 0.5), [0.71, 0.0, 0.0, 0.0], atol=1e-7)


def test_extended_comfort_broadcasts_over_plans() -> None:
    now = np.stack([states(speed) for speed in (4.0, 5.0, 6.0)])
    now[2, :, 2] = 0.2 * np.sin(np.arange(41))
    assert extended_comfort(now, states(5.0), 0.5).tolist() == [True, True, False]


@pytest.mark.parametrize("interval_s", [0.0, 0.5501, -0.5])
def test_extended_comfort_needs_neighbouring_frames(interval_s: float) -> None:
    with pytest.raises(ValueError, match="interval"):
        extended_comfort(states(5.0), states(5.0), interval_s)


def test_current_frame_is_the_last_of_the_history() -> None:
    record = scene()
    assert record.history_time_us[-1] == TIME_US
