"""Labels for stars that have none, predicted from those that do, with intervals and a reliability.

The trunk of a scatter VAE's encoder, which has seen every spectrum, is tuned on the labelled stars. Held-out labelled
stars calibrate the intervals, and the latents of labelled stars show where the labels can be trusted.
"""

__all__ = ["model", "targets"]
