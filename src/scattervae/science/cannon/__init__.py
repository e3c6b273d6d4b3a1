"""*The Cannon*, the supervised baseline, in the scatter VAE's normalised units so that likelihoods compare."""

__all__ = ["model"]
