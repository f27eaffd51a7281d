"""What physiology says in a window: beats, breaths, skin conductance responses, and how heart and breath go together.

Small detectors on scipy. neurokit2 judges them in the tests and is not needed at run time: importing it takes seconds, and
its skin conductance peaks are counted relative to the largest one, so that noise alone yields 16 a minute where an absolute
prominence of 0.03 uS yields the 3 to 5 that are there. Nothing here fails on constant, short or absurd input: what
cannot be found is NaN, or an empty array.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

SCR_US = 0.03  # least rise of a skin conductance response [uS], absolute (usual in the field: 0.01 to 0.05)
SHORTEST_S, LONGEST_S = 0.3, 2.0  # plausible beat intervals: 200 to 30 beats/min
REFRACTORY_S = 0.22  # so that a heart too fast to be true is found, and refused: halved it would look healthy


def beats(x: np.ndarray, rate_hz: float, kind: Literal["pulse", "ecg"] = "pulse") -> np.ndarray:
    """float64[N]: times [s] of pulse peaks or R peaks in x float[T], to a fraction of a sample.

    Two moving averages (Elgendi et al. 2013, doi 10.1371/journal.pone.0076585, for the pulse; Elgendi, Jonkman & De Boer
    2010 for R peaks): where the short one exceeds the long one lies a beat; its top is refined by a parabola.
    """
    from scipy.ndimage import uniform_filter1d

    x = np.asarray(x, dtype=np.float64)
    low, high, short_s, long_s = (0.5, 8.0, 0.111, 0.667) if kind == "pulse" else (8.0, 20.0, 0.097, 0.611)
    if len(x) < 2 * rate_hz or not np.isfinite(x).all() or np.ptp(x) == 0:
        return np.empty(0)
    band = _band(x, rate_hz, low, min(high, 0.45 * rate_hz))
    power = np.clip(band, 0, None) ** 2 if kind == "pulse" else band**2
    short, long = (uniform_filter1d(power, max(1, round(s * rate_hz))) for s in (short_s, long_s))
    inside = short > long + 0.02 * power.mean()
    edges = np.flatnonzero(np.diff(np.r_[0, inside, 0]))
    found: list[int] = []
    shape = band if kind == "pulse" else np.abs(_band(x, rate_hz, 1.0, min(30.0, 0.45 * rate_hz)))
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        if last - first < 0.5 * short_s * rate_hz or first == 0 or last == len(x):
            continue  # too short for a beat, or cut off by the window's edge
        top = int(first + np.argmax(shape[first:last]))
        if found and (top - found[-1]) < REFRACTORY_S * rate_hz:
            if shape[top] > shape[found[-1]]:
                found[-1] = top
            continue
        found.append(top)
    tops = np.array([t for t in found if 0 < t < len(x) - 1], dtype=int)
    if not len(tops):
        return np.empty(0)
    # the pulse's second bump, at slow hearts, is no beat of its own
    tops = tops[shape[tops] > 0.45 * np.quantile(shape[tops], 0.75)]
    a, b, c = shape[tops - 1], shape[tops], shape[tops + 1]
    bend = a - 2 * b + c
    shift = np.where(bend < 0, 0.5 * (a - c) / np.where(bend < 0, bend, 1), 0.0)
    return (tops + np.clip(shift, -1, 1)) / rate_hz


def _band(x: np.ndarray, rate_hz: float, low: float, high: float) -> np.ndarray:
    from scipy.signal import butter, sosfiltfilt

    sos = butter(2, [low, max(high, low * 1.1)], btype="band", fs=rate_hz, output="sos")
    return sosfiltfilt(sos, x, padlen=min(len(x) - 1, round(2 * rate_hz)))


def intervals(times: np.ndarray) -> np.ndarray:
    """float64[N-1] [s]: between beats, NaN where one is implausible (a beat was missed or is none)."""
    rr = np.diff(times)
    if not len(rr):
        return rr
    middle = np.median(rr)
    return np.where((rr < SHORTEST_S) | (rr > LONGEST_S) | (np.abs(rr - middle) > 0.4 * middle), np.nan, rr)


def mended(times: np.ndarray) -> np.ndarray:
    """Beat times without what cannot be: of two beats much too near each other one is taken out (noise, or a premature
    beat, with its interval given to its neighbours'), the one without which the intervals around are nearer to whole
    numbers of beats; beats that were missed are put at equal distances. What is plausible stays where it was."""
    if len(times) < 4:
        return times
    out = times.tolist()
    middle = float(np.median(np.diff(times)))
    k = 1
    while k < len(out):
        if out[k] - out[k - 1] >= 0.5 * middle:
            k += 1
            continue
        around = out[max(k - 2, 0) : k + 2]
        left, right = ([t for t in around if t != out[j]] for j in (k - 1, k))
        del out[k - 1 if _uneven(left, middle) < _uneven(right, middle) else k]
        k = max(k - 1, 1)
    filled = out[:1]
    for t in out[1:]:
        gap = t - filled[-1]
        missed = round(gap / middle) - 1 if gap > 1.5 * middle else 0
        filled += [filled[-1] + gap * (i + 1) / (missed + 1) for i in range(missed)] + [t]
    return np.array(filled)


def _uneven(times: list[float], middle: float) -> float:
    """How far the intervals are from whole numbers of `middle`, together."""
    beats = np.diff(times) / middle
    return float(np.abs(beats - np.maximum(np.rint(beats), 1)).sum())


def heart(times: np.ndarray) -> dict[str, float]:
    """hr [beats/min], sdnn and rmssd [ms] of beat times; NaN with fewer than five plausible intervals. (Task Force of the
    ESC and NASPE, Circulation 93 (1996) 1043, section "time domain methods".)"""
    rr = intervals(times)
    if np.isfinite(rr).sum() < 5:
        return dict.fromkeys(("hr", "sdnn", "rmssd"), float("nan"))
    steps = np.diff(rr)
    steps = steps[np.isfinite(steps)]
    return {
        "hr": float(60 / np.nanmean(rr)),
        "sdnn": float(1000 * np.nanstd(rr, ddof=1)),
        "rmssd": float(1000 * np.sqrt((steps**2).mean())) if len(steps) else float("nan"),
    }


def breathing_hz(x: np.ndarray, rate_hz: float) -> float:
    """The frequency [Hz] between 0.08 and 0.75 at which respiration x float[T] has most power; NaN without any."""
    from scipy.signal import welch

    x = np.asarray(x, dtype=np.float64)
    if len(x) < 8 * rate_hz or not np.isfinite(x).all() or np.ptp(x) == 0:
        return float("nan")
    step = max(1, int(rate_hz // 5))
    hz, power = welch(
        x[::step] - x.mean(), fs=rate_hz / step, nperseg=min(len(x[::step]), round(30 * rate_hz / step)), nfft=4096
    )
    band = (hz >= 0.08) & (hz <= 0.75)
    return float(hz[band][power[band].argmax()]) if power[band].max() > 0 else float("nan")


def coherence(times: np.ndarray, resp: np.ndarray, rate_hz: float) -> float:
    """Magnitude-squared coherence, 0 to 1, of heart rate (from beat times [s]) and respiration at the breathing
    frequency; NaN where either cannot be found."""
    from scipy.signal import coherence as of

    hz, pair = breathing_hz(resp, rate_hz), _rate_and_breath(times, resp, rate_hz)
    if pair is None or not np.isfinite(hz):
        return float("nan")
    found_hz, found = of(*pair, fs=4.0, nperseg=64, noverlap=48)
    return float(np.interp(hz, found_hz, found))


def correlation(times: np.ndarray, resp: np.ndarray, rate_hz: float, most_s: float = 5.0) -> float:
    """The largest absolute correlation, 0 to 1, of heart rate (from beat times [s]) and respiration, of which one may lag
    up to `most_s` behind the other; NaN where either cannot be found."""
    pair = _rate_and_breath(times, resp, rate_hz)
    if pair is None:
        return float("nan")
    a, b = pair
    n, lags = len(a), min(round(most_s * 4), len(a) // 2)
    found = 0.0
    for k in range(-lags, lags + 1):
        x, y = a[max(0, k) : n + min(0, k)], b[max(0, -k) : n - max(0, k)]
        x, y = x - x.mean(), y - y.mean()
        size = np.sqrt((x @ x) * (y @ y))
        if size > 1e-9:
            found = max(found, abs(float(x @ y)) / size)
    return found


def _rate_and_breath(times: np.ndarray, resp: np.ndarray, rate_hz: float) -> tuple[np.ndarray, np.ndarray] | None:
    """Heart rate [beats/min] and respiration at 4 Hz over the same time, without their means; None with fewer than ten
    plausible intervals or 16 s."""
    rr = intervals(times)
    good = np.isfinite(rr)
    if good.sum() < 10:
        return None
    grid = np.arange(times[0], times[-1], 0.25)
    if len(grid) < 64 or not np.isfinite(resp).all():
        return None
    rate = np.interp(grid, (times[:-1] + times[1:])[good] / 2, 60 / rr[good])
    breath = np.interp(grid, np.arange(len(resp)) / rate_hz, resp)
    return rate - rate.mean(), breath - breath.mean()


def responses(eda: np.ndarray, rate_hz: float, least_us: float = SCR_US) -> tuple[np.ndarray, np.ndarray]:
    """(times [s], rises [uS]) of skin conductance responses: peaks of eda float[T] [uS], smoothed over half a second, that
    stand out by at least `least_us`."""
    from scipy.ndimage import uniform_filter1d
    from scipy.signal import find_peaks

    eda = np.asarray(eda, dtype=np.float64)
    if len(eda) < 3 * rate_hz or not np.isfinite(eda).all():
        return np.empty(0), np.empty(0)
    smooth = uniform_filter1d(eda, max(1, round(0.5 * rate_hz)))
    peaks, about = find_peaks(smooth, prominence=least_us, wlen=round(20 * rate_hz))
    rises = smooth[peaks] - smooth[about["left_bases"]]
    kept = rises >= least_us
    return peaks[kept] / rate_hz, rises[kept]


def slope(x: np.ndarray, rate_hz: float) -> float:
    """Least-squares slope per minute; NaN for fewer than two samples."""
    if len(x) < 2:
        return float("nan")
    t = np.arange(len(x)) / rate_hz / 60
    t = t - t.mean()
    return float((t * (x - x.mean())).sum() / (t**2).sum())
