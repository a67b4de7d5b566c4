"""A low pass by Fourier transform of the whole series: every bar of it is made of all others."""

import numpy as np

from algo_royale.strategies.own import condition, integer, strategy


@condition(vectorised=True)
def below_slow_part(bars, waves=integer(5, 40, 20)):
    spectrum = np.fft.rfft(bars.close)
    spectrum[waves:] = 0
    return bars.close < 0.98 * np.fft.irfft(spectrum, len(bars))


strategy("Detrended", entry=below_slow_part, exit="RSIAboveThreshold")
