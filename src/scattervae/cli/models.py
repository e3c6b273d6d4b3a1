"""``scattervae models``: the models that come with the package."""

from scattervae.cli.console import AsJson, Summary, table_lines
from scattervae.science.shipped import card_of, shipped_models


def models(*, as_json: AsJson = False) -> None:
    """List the models that come with the package; wherever a command takes a MODEL, it takes these names.

    Examples:

        scattervae models

        scattervae encode best stars.csv --out catalogue.parquet
    """
    folders = shipped_models()
    cards = {name: card_of(folder) or {} for name, folder in folders.items()}
    rows = [
        (
            name,
            f"{sum(file.stat().st_size for file in folders[name].rglob('*') if file.is_file()) / 1e6:.1f} MB",
            f"{card['training']['n_stars']:,}",
            card["basis"],
            f"{card['scores']['negative_elbo']:.1f}",
            ", ".join(card["labels"]) or "none",
            card["date"],
        )
        for name, card in cards.items()
    ]
    header = ("model", "size", "training stars", "basis", "-ELBO [nat]", "labels", "date")
    lines = table_lines(header, rows) if rows else ("no model comes with this installation",)
    Summary(
        {"models": [{"name": name, "folder": str(folders[name]), **card} for name, card in cards.items()]},
        lines,
    ).show(as_json=as_json)
