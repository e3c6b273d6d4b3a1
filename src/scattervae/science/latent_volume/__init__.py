"""How much of the latent space sets of stars occupy, corrected for cells and for stars not yet seen.

Everything is exact expectations and closed-form intervals. It must not know where latents come from.
"""

__all__ = ["comparison"]
