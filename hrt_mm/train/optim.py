"""Optimizers with weight decay and learning rates by parameter, and their state as named tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import ConfigError
from ..core.extras import needs_extra
from ..tasks.base import Task
from .config import OptimConfig
from .saved_tensors import SavedTensors
from .weights import assign_saved, is_sharded, local, refuse


def build_optimizer(task: Task, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer over :func:`param_groups`, without the parameters that ``freeze`` names.

    Those stop requiring gradients.

    Raises:
        ConfigError: a name in ``freeze`` is not one of a module or parameter, nothing is left to train, or
            ``layer_decay`` is set for a task without levels.
        MissingLibrary: the optimizer is one of timm, which is not installed.
    """
    freeze(task, config.freeze)
    groups = param_groups(task, config)
    if config.type == "muon":
        return _muon(task, groups, config)
    if config.type == "sgd":
        return torch.optim.SGD(groups, config.lr, 0.9 if config.momentum is None else config.momentum)
    if config.type == "adamw":
        return _adamw(groups, config)
    with needs_extra("vision", f"optim.type: {config.type}"):
        optimizers: Any = import_module("timm.optim")

    options: dict[str, Any] = {"betas": config.betas}
    if config.type not in ("lion", "clion"):
        options["eps"] = config.eps
    built: torch.optim.Optimizer = optimizers.create_optimizer_v2(groups, opt=config.type, lr=config.lr, **options)
    return built


def _adamw(groups: list[dict[str, Any]], config: OptimConfig) -> torch.optim.AdamW:
    # Fused: one kernel for all parameters, on the CPU too, where many small ones cost more than their arithmetic.
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def _muon(task: Task, groups: list[dict[str, Any]], config: OptimConfig) -> torch.optim.Optimizer:
    """Muon for the matrices of levels; AdamW for embeddings, heads, vectors, and parameters that are not decayed.

    Its updates are scaled to the size of AdamW's, so that both train at one learning rate (arXiv 2502.16982).
    """
    undecayed, levels = no_decay_names(task), task.parameter_levels()
    matrices = {
        id(parameter)
        for name, parameter in task.named_parameters()
        if parameter.ndim == 2 and min(parameter.shape) > 1 and levels[name] is not None and name not in undecayed
    }
    parts: list[list[dict[str, Any]]] = [[], []]
    for group in groups:
        for part, chosen in zip(parts, (True, False), strict=True):
            params = [parameter for parameter in group["params"] if (id(parameter) in matrices) is chosen]
            if params:
                part.append({**group, "params": params})
    optimizers: list[torch.optim.Optimizer] = []
    if parts[0]:
        momentum = 0.95 if config.momentum is None else config.momentum
        optimizers.append(torch.optim.Muon(parts[0], config.lr, momentum=momentum, adjust_lr_fn="match_rms_adamw"))
    if parts[1]:
        optimizers.append(_adamw(parts[1], config))
    return Together(optimizers) if len(optimizers) > 1 else optimizers[0]


