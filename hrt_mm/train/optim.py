"""AdamW with weight decay and learning rates by parameter, and its state as named tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import ConfigError
from ..tasks.base import Task
from .config import OptimConfig
from .weights import refuse


def build_optimizer(task: Task, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over :func:`param_groups`, without the parameters that ``freeze`` names, which stop requiring gradients.

    Raises:
        ConfigError: a name in ``freeze`` is not one of a module or parameter, or nothing is left to train.
    """
    freeze(task, config.freeze)
    # Fused: one kernel for all parameters, on the CPU too, where many small ones cost more than their arithmetic.
    return torch.optim.AdamW(param_groups(task, config), lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def freeze(task: nn.Module, names: Sequence[str]) -> None:
    """Makes parameters not require gradients.

    Args:
        task: whose parameters they are.
        names: of modules or parameters.

    Raises:
        ConfigError: a name is not one of a module or parameter, or nothing is left to train.
    """
    parameters = dict(task.named_parameters())
    for name in names:
        frozen = [full for full in parameters if full == name or full.startswith(f"{name}.")]
        if not frozen:
            modules = [module for module, _ in task.named_modules() if module]
            nearest = get_close_matches(name, [*modules, *parameters], 3) or modules[:5]
            raise ConfigError(f"optim.freeze: the model has no {name!r}; it has {', '.join(nearest)}, ...")
        for full in frozen:
            parameters[full].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise ConfigError(f"optim.freeze: {', '.join(names)} leaves nothing to train")


def param_groups(task: Task, config: OptimConfig) -> list[dict[str, Any]]:
    """Trainable parameters grouped by learning-rate multiplier (``lr_scale``) and ``weight_decay``.

    A module with an attribute ``lr_scale``, such as a pretrained encoder, multiplies that of its level by it.

    Vectors and scalars (biases, norms, gates) are not decayed, nor are parameters that a module lists in
    ``no_weight_decay()``, as in timm.
    """
    levels, scales = task.parameter_levels(), task.lr_scales()
    undecayed, factors = no_decay_names(task), lr_factors(task)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in task.named_parameters():
        assert name in levels, f"{type(task).__name__}.parameter_levels() does not name {name}"
        if not parameter.requires_grad:
            continue
        level = levels[name]
        scale = (1.0 if level is None else float(scales[level])) * factors.get(name, 1.0)
        # Decay pulls weights to 0, which is no neutral value for the gain of a norm or the bias of a gate.
        decays = parameter.ndim > 1 and name not in undecayed
        groups.setdefault((scale, decays), []).append(parameter)
    return [
        {"params": params, "lr_scale": scale, "weight_decay": config.weight_decay if decays else 0.0}
        for (scale, decays), params in groups.items()
    ]


def no_decay_names(module: nn.Module) -> set[str]:
    """Names of the parameters that modules exclude from weight decay through ``no_weight_decay()``."""
    excluded: set[str] = set()
    for prefix, child in module.named_modules():
        names = getattr(child, "no_weight_decay", None)
        if callable(names):
            excluded.update(f"{prefix}.{name}" if prefix else name for name in names())
    return excluded


def lr_factors(module: nn.Module) -> dict[str, float]:
    """Learning-rate multipliers of the parameters of modules with an attribute ``lr_scale``, by name."""
    factors: dict[str, float] = {}
    for prefix, child in module.named_modules():
        scale = getattr(child, "lr_scale", None)
        if isinstance(scale, float):
            for name, _ in child.named_parameters(prefix):
                factors[name] = factors.get(name, 1.0) * scale
    return factors


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of each group to ``lr`` times the group's ``lr_scale``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def scale_gradients(parameters: Sequence[nn.Parameter], factor: Tensor) -> None:
    """Multiplies all gradients by a scalar tensor, without reading it on the host."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if gradients:
        torch._foreach_mul_(gradients, factor.to(gradients[0].dtype))


def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float | None) -> Tensor:
    """Clips the norm of all gradients together to ``max_norm``, if any. Returns the norm before clipping."""
    # With an infinite limit nothing is clipped, and the norm is still there to be logged.
    return nn.utils.clip_grad_norm_(parameters, math.inf if max_norm is None else max_norm)


def optimizer_state(optimizer: torch.optim.Optimizer, task: Task) -> dict[str, Tensor]:
    """The optimizer's state tensors by name, such as ``exp_avg/encoder.embedding.weight``."""
    return {
        f"{key}/{name}": value
        for name, parameter in _trainable(task)
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, task: Task, tensors: Mapping[str, Tensor], source: str
) -> None:
    """Loads what :func:`optimizer_state` returned.

    Raises:
        UserError: names or shapes differ; names ``source`` and the first of them.
    """
    parameters = dict(_trainable(task))
    states: dict[str, dict[str, Tensor]] = {}
    mismatched = []
    for full_name, value in tensors.items():
        key, _, name = full_name.partition("/")
        if name not in parameters:
            mismatched.append(f"{full_name} is unknown")
        elif value.ndim and value.shape != parameters[name].shape:
            mismatched.append(f"{full_name} has shape {tuple(value.shape)}, not {tuple(parameters[name].shape)}")
        states.setdefault(name, {})[key] = value
    refuse(mismatched, source)
    for name, state in states.items():
        parameter = parameters[name]
        optimizer.state[parameter] = {
            # Moments are laid out in memory as their parameter is; counters of steps are scalars.
            key: torch.empty_like(parameter).copy_(value) if value.ndim else value.to(parameter.device)
            for key, value in state.items()
        }


def _trainable(task: Task) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in task.named_parameters() if parameter.requires_grad)
