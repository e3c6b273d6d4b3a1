"""How labels are learnt: every setting, frozen."""

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from scattervae.model.degradation import DegradationSettings
from scattervae.settings import Settings


class LabelSettings(Settings):
    """How a label model is fitted; the lengths of a fit follow from the number of labelled stars.

    Attributes:
        members: Networks whose answers are averaged; each is trained without one fold of the labelled stars.
            Where None, six for fewer than 3,000 labelled stars and two for more.
        folds: Parts that the labelled stars fall into; what a network says of the part that it did not see tells
            how wide intervals must be.
        blocks: Residual blocks of each head; where None, one for fewer than 3,000 labelled stars and two for more.
        steps: Gradient steps of each member; where None, 300 for 100 labelled stars, and more for more of them.
        batch_size: Largest number of stars in a batch.
        learning_rate: Peak for vectors and the outer layers, AdamW's.
        matrix_learning_rate: Peak for the weights between hidden layers, Muon's.
        trunk_rates: The trunk's learning rates over the head's, member after member in turn. A slow trunk holds on to
            what the encoder knows, which tells more labels from few stars; a fast one loses less of the others.
        weight_decay: Of both optimisers.
        degradation: How stars are made worse while the networks learn: fainter, and some with gaps.
        degrees_of_freedom: Of the Student t that a label is drawn from about what the network says: wrong labels
            then count for little.
        seed: Of folds, batches and noise.
    """

    members: PositiveInt | None = None
    folds: int = Field(default=10, ge=2)
    blocks: NonNegativeInt | None = None
    steps: PositiveInt | None = None
    batch_size: PositiveInt = 512
    learning_rate: PositiveFloat = 2e-3
    matrix_learning_rate: PositiveFloat = 1e-2
    trunk_rates: tuple[NonNegativeFloat, ...] = Field(default=(0.3, 1.0), min_length=1)
    weight_decay: NonNegativeFloat = 0.05
    degradation: DegradationSettings = DegradationSettings(
        share=1.0, noise_factor=3.0, without_band=0.04, without_orders=0.03, without_coeffs=0.03
    )
    degrees_of_freedom: PositiveFloat = 5.0
    seed: int = 0
