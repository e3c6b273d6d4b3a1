"""Which method finds odd spectra best: injected kinds at graded strengths, against six others.

    python -m benchmarks.outliers MODEL FIELD [--json] [--nebulae]

Half of the stars of FIELD are the population called ordinary; a quarter chooses each method's settings, a quarter is
scored: each star as it is, and with each oddity injected through the flux. AUC, average precision, and recall at 1 %
false alarms with their 95 % bootstrap intervals. The other methods get coefficients over G flux, in units of the
population's standard deviation or of the star's own errors, whichever is better for them. Ten minutes on two cores.

With --nebulae instead how well 616 made-up planetary nebulae and symbiotic stars are found among all stars of FIELD,
which are the reference too; and how well by each part alone. A minute.
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from sklearn.neural_network import MLPRegressor

import scattervae as sv
from scattervae.gaia.basis import catalogue_g_flux, g_mag_of
from scattervae.gaia.flux import design
from scattervae.science.outliers import PARTS, OutlierReference
from scattervae.science.star_parts import StarParts
from scattervae.seeds import numpy_stream

Scorer = Callable[[np.ndarray], np.ndarray]
_RIDGE = (
    3e-3  # of the largest singular value: injected flux is smooth on a scale that the instrument resolves
)
_N_BOOTSTRAP = 200
_BATCH = 512  # of the flow
_N_NEBULAE, _WIDTHS = 616, (0.7, 100.0)  # nm
_G_BINS = (0, 15, 16, 17, 99)


def main() -> None:
    """Score all methods on all kinds and print a table, or JSON."""
    model = sv.load_model(sys.argv[1])
    stars = sv.load(Path(sys.argv[2]), basis=model.normalization.basis).spectra
    stars = stars.take(stars.usable)
    if "--nebulae" in sys.argv:
        print_nebulae(model, stars)
        return
    order = numpy_stream(0, "outlier benchmark").permutation(len(stars))
    half, quarter = len(stars) // 2, 3 * len(stars) // 4
    ordinary, tuned, scored = (
        stars.take(np.sort(order[part])) for part in (slice(half), slice(half, quarter), slice(quarter, None))
    )
    methods = fitted(model, ordinary, ordinary)
    chosen = {name: best(versions, tuned) for name, versions in methods.items()}
    rows = [
        {
            "kind": kind,
            "method": name,
            **scores(values := method(scored), odd_values := method(odd)),
            **by_g(values, odd_values, np.asarray(g_mag_of(scored.g_flux))),
        }
        for kind, odd in kinds(scored)
        for name, method in chosen.items()
    ]
    if "--json" in sys.argv:
        print(json.dumps(rows, indent=2))
        return
    print(f"{len(ordinary)} ordinary stars, {len(scored)} scored; AUC (95 % interval)")
    print(f"{'kind':<22}", *(f"{name:>22}" for name in chosen))
    for kind in dict.fromkeys(row["kind"] for row in rows):
        cells = [row for row in rows if row["kind"] == kind]
        print(
            f"{kind:<22}",
            *(f"{c['auc']:.3f} ({c['auc_low']:.3f}-{c['auc_high']:.3f})".rjust(22) for c in cells),
        )


def print_nebulae(model: sv.TrainedModel, stars: sv.Spectra) -> None:
    """The score's and each part's AUC, average precision and recall, as JSON; a star is not its own neighbour."""
    ordinary = StarParts.of(model, [stars])
    reference = OutlierReference.fit(model, ordinary)
    usual = reference.score(ordinary)
    odd = reference.score(StarParts.of(model, [made_nebulae(stars)]))
    pairs = {name: (usual.excess[:, k], odd.excess[:, k]) for k, name in enumerate(PARTS)}
    pairs = {"outlier_score": (usual.score, odd.score)} | pairs
    print(json.dumps({name: scores(*pair) for name, pair in pairs.items()}, indent=2))


def made_nebulae(stars: sv.Spectra) -> sv.Spectra:
    """Emission lines in the bluest and the reddest 15 % of these stars of G from 9 to 17.65, brighter by their light.

    Equivalent widths of H alpha are log-uniform from `_WIDTHS`; the other lines' fluxes over its are those of nebulae
    in blue stars (H beta 0.18 to 0.4, [O III] 0.2 to 5), and of symbiotic stars in red ones ([O III] 0.01 to 0.5),
    with some light of a hot star.
    """
    draw = numpy_stream(3, "outlier benchmark")
    colour = stars.coeffs[:, 0] / stars.coeffs[:, stars.basis.rp.start]
    g_mag = np.asarray(g_mag_of(stars.g_flux))
    inside = (g_mag > 9) & (g_mag < 17.65)
    blue, red = colour > np.quantile(colour, 0.85), colour < np.quantile(colour, 0.15)
    half = _N_NEBULAE // 2
    hosts = [draw.choice(np.flatnonzero(inside & some), half) for some in (blue, red)]
    some = stars.take(np.concatenate(hosts))
    is_red = np.repeat([False, True], half)
    grid = design(some.basis).grid_nm
    flux = np.clip(some.coeffs @ design(some.basis).matrix.T, 0.0, None)
    oxygen = 10 ** np.where(is_red, draw.uniform(-2, -0.3, 2 * half), draw.uniform(-0.7, 0.7, 2 * half))
    balmer, helium = (10 ** draw.uniform(*range_, 2 * half) for range_ in ((-0.75, -0.4), (-2, -0.8)))
    lines = {656.3: 1.0, 500.7: oxygen, 495.9: oxygen / 3, 486.1: balmer, 587.6: helium, 667.8: helium / 3}
    h_alpha = np.exp(draw.uniform(*np.log(_WIDTHS), 2 * half)) * np.median(
        flux[:, np.abs(grid - 656.3) < 40], axis=1
    )
    added = np.zeros_like(flux)
    for at, ratio in lines.items():
        added += (h_alpha * ratio)[:, None] * line(grid, at, 5.0)
    hot_light = is_red * 0.05 * draw.uniform(0, 1, 2 * half) * np.median(flux, axis=1)
    made = with_flux(some, added + hot_light[:, None] * (grid / 550.0) ** -3)
    return replace(made, g_flux=some.g_flux * catalogue_g_flux(made) / catalogue_g_flux(some))


def fitted(
    model: sv.TrainedModel, compared: sv.Spectra, ordinary: sv.Spectra
) -> dict[str, list[Callable[[sv.Spectra], np.ndarray]]]:
    """Each method with its settings to choose from: ours compares with `compared`, the others learn `ordinary`."""
    reference = OutlierReference.fit(model, StarParts.of(model, [compared]))
    methods: dict[str, list[Callable[[sv.Spectra], np.ndarray]]] = {
        "scattervae": [lambda s: reference.score(StarParts.of(model, [s])).score]
    }
    for by_errors in (False, True):
        features = scaled(ordinary, by_errors=by_errors)
        x = features(ordinary)
        for name, scorer in classical(x):
            methods.setdefault(name, []).append(lambda s, f=features, score=scorer: score(f(s)))
    return methods


def scaled(ordinary: sv.Spectra, *, by_errors: bool) -> Callable[[sv.Spectra], np.ndarray]:
    """Coefficients over G flux, less the population's mean, in units of its spread or of each star's errors."""
    per_flux = ordinary.coeffs / ordinary.g_flux[:, None]
    mean, sd = per_flux.mean(axis=0), per_flux.std(axis=0)

    def features(stars: sv.Spectra) -> np.ndarray:
        unit = np.hypot(stars.errors / stars.g_flux[:, None], 0.1 * sd) if by_errors else sd
        return np.clip((stars.coeffs / stars.g_flux[:, None] - mean) / unit, -1e4, 1e4)

    return features


def classical(x: np.ndarray) -> Iterator[tuple[str, Scorer]]:
    """The other methods on these features, each with a few settings."""
    for n in (5, 10, 20):
        pca = PCA(n, random_state=0).fit(x)
        yield "PCA", lambda y, pca=pca: np.square(y - pca.inverse_transform(pca.transform(y))).mean(axis=1)
    for n in (5, 20):
        near = NearestNeighbors(n_neighbors=n).fit(x)
        yield "kNN", lambda y, near=near: near.kneighbors(y)[0].mean(axis=1)
        lof = LocalOutlierFactor(n_neighbors=n, novelty=True).fit(x)
        yield "LOF", lambda y, lof=lof: -lof.score_samples(y)
    forest = IsolationForest(n_estimators=300, random_state=0).fit(x)
    yield "IsolationForest", lambda y: -forest.score_samples(y)
    for width in (4, 8):
        shape = (50, width, 50)
        network = MLPRegressor(
            hidden_layer_sizes=shape, max_iter=400, early_stopping=True, random_state=0
        ).fit(x, x)
        yield "autoencoder", lambda y, network=network: np.square(y - network.predict(y)).mean(axis=1)
    yield "flow", flow(x)


def flow(x: np.ndarray) -> Scorer:
    """Minus the log density of a masked autoregressive flow on ten principal components and what they leave."""
    import torch
    import zuko

    torch.manual_seed(0)
    pca = PCA(10, random_state=0, whiten=True).fit(x)

    def parts(y: np.ndarray) -> torch.Tensor:
        left = np.log(np.square(y - pca.inverse_transform(pca.transform(y))).mean(axis=1) + 1e-12)
        return torch.as_tensor(np.column_stack([pca.transform(y), left]), dtype=torch.float32)

    net, data = zuko.flows.MAF(11, transforms=3, hidden_features=(64, 64)), parts(x)
    center, scale = data.mean(dim=0), data.std(dim=0)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3, weight_decay=1e-4)
    for _ in range(600):
        some = data if len(data) <= _BATCH else data[torch.randint(len(data), (_BATCH,))]
        loss = -net().log_prob((some - center) / scale).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    @torch.no_grad()
    def score(y: np.ndarray) -> np.ndarray:
        return -net().log_prob((parts(y) - center) / scale).numpy()

    return score


def best(
    versions: list[Callable[[sv.Spectra], np.ndarray]], tuned: sv.Spectra
) -> Callable[[sv.Spectra], np.ndarray]:
    """The version with the largest mean AUC over all kinds on the stars that choose."""
    if len(versions) == 1:
        return versions[0]
    odd = list(kinds(tuned))
    mean = [np.mean([auc(version(tuned), version(stars)) for _, stars in odd]) for version in versions]
    return versions[int(np.argmax(mean))]


def auc(ordinary: np.ndarray, odd: np.ndarray) -> float:
    """The chance that an odd star scores higher than an ordinary one."""
    truth = np.repeat([0, 1], [len(ordinary), len(odd)])
    return float(roc_auc_score(truth, np.nan_to_num(np.r_[ordinary, odd], posinf=1e12)))


def precision(ordinary: np.ndarray, odd: np.ndarray) -> float:
    """Average precision."""
    truth = np.repeat([0, 1], [len(ordinary), len(odd)])
    return float(average_precision_score(truth, np.nan_to_num(np.r_[ordinary, odd], posinf=1e12)))


def recall(ordinary: np.ndarray, odd: np.ndarray) -> float:
    """Share of odd stars beyond 99 % of the ordinary ones."""
    return float((odd > np.quantile(ordinary, 0.99)).mean())


def scores(ordinary: np.ndarray, odd: np.ndarray) -> dict[str, float]:
    """AUC, average precision, and recall at 1 % false alarms, with their intervals."""
    draw, found = numpy_stream(1, "outlier benchmark"), {}
    samples = [
        (draw.choice(ordinary, size=len(ordinary)), draw.choice(odd, size=len(odd)))
        for _ in range(_N_BOOTSTRAP)
    ]
    for name, measure in (("auc", auc), ("average_precision", precision), ("recall_at_1_percent", recall)):
        low, high = np.percentile([measure(*sample) for sample in samples], (2.5, 97.5))
        found |= {name: measure(ordinary, odd), f"{name}_low": float(low), f"{name}_high": float(high)}
    return found


def by_g(ordinary: np.ndarray, odd: np.ndarray, g_mag: np.ndarray) -> dict[str, float]:
    """AUC in bins of G, of the same stars as they are and made odd."""
    return {
        f"auc_g_{low:g}_{high:g}": auc(ordinary[rows], odd[rows])
        for low, high in pairwise(_G_BINS)
        if (rows := (g_mag >= low) & (g_mag < high)).sum() > 1
    }


def kinds(stars: sv.Spectra) -> Iterator[tuple[str, sv.Spectra]]:
    """The same stars with each oddity injected, at graded strengths."""
    draw = numpy_stream(2, "outlier benchmark")
    grid = design(stars.basis).grid_nm
    flux = np.clip(stars.coeffs @ design(stars.basis).matrix.T, 0.0, None)
    level = np.median(flux, axis=1, keepdims=True)
    other = draw.permutation(len(stars))
    ratio = (stars.g_flux / stars.g_flux[other])[:, None]
    nebula = ((656.3, 1.0), (500.7, 1.2), (495.9, 0.4), (486.1, 0.35))
    for width in (2, 5, 10):
        yield f"H alpha {width} nm", with_flux(stars, emission(flux, grid, ((656.3, 1.0),), width))
    for width in (3, 10):
        yield f"nebula {width} nm", with_flux(stars, emission(flux, grid, nebula, width))
    bands = carbon_bands(grid)
    for depth in (0.1, 0.3):
        yield f"carbon {depth}", with_flux(stars, -depth * flux * bands)
    for a_v in (0.3, 1.0):  # a steeper law than the Galaxy's: A ~ wavelength^-3, at constant G
        reddened = flux * 10 ** (-0.4 * a_v * (grid / 550.0) ** -3.0)
        yield (
            f"other dust {a_v} mag",
            with_flux(stars, reddened * (level / np.median(reddened, axis=1, keepdims=True)) - flux),
        )
    for size in (0.02, 0.1):
        yield f"wiggles {size}", with_flux(stars, size * flux * np.sin(2 * np.pi * grid / 30.0))
    for sigma in (5, 20):
        coeffs, column = stars.coeffs.copy(), draw.integers(stars.coeffs.shape[1], size=len(stars))
        rows = np.arange(len(stars))
        coeffs[rows, column] += sigma * stars.errors[rows, column]
        yield f"one coefficient {sigma}", replace(stars, coeffs=coeffs)
    rp = stars.basis.rp
    coeffs = stars.coeffs.copy()
    coeffs[:, rp] = stars.coeffs[other][:, rp] * ratio
    yield "band of another star", replace(stars, coeffs=coeffs)
    for share in (0.25, 0.5):
        coeffs = (1 - share) * stars.coeffs + share * stars.coeffs[other] * ratio
        noise = np.sqrt(
            np.clip(1 - (1 - share) ** 2 - (share * 1.0) ** 2, 0, None)
        )  # both had their own noise
        yield (
            f"binary {share}",
            replace(stars, coeffs=coeffs + noise * stars.errors * draw.normal(size=coeffs.shape)),
        )
    yield "white dwarf", with_flux(stars, level * (grid / 550.0) ** -4.0 - flux)
    lines = sum(
        height * np.exp(-0.5 * ((grid - at) / 12.0) ** 2) for at, height in ((480.0, 1.0), (720.0, 0.5))
    )
    yield "quasar", with_flux(stars, level * ((grid / 550.0) ** -1.5 + lines) - flux)


def carbon_bands(grid: np.ndarray) -> np.ndarray:
    """The Swan bands of C2 on this grid [nm], 1 at their heads, fading to the blue."""
    return sum(
        np.clip(1 - (edge - grid) / 25, 0, 1) * (grid <= edge) * (grid > edge - 25)
        for edge in (474, 517, 564)
    )


def emission(
    flux: np.ndarray, grid: np.ndarray, lines: tuple[tuple[float, float], ...], width: float
) -> np.ndarray:
    """Emission lines of this equivalent width [nm], as wide as the instrument resolves."""
    added = np.zeros_like(flux)
    for at, strength in lines:
        continuum = np.median(flux[:, np.abs(grid - at) < 40], axis=1, keepdims=True)
        added += width * strength * continuum * line(grid, at, 6.0)
    return added


def line(grid: np.ndarray, at: float, sigma: float) -> np.ndarray:
    """A Gaussian line of unit flux."""
    return np.exp(-0.5 * ((grid - at) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))


def with_flux(stars: sv.Spectra, added: np.ndarray) -> sv.Spectra:
    """The stars with flux added to both bands, through their basis functions."""
    grid, coeffs = design(stars.basis), stars.coeffs.copy()
    for band, low, high in ((stars.basis.bp, 330, 680), (stars.basis.rp, 620, 1050)):
        functions = grid.alone[:, band]
        inside = np.isfinite(functions).all(axis=1) & (grid.grid_nm > low) & (grid.grid_nm < high)
        a = functions[inside]
        ridge = (_RIDGE * np.linalg.norm(a, 2)) ** 2 * np.eye(a.shape[1])
        coeffs[:, band] += added[:, inside] @ np.linalg.solve(a.T @ a + ridge, a.T).T
    return replace(stars, coeffs=coeffs)


if __name__ == "__main__":
    main()
