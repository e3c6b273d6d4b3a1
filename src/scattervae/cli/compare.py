"""``scattervae compare``: how two sets of stars differ."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scattervae.cli.console import (
    AsJson,
    ModelFolder,
    Summary,
    Threads,
    choose_device,
    existing,
    table_lines,
)
from scattervae.errors import counted

if TYPE_CHECKING:
    import numpy as np

    from scattervae.science.relative.contrast import Contrast
    from scattervae.science.relative.differences import Comparison


def compare(
    model: ModelFolder,
    first: Annotated[
        Path,
        typer.Argument(metavar="A", callback=existing, help="The first set: a store or file of spectra."),
    ],
    second: Annotated[
        Path, typer.Argument(metavar="B", callback=existing, help="The second set; no star may be in both.")
    ],
    *,
    match: Annotated[
        str,
        typer.Option(
            metavar="NAMES", help="Pair the stars on these: teff, logg, fe_h, alpha_m, a_k, g_mag, bp1_rp1."
        ),
    ] = "",
    caliper: Annotated[
        float, typer.Option(min=0.0, max=1e3, metavar="SD", help="The largest distance within a pair.")
    ] = 0.25,
    level: Annotated[
        float, typer.Option(min=0.0, max=1.0, metavar="SHARE", help="The false-discovery rate of findings.")
    ] = 0.05,
    any_dependence: Annotated[
        bool, typer.Option("--any-dependence", help="Hold that rate whatever the correlations; stricter.")
    ] = False,
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Compare two sets of stars in the latent space, in coefficients and in flux (relative inference).

    Prints the difference of the means, A less B, with 95 % intervals, and marks findings with a star. With
    --match each star of A is paired with the nearest of B, so that both sets are alike in what was matched;
    add bp1_rp1, a colour, where extinction may differ. `--json` has every latent, coefficient and wavelength.

    Examples:

        scattervae compare model rich.parquet poor.parquet --match teff,logg,fe_h

        scattervae compare model halo.parquet disk.parquet --level 0.01 --json
    """
    from scattervae.gaia import reading
    from scattervae.science.relative.contrast import Significance
    from scattervae.science.relative.differences import compare_sets
    from scattervae.science.trained import load_model

    choose_device("cpu", threads)
    checkpoint = load_model(model)
    a, b = (reading.load(stars, at_most=reading.MOST_STARS) for stars in (first, second))
    found = compare_sets(
        checkpoint,
        (a.spectra, b.spectra),
        (a.labels, b.labels),
        match_on=[name.strip() for name in match.split(",") if name.strip()],
        caliper=caliper,
        significance=Significance(level=level, dependence="any" if any_dependence else "positive"),
    )
    Summary(_values(found), tuple(_lines(found))).show(as_json=as_json)


def _values(found: "Comparison") -> dict[str, Any]:
    latents, flux = found.latents, found.flux
    return {
        "n_a": latents.means.n_a,
        "n_b": latents.means.n_b,
        "matched": None if found.matched is None else _balance(found),
        "energy_distance": latents.energy.distance,
        "energy_p_value": latents.energy.p_value,
        "latents": _contrast(latents.means) | {"covariance": latents.covariance.tolist()},
        "coefficients": _contrast(found.coefficients),
        "flux": None
        if flux is None
        else {
            "wavelength_nm": flux.grid_nm.tolist(),
            "relative": flux.relative.tolist(),
            **_contrast(flux.contrast),
        },
    }


def _balance(found: "Comparison") -> dict[str, Any]:
    assert found.matched is not None
    balance = found.matched.balance
    names = ("before", "after", "median_gap")
    return {
        "n_pairs": found.matched.n_pairs,
        "n_unmatched_a": found.matched.n_unmatched_a,
        "n_unmatched_b": found.matched.n_unmatched_b,
        "n_incomplete": found.matched.n_incomplete,
        "covariates": list(balance.names),
        **{name: getattr(balance, name).tolist() for name in names},
    }


def _contrast(contrast: "Contrast") -> dict[str, Any]:
    names = ("difference", "standard_error", "low", "high", "p_value", "q_value", "found")
    return {"unit": contrast.unit, **{name: getattr(contrast, name).tolist() for name in names}}


def _lines(found: "Comparison") -> list[str]:
    means, flux, matched = found.latents.means, found.flux, found.matched
    lines = [f"A less B: {counted(means.n_a, 'star')} and {counted(means.n_b, 'star')}"]
    if matched is not None:
        lines[0] = (
            f"A less B: {counted(matched.n_pairs, 'pair')}; without a partner: {matched.n_unmatched_a:,} of A, "
            f"{matched.n_unmatched_b:,} of B; {matched.n_incomplete:,} lack what was matched"
        )
        balance = matched.balance
        gaps = zip(balance.names, balance.before, balance.after, strict=True)
        header = ("matched on", "gap before [s.d.]", "after")
        lines += table_lines(header, [(name, f"{x:+.3f}", f"{y:+.3f}") for name, x, y in gaps])
    rows = zip(means.difference, means.low, means.high, means.q_value, means.found, strict=True)
    cells = [
        (f"latent {k}", f"{d:+.3f}", f"{low:+.3f}", f"{high:+.3f}", f"{q:.1e}", "*" if is_found else "")
        for k, (d, low, high, q, is_found) in enumerate(rows, start=1)
    ]
    lines += ["", *table_lines(("", "difference", "from", "to", "q", "finding"), cells), ""]
    energy = found.latents.energy
    lines.append(
        f"the latent space as a whole: energy distance {energy.distance:.3f}, p = {energy.p_value:.3f}"
    )
    n_coeffs = len(found.coefficients.difference)
    lines.append(f"coefficients: {found.coefficients.n_found} of {n_coeffs} are findings")
    if flux is not None:
        lines.append(_flux_line(flux.grid_nm, flux.relative, flux.contrast.found))
    return lines


def _flux_line(grid_nm: "np.ndarray", relative: "np.ndarray", is_found: "np.ndarray") -> str:
    import numpy as np

    line = f"flux over G flux: {is_found.sum()} of {len(grid_nm)} wavelengths are findings"
    if is_found.any():
        largest = np.flatnonzero(is_found)[np.abs(relative[is_found]).argmax()]
        line += f", the largest {100 * relative[largest]:+.1f} % at {grid_nm[largest]:.0f} nm"
    return line