class Together(torch.optim.Optimizer):
    """Several optimizers of different parameters as one.

    Args:
        optimizers: that step together.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        super().__init__([group for part in optimizers for group in part.param_groups], {})
        self.optimizers = optimizers
        # The groups and states of the parts themselves: what is set here is read there.
        self.param_groups = [group for part in optimizers for group in part.param_groups]
        for part in optimizers:
            part.state = self.state

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Takes a step of each."""
        for part in self.optimizers:
            part.step()


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
    decays_of = {} if config.layer_decay is None else layer_decays(task, config.layer_decay)
    groups: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in task.named_parameters():
        assert name in levels, f"{type(task).__name__}.parameter_levels() does not name {name}"
        if not parameter.requires_grad:
            continue
        level = levels[name]
        scale = (1.0 if level is None else float(scales[level])) * factors.get(name, 1.0) * decays_of.get(name, 1.0)
        # Decay pulls weights to 0, which is no neutral value for the gain of a norm or the bias of a gate.
        decays = parameter.ndim > 1 and name not in undecayed
        # An optimizer's kernel over several parameters does not take both kinds.
        groups.setdefault((scale, decays, is_sharded(parameter)), []).append(parameter)
    return [
        {"params": params, "lr_scale": scale, "weight_decay": config.weight_decay if decays else 0.0}
        for (scale, decays, _), params in groups.items()
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


_BLOCK = re.compile(r"(.*?)\bstages\.(\d+)\.encoder\.(\d+)\.")
_TRANSITION = re.compile(r"(.*?)\btransitions\.(\d+)\.")
_EMBEDDING = re.compile(r"\bembedding\.")


def layer_decays(task: nn.Module, decay: float) -> dict[str, float]:
    """Learning-rate multipliers by the distance of each parameter's block from the head, by name.

    Blocks are counted from the embedding upwards through the levels of each encoder; what comes after the coarsest
    level, such as the way down, counts as the head.

    Args:
        task: with encoders.
        decay: multiplier of each block further from the head.

    Raises:
        ConfigError: the task has no blocks of levels.
    """
    names = [name for name, _ in task.named_parameters()]
    blocks: dict[str, dict[int, int]] = {}
    for name in names:
        if match := _BLOCK.match(name):
            stages = blocks.setdefault(match[1], {})
            stages[int(match[2])] = max(stages.get(int(match[2]), 0), int(match[3]) + 1)
    if not blocks:
        raise ConfigError("optim.layer_decay needs a model with levels of blocks; drop it")
    deepest = max(sum(stages.values()) for stages in blocks.values()) + 1
    depths: dict[str, int] = {}
    for name in names:
        depths[name] = deepest
        if match := _BLOCK.match(name):
            stages = blocks[match[1]]
            below = sum(count for stage, count in stages.items() if stage < int(match[2]))
            depths[name] = below + int(match[3]) + 1
        elif (match := _TRANSITION.match(name)) and match[1] in blocks:
            depths[name] = sum(count for stage, count in blocks[match[1]].items() if stage <= int(match[2]))
        elif _EMBEDDING.search(name):
            depths[name] = 0
    return {name: decay ** (deepest - depth) for name, depth in depths.items()}


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of each group to ``lr`` times the group's ``lr_scale``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def scale_gradients(parameters: Sequence[nn.Parameter], factor: Tensor) -> None:
    """Multiplies all gradients by a scalar tensor, without reading it on the host."""
    gradients = [local(parameter.grad) for parameter in parameters if parameter.grad is not None]
    if gradients:
        torch._foreach_mul_(gradients, factor.to(gradients[0].dtype))


def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float | None) -> Tensor:
    """Clips the norm of all gradients together to ``max_norm``, if any. Returns the norm before clipping."""
    # With an infinite limit nothing is clipped, and the norm is still there to be logged.
    limit = math.inf if max_norm is None else max_norm
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not any(map(is_sharded, gradients)):
        return nn.utils.clip_grad_norm_(parameters, limit)
    norms = []
    for sharded in (True, False):
        # The norm of shards is one of all ranks, once it is read.
        if alike := [gradient for gradient in gradients if is_sharded(gradient) is sharded]:
            norm = nn.utils.get_total_norm(alike)
            norms.append(norm.full_tensor() if is_sharded(norm) else norm)  # type: ignore[attr-defined]
    total = torch.linalg.vector_norm(torch.stack(norms))
    # As clip_grads_with_norm_(), without mixing shards and scalars.
    torch._foreach_mul_([*map(local, gradients)], (limit / (total + 1e-6)).clamp(max=1.0))
    return total


def optimizer_state(optimizer: torch.optim.Optimizer, task: Task) -> dict[str, Tensor]:
    """The optimizer's state tensors by name, such as ``exp_avg/encoder.embedding.weight``."""
    return {
        # Some count steps by a plain number.
        f"{key}/{name}": value if isinstance(value, Tensor) else torch.tensor(value)
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
    states: dict[str, dict[str, str]] = {}
    shapes = tensors.shapes if isinstance(tensors, SavedTensors) else {name: tensors[name].shape for name in tensors}
    mismatched = []
    for full_name, shape in shapes.items():
        key, _, name = full_name.partition("/")
        if name not in parameters:
            mismatched.append(f"{full_name} is unknown")
        elif len(shape) and shape != parameters[name].shape:
            mismatched.append(f"{full_name} has shape {tuple(shape)}, not {tuple(parameters[name].shape)}")
        states.setdefault(name, {})[key] = full_name
    refuse(mismatched, source)
    for name, keys in states.items():
        parameter = parameters[name]
        optimizer.state[parameter] = {
            key: _restored(tensors, full_name, len(shapes[full_name]), parameter) for key, full_name in keys.items()
        }


def _restored(tensors: Mapping[str, Tensor], name: str, ndim: int, parameter: nn.Parameter) -> Tensor | int:
    """A value of the state of a parameter."""
    if not ndim:
        value = tensors[name]
        return value.to(parameter.device) if value.is_floating_point() else int(value)
    # Moments are laid out in memory, and sharded, as their parameter is.
    moment = torch.empty_like(parameter)
    assign_saved(moment, tensors, name)
    return moment


def _trainable(task: Task) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in task.named_parameters() if parameter.requires_grad)
