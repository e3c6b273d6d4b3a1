"""What a person looks at: the paper's figures, figures of stars and of training, and the report.

This room turns trained models and the stars they are shown into figures, each by a name in `registry.FIGURES`,
and claims of the paper, with what was measured, into one page.
It must not know how a model is trained, where stars come from, or which command asked.
"""

__all__ = ["calibration", "explorer", "latent_volume", "registry", "report"]
