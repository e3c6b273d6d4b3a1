"""Unselected field stars, G 7 to 20, under a model of APOGEE's stars and under one that has seen other field stars too.

    python -m studies.field_stars STARS FIELD [--epochs N] [--folds 5] [--recipe best]

STARS are the labelled ones, FIELD the others, with published coefficients. Model `apogee` trains on the training fold
of STARS; the models `both` on the same and on four fifths of FIELD, so that each field star is scored by a model that
has not seen it. All are scaled by the same means and standard deviations, those of STARS: their scores compare.
"""

import argparse
import time
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from scipy.spatial import cKDTree

import scattervae as sv
from scattervae.gaia.basis import g_mag_of
from scattervae.model.batches import StarsInMemory
from scattervae.model.checkpoint import Checkpoint
from scattervae.model.recipe import Recipe, load_recipe
from scattervae.model.training import fit_network
from scattervae.science.evaluation import evaluate, mean_bound
from scattervae.science.scatter.leave_one_out import Residuals, leave_one_out
from scattervae.science.scatter.parts import order_groups
from scattervae.seeds import folds, numpy_stream, stream
from scattervae.spectra.normalization import Normalization
from scattervae.spectra.spectra import Spectra
from studies.hidden_coefficients import predict_hidden

G_EDGES = (7.0, 12.0, 14.0, 15.0, 16.0, 17.0, 18.0, 20.0)
ORDER_EDGES = (5, 10, 20, 35)
N_NEIGHBOURS = 5


@dataclass
class Scores:
    """Of each star; arrays of one number a star, or of one a star and coefficient."""

    negative_elbo: np.ndarray
    kl: np.ndarray
    width: np.ndarray  # mean over latents
    distance: np.ndarray  # to the fifth nearest training star, in latents
    leave_one_out: Residuals
    hidden: dict[str, Residuals]  # BP from RP alone, and RP from BP alone

    @staticmethod
    def put_together(parts: list["Scores"], rows: list[np.ndarray]) -> "Scores":
        order = np.argsort(np.concatenate(rows))

        def joined(values: list[np.ndarray]) -> np.ndarray:
            return np.concatenate(values)[order]

        def residuals(values: list[Residuals]) -> Residuals:
            return Residuals(*(joined([getattr(v, name) for v in values]) for name in vars(values[0])))

        names = ("negative_elbo", "kl", "width", "distance")
        return Scores(
            *(joined([getattr(p, name) for p in parts]) for name in names),
            residuals([p.leave_one_out for p in parts]),
            {band: residuals([p.hidden[band] for p in parts]) for band in parts[0].hidden},
        )


def fitted(stars: list[Spectra], normalization: Normalization, recipe: Recipe) -> Checkpoint:
    inputs = normalization.apply(Spectra.concatenate(stars))
    started = time.perf_counter()
    state = fit_network(StarsInMemory(inputs, normalization.bp.stop), recipe)
    seconds = time.perf_counter() - started
    print(f"trained on {len(inputs)} stars in {seconds:.0f} s", flush=True)
    return Checkpoint(recipe, normalization, state.network.eval(), {})


@torch.no_grad()
def scored(model: Checkpoint, spectra: Spectra, training: np.ndarray) -> Scores:
    inputs = model.normalization.apply(spectra)
    posterior = model.encode(spectra)
    distance = cKDTree(training).query(posterior.mean.double().numpy(), N_NEIGHBOURS)[0][:, -1]
    hidden = {}
    for band, columns in (("BP from RP", model.normalization.bp), ("RP from BP", model.normalization.rp)):
        mask = torch.zeros(inputs.x.shape, dtype=torch.bool)
        mask[:, columns] = True
        hidden[band] = predict_hidden(model, inputs, mask)
    return Scores(
        mean_bound(model, inputs, posterior, stream(0, "evaluate")).numpy(),
        posterior.kl().sum(dim=1).double().numpy(),
        posterior.sd.mean(dim=1).double().numpy(),
        distance,
        leave_one_out(model, inputs),
        hidden,
    )


def inside(values: np.ndarray, limit: float) -> float:
    return float(np.mean(np.abs(values[np.isfinite(values)]) < limit))


def show_by_g(name: str, scores: Scores, g_mag: np.ndarray, far: float) -> None:
    print(f"\n### {name}\n")
    titles = "stars | -ELBO mean | median | KL | latent width | chi^2 / n, mean | median | in 68 % | in 95 % "
    print(f"| G | {titles}| 68 %, no scatter | outside |", end="")
    for band in scores.hidden:
        print(f" {band}: in 68 % | 95 % | rms z | residual |", end="")
    print("\n" + "|---" * (12 + 4 * len(scores.hidden)) + "|")
    z, bare = scores.leave_one_out.normalised, scores.leave_one_out.residuals / scores.leave_one_out.errors
    chi2 = np.nanmean(z**2, axis=1)
    for low, high in (*pairwise(G_EDGES), (G_EDGES[0], G_EDGES[-1])):
        here = (g_mag >= low) & (g_mag < high)
        if not here.any():
            continue
        elbo = scores.negative_elbo[here]
        print(
            f"| {low:.0f}-{high:.0f} | {here.sum()} | {elbo.mean():.1f} | {np.median(elbo):.1f} "
            f"| {scores.kl[here].mean():.1f} | {np.median(scores.width[here]):.2f} | {chi2[here].mean():.2f} "
            f"| {np.median(chi2[here]):.2f} | {inside(z[here], 1):.3f} | {inside(z[here], 2):.3f} "
            f"| {inside(bare[here], 1):.3f} | {(scores.distance[here] > far).mean():.2f} |",
            end="",
        )
        for seen in scores.hidden.values():
            zb = seen.normalised[here]
            first = np.isfinite(seen.residuals[0]).nonzero()[0][:10]
            error = np.median(np.abs(seen.residuals[here][:, first]))  # in training standard deviations
            rms = np.sqrt(np.nanmean(zb**2))
            print(f" {inside(zb, 1):.3f} | {inside(zb, 2):.3f} | {rms:.2f} | {error:.3f} |", end="")
        print()


