"""How two populations differ, matched or not: in the latent space, in coefficients and in flux.

Findings hold a chosen false-discovery rate. It must not know what the populations are.
"""

__all__ = ["contrast", "differences"]
