"""From the stages of a run to the whole archive: time, memory, disk, money, and what is slowest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simulated_archive.sky import N_STARS_DR3

GB, TB = 1e9, 1e12
HOUR = 3600.0
TWICE = "encode, dask"  # the other engine writes the same catalogue
NOT_FOR_ALL = ("crossmatch",)  # which takes as long as its list is
RELEASES = {"DR3": N_STARS_DR3, "ten times DR3": 10 * N_STARS_DR3}


@dataclass(frozen=True)
class Assumptions:
    """What the machines are taken to be.

    Attributes:
        network: What comes from the archive, whatever the number of machines [bytes/s].
        cores: Of the cluster.
        disk: What the cluster's file system reads or writes [bytes/s].
        epochs: Passes over all stars that training takes.
        core_hour: Price of an hour of a core, memory included.
        terabyte_month: Price of storage.
    """

    network: float = 100e6
    cores: int = 64
    disk: float = 2e9
    epochs: int = 10
    core_hour: float = 0.05
    terabyte_month: float = 20.0


@dataclass(frozen=True)
class Estimate:
    """One stage for a whole release.

    Attributes:
        core_hours: Work of all cores.
        here_hours: On a machine as the one that was measured, but for the network's rate.
        cluster_hours: On the cluster, the slower of computing and moving bytes.
        limit: What that is: "cores", "disk" or "network".
    """

    core_hours: float
    here_hours: float
    cluster_hours: float
    limit: str


def estimate(stage: Mapping[str, Any], n_stars: int, given: Assumptions) -> Estimate:
    """A measured stage at `n_stars`: work grows as the stars do, and cores share it."""
    scale = n_stars / stage["stars"] * (given.epochs if stage["name"] == "train" else 1)
    core_hours = scale * stage["cpu_seconds"] / HOUR
    here = scale * stage["seconds"] / HOUR
    moved = scale * (stage["bytes_in"] + stage["bytes_out"])
    limits = {"cores": core_hours / given.cores, "disk": moved / given.disk / HOUR}
    if stage["name"] == "fetch":
        limits["network"] = scale * stage["bytes_in"] / given.network / HOUR
        here = max(here, limits["network"])
    limit = max(limits, key=limits.__getitem__)
    return Estimate(core_hours, here, limits[limit], limit)


def report(result: Mapping[str, Any], given: Assumptions) -> str:
    """The tables of a run in Markdown: what was measured, and both releases by it."""
    stages = [stage for stage in result["stages"] if stage["name"] not in NOT_FOR_ALL]
    parts = [_measured(result), _memory(result["stages"])]
    parts += [_extrapolated(stages, release, n_stars, given) for release, n_stars in RELEASES.items()]
    return "\n\n".join(parts) + "\n"


def _measured(result: Mapping[str, Any]) -> str:
    rows = [
        (
            stage["name"],
            f"{stage['stars'] / stage['seconds']:,.0f}",
            f"{stage['cpu_seconds'] / stage['stars'] * 1e6:,.0f}",
            f"{stage['bytes_in'] / stage['stars']:,.0f}",
            f"{stage['bytes_out'] / stage['stars']:,.0f}",
            f"{stage['peak_process'] / GB:.2f}",
            f"{stage['peak_together'] / GB:.2f}",
            f"{stage['seconds']:,.0f}",
        )
        for stage in result["stages"]
    ]
    header = (
        *("stage", "stars/s", "core-µs a star", "bytes in a star", "bytes out a star"),
        *("GB, largest process", "GB, all processes", "s"),
    )
    machine = ", ".join(f"{key} {value}" for key, value in result["machine"].items())
    return f"{result['n_stars']:,} stars; {machine}\n\n" + _table(header, rows)


def _memory(stages: Sequence[Mapping[str, Any]]) -> str:
    """Whether an ingest takes more memory the larger the store is that it adds to."""
    runs = next((stage["runs"] for stage in stages if stage["name"] == "ingest"), [])
    peaks = ", ".join(f"{run['peak_together'] / GB:.2f}" for run in runs)
    return f"Memory of all processes of ingest, wave by wave [GB]: {peaks}"


def _extrapolated(stages: Sequence[Mapping[str, Any]], release: str, n_stars: int, given: Assumptions) -> str:
    found = {stage["name"]: estimate(stage, n_stars, given) for stage in stages}
    terabytes = {
        stage["name"]: stage["bytes_out"] * n_stars / stage["stars"] / TB
        for stage in stages
        if stage["name"] != "train"
    }
    once = [one for name, one in found.items() if name != TWICE]
    total = Estimate(
        core_hours=sum(one.core_hours for one in once),
        here_hours=sum(one.here_hours for one in once),
        cluster_hours=sum(one.cluster_hours for one in once),
        limit=max(found, key=lambda name: found[name].cluster_hours),
    )
    rows = [
        (
            name,
            f"{one.core_hours:,.0f}",
            f"{one.here_hours:,.0f}",
            f"{one.cluster_hours:,.1f}",
            one.limit,
            f"{terabytes[name]:,.2f}" if name in terabytes else "",
            f"{one.core_hours * given.core_hour:,.1f}",
        )
        for name, one in {**found, "all, encoded once": total}.items()
    ]
    header = ("stage", "core-hours", "hours here", "hours on the cluster", "limit", "TB written", "price")
    kept = terabytes["ingest"] + terabytes["encode"]
    return (
        f"{release}: {n_stars:,} stars\n\n{_table(header, rows)}\n\n"
        f"Kept: {kept:,.2f} TB, {kept * given.terabyte_month:,.0f} a month; "
        f"the files, while they are ingested: {terabytes['fetch']:,.1f} TB"
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
