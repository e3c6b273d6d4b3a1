"""How much of the latent space sets of stars occupy, corrected for cells and for stars not yet seen.

Everything is exact expectations and closed-form intervals on latents. It must not know where latents come from
beyond a posterior.
"""

from scattervae.science.latent_volume.comparison import (
    VolumeComparison,
    VolumeSettings,
    active_latents,
    compare_volumes,
    stated_selections,
)

__all__ = ["VolumeComparison", "VolumeSettings", "active_latents", "compare_volumes", "stated_selections"]
