"""Labels for stars that have none, learnt from those that do, with intervals and a reliability.

The trunk of a scatter VAE's encoder, which has seen every spectrum, is tuned on the labelled stars; held-out labelled
stars say how wide the intervals must be, and the latents of labelled stars where the labels can be trusted.
"""
