"""What a person looks at: figures of stars, of training and of the latent space.

This room turns trained models and the stars they are shown into figures, each by a name in `figures.FIGURES`.
It must not know how a model is trained, where stars come from, or which command asked.
"""
