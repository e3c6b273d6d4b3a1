"""How the weights move: one or two of PyTorch's optimisers, with a schedule each, stepped and saved together."""

import json
import math
from typing import Any

import torch
from torch import Tensor

from scattervae.model.network import ScatterVAE, inner_matrices
from scattervae.model.recipe import TrainingSettings

_WARM_UP = 0.05
_STAYS_UNTIL = 0.5
MUON_MOMENTUM = 0.95  # Jordan et al. (2024), and PyTorch's default


class Muon(torch.optim.Muon):
    """PyTorch's Muon with its iteration in the precision of the weights.

    PyTorch's is in bfloat16, which a CPU without instructions for it emulates, 28 times slower than float32.

    Source:
        Jordan et al. (2024), https://kellerjordan.github.io/posts/muon/
    """

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One step of all matrices that have a gradient."""
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            for weights in group["params"]:
                if weights.grad is None:
                    continue
                buffer = self.state[weights].setdefault("momentum_buffer", torch.zeros_like(weights))
                buffer.lerp_(weights.grad, 1.0 - momentum)
                along = orthogonalized(weights.grad.lerp(buffer, momentum), group)
                n_rows, n_columns = weights.shape
                weights.mul_(1.0 - rate * group["weight_decay"])
                weights.add_(along, alpha=-rate * math.sqrt(max(1.0, n_rows / n_columns)))


def orthogonalized(matrix: Tensor, group: dict[str, Any]) -> Tensor:
    """The matrix with all its singular values brought near 1, by the quintic iteration of Muon's `group`."""
    a, b, c = group["ns_coefficients"]
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Optimizers:
    """Optimisers over all weights of a network, and the schedules of their learning rates."""

    def __init__(self, network: ScatterVAE, settings: TrainingSettings, n_steps: int) -> None:
        self._optimizers = _optimizers(network, settings)
        self._schedules = [_schedule(optimizer, settings, n_steps) for optimizer in self._optimizers]

    @property
    def learning_rate(self) -> float:
        """The present one, of the first optimiser."""
        rate: float = self._optimizers[0].param_groups[0]["lr"]
        return rate

    def zero_grad(self) -> None:
        """Forget the gradients of the batch before."""
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)

    def step(self) -> None:
        """One step along the gradients, and one of the schedules."""
        for optimizer, schedule in zip(self._optimizers, self._schedules, strict=True):
            optimizer.step()
            schedule.step()

    def tensors(self) -> dict[str, Tensor]:
        """What the optimisers remember, by ``optimiser/weight/name``."""
        return {
            f"{number}/{index}/{name}": value
            for number, optimizer in enumerate(self._optimizers)
            for index, state in optimizer.state_dict()["state"].items()
            for name, value in state.items()
        }

    def notes(self) -> str:
        """Settings of the optimisers and state of the schedules, as JSON."""
        return json.dumps(
            {
                "param_groups": [optimizer.state_dict()["param_groups"] for optimizer in self._optimizers],
                "schedules": [schedule.state_dict() for schedule in self._schedules],
            }
        )

    def restore(self, tensors: dict[str, Tensor], notes: str) -> None:
        """Go on from what `tensors` and `notes` gave."""
        states: list[dict[int, dict[str, Tensor]]] = [{} for _ in self._optimizers]
        for key, value in tensors.items():
            number, index, name = key.split("/")
            states[int(number)].setdefault(int(index), {})[name] = value
        saved = json.loads(notes)
        for optimizer, state, groups in zip(self._optimizers, states, saved["param_groups"], strict=True):
            optimizer.load_state_dict({"state": state, "param_groups": groups})
        for schedule, state_of in zip(self._schedules, saved["schedules"], strict=True):
            schedule.load_state_dict(state_of)


def _optimizers(network: ScatterVAE, settings: TrainingSettings) -> list[torch.optim.Optimizer]:
    rate, decay = settings.learning_rate, settings.weight_decay
    weights = list(network.parameters())
    if settings.optimizer == "sgd":
        return [torch.optim.SGD(weights, lr=rate, momentum=settings.momentum, fused=True)]
    if settings.optimizer == "adamw":
        return [torch.optim.AdamW(weights, lr=rate, weight_decay=decay, fused=True)]
    networks = (network.encoder, network.decoder, network.scatter_estimator)
    inner = [matrix for layers in networks for matrix in inner_matrices(layers)]
    others = [w for w in weights if not any(w is matrix for matrix in inner)]
    adamw = torch.optim.AdamW(others, lr=rate, weight_decay=decay, fused=True)
    if not inner:
        return [adamw]
    return [
        adamw,
        Muon(inner, lr=settings.matrix_learning_rate, weight_decay=decay, momentum=MUON_MOMENTUM),
    ]


def _schedule(
    optimizer: torch.optim.Optimizer, settings: TrainingSettings, n_steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    if settings.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=n_steps)
    if settings.schedule == "one_cycle":
        peaks = [group["lr"] for group in optimizer.param_groups]
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=peaks, total_steps=n_steps + 1)
    return trapezoid_schedule(optimizer, n_steps)


def trapezoid_schedule(
    optimizer: torch.optim.Optimizer, n_steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Up to each group's learning rate, constant, and down to zero (Haegele et al. 2024, arXiv:2405.18392)."""

    def share_of_peak(step: int) -> float:
        done = (step + 1) / (n_steps + 1)
        return max(0.0, min(done / _WARM_UP, 1.0, (1.0 - done) / (1.0 - _STAYS_UNTIL)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, share_of_peak)
