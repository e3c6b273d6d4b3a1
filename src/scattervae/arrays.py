"""Array types, named by what runs along each axis.

NumPy arrays hold stars in archive units (float64; float32 as stored); torch tensors hold what the model sees
(float32 in production, float64 in checks). *star* is a row, *coeff* runs over BP then RP.
"""

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64, UInt16
from torch import Tensor

SourceIds = Int64[np.ndarray, " star"]
CoeffArray = Float64[np.ndarray, "star coeff"]
CoeffArray32 = Float32[np.ndarray, "star coeff"]
StarArray = Float64[np.ndarray, " star"]
CoeffVector = Float64[np.ndarray, " coeff"]
StarMask = Bool[np.ndarray, " star"]
StarFlags = UInt16[np.ndarray, " star"]
LabelArray = Float64[np.ndarray, "star label"]
FluxArray = Float64[np.ndarray, "star wavelength"]
Wavelengths = Float64[np.ndarray, " wavelength"]

Coeffs = Float[Tensor, "star coeff"]
Latents = Float[Tensor, "star latent"]
PerStar = Float[Tensor, " star"]