def show_by_order(
    names: dict[str, Scores], chosen: dict[str, np.ndarray], normalization: Normalization
) -> None:
    groups, columns = order_groups(normalization, ORDER_EDGES)
    print(
        "\n### By order, G 12 to 15: rms of left-out residuals over expected, and over published errors alone\n"
    )
    print("| orders | " + " | ".join(f"{name} | errors alone" for name in names) + " |")
    print("|---" * (1 + 2 * len(names)) + "|")
    for g, group in enumerate(groups):
        cells = []
        for name, scores in names.items():
            seen = scores.leave_one_out.take(chosen[name])
            of_group = [v[:, columns == g] for v in (seen.normalised, seen.residuals / seen.errors)]
            cells += [f"{np.sqrt(np.median(values**2) / 0.455):.2f}" for values in of_group]
        print(f"| {group} | {' | '.join(cells)} |")
    print("(robust: the root of the median square over that of a standard normal)")


def g_of(spectra: Spectra) -> np.ndarray:
    return np.asarray(g_mag_of(spectra.g_flux))


def settings() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stars")
    parser.add_argument("field")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--recipe", default="best")
    return parser.parse_args()


def recipe_of(given: argparse.Namespace) -> Recipe:
    recipe = load_recipe(given.recipe)
    if not given.epochs:
        return recipe
    training = recipe.training.model_copy(update={"epochs": given.epochs})
    return recipe.model_copy(update={"training": training})


@dataclass
class Survey:
    """The labelled stars in their folds, the field stars, and how all are scaled and trained on."""

    training: Spectra
    validation: Spectra
    field: Spectra
    normalization: Normalization
    recipe: Recipe

    def trained(self, more: list[Spectra]) -> tuple[Checkpoint, np.ndarray]:
        """A model of the labelled stars and of these too, and the latents of all of them."""
        stars = [self.training, *more]
        model = fitted(stars, self.normalization, self.recipe)
        return model, model.encode(Spectra.concatenate(stars)).mean.double().numpy()


def alone(survey: Survey) -> tuple[Scores, Scores]:
    model, z = survey.trained([])
    elbo = evaluate(model, survey.validation, fold="all").negative_elbo
    print(f"apogee: -ELBO of the {len(survey.validation)} validation stars {elbo:.2f}", flush=True)
    return scored(model, survey.validation, z), scored(model, survey.field, z)


def mixed(survey: Survey, n_folds: int) -> tuple[Scores, float]:
    part = numpy_stream(0, "field folds").permutation(len(survey.field)) % n_folds
    scores, rows, elbos, far = [], [], [], []
    for k in range(n_folds):
        out = part == k
        model, z = survey.trained([survey.field.take(~out)])
        elbos.append(evaluate(model, survey.validation, fold="all").negative_elbo)
        near = model.encode(survey.validation).mean.double().numpy()
        far.append(np.quantile(cKDTree(z).query(near, N_NEIGHBOURS)[0][:, -1], 0.99))
        scores.append(scored(model, survey.field.take(out), z))
        rows.append(out.nonzero()[0])
    print(f"both: {np.mean(elbos):.2f} (by fold {', '.join(f'{e:.2f}' for e in elbos)})")
    return Scores.put_together(scores, rows), float(np.mean(far))


def main() -> None:
    given = settings()
    torch.set_num_threads(1)
    stars, field = (s.take(s.usable) for s in (sv.load(given.stars).spectra, sv.load(given.field).spectra))
    stars = stars.take(~np.isin(stars.source_id, field.source_id))
    fold, recipe = folds(stars.source_id), recipe_of(given)
    training = stars.take(fold.train)
    normalization = Normalization.fit(lambda: [training], recipe.normalization)
    survey = Survey(training, stars.take(fold.validation), field, normalization, recipe)
    of_validation, of_field = alone(survey)
    both, far = mixed(survey, given.folds)
    far_alone = float(np.quantile(of_validation.distance, 0.99))
    g_field, g_validation = g_of(field), g_of(survey.validation)
    show_by_g("validation stars, model apogee", of_validation, g_validation, far_alone)
    show_by_g("field stars, model apogee", of_field, g_field, far_alone)
    show_by_g("field stars, models both", both, g_field, far)
    scores = {"validation": of_validation, "field, apogee": of_field, "field, both": both}
    middle = {"validation": g_validation, "field, apogee": g_field, "field, both": g_field}
    chosen = {name: (g >= 12) & (g < 15) for name, g in middle.items()}
    show_by_order(scores, chosen, normalization)


if __name__ == "__main__":
    main()
