"""The sides of lifting.py that stand in other libraries: jax-privacy, PyTorch, Opacus."""

from __future__ import annotations

import importlib.util
import itertools
import os
import warnings
from collections.abc import Callable
from typing import Any

import models
import numpy as np

GROUPS = 8
TOLERANCE = 1e-3  # of norms, relative, from one framework to another


def jax_privacy_sides(one: Callable[..., Any], bound: float, micro: int) -> dict[str, Any]:
    """name -> (params, batch) -> the clipped sum. one: (params, example) -> loss."""
    if importlib.util.find_spec("jax_privacy") is None:
        return {}
    from jax_privacy import clipped_grad

    def side(size: int | None) -> Callable[..., Any]:
        return clipped_grad(one, l2_clip_norm=bound, keep_batch_dim=False, microbatch_size=size)

    return {"jax-privacy, clipped": side(None), f"jax-privacy, {micro} at a time": side(micro)}


def convnet_torch() -> models.TorchSide:
    from torch import nn

    def make() -> Any:
        layers = []
        for before, after in itertools.pairwise(models.CHANNELS):
            layers += [
                nn.Conv2d(before, after, 3, padding=1, bias=False),
                nn.GroupNorm(GROUPS, after, eps=models.EPS),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(models.FLAT, models.CLASSES))

    put = models.convnet_torch()  # the same tensors in the same places
    return models.TorchSide(models.torch_put(make, place_convnet), put.loss)


def place_convnet(m: Any, p: Any) -> Any:
    pairs = []
    for i, b in enumerate(p["blocks"]):
        conv, norm = m[4 * i], m[4 * i + 1]
        pairs += [
            (conv.weight, b["w"].transpose(3, 2, 0, 1)),
            (norm.weight, b["scale"]),
            (norm.bias, b["bias"]),
        ]
    return [*pairs, (m[-1].weight, models.channels_first(p["w"]).T), (m[-1].bias, p["b"])]


def lstm_torch(private: bool) -> models.TorchSide:
    """PyTorch's LSTM, or Opacus's, that takes its steps in Python."""
    from torch import nn

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            if private:
                from opacus.layers import DPLSTM as LSTM
            else:
                LSTM = nn.LSTM
            self.rnn = LSTM(models.INPUTS, models.STATE, batch_first=True)
            self.out = nn.Linear(models.STATE, models.CLASSES)
            for name, p in self.rnn.named_parameters():
                if "bias_hh" in name:  # PyTorch has two biases where the others have one
                    p.requires_grad_(False)

        def forward(self, x: Any) -> Any:
            return self.out(self.rnn(x)[0][:, -1])

    def place(m: Any, p: Any) -> Any:
        of = dict(m.rnn.named_parameters())
        return [
            (of["weight_ih_l0"], p["w_x"].T), (of["weight_hh_l0"], p["w_h"].T),
            (of["bias_ih_l0"], p["b"]), (of["bias_hh_l0"], np.zeros_like(p["b"])),
            (m.out.weight, p["w"].T), (m.out.bias, p["b_out"]),
        ]  # fmt: skip

    return models.TorchSide(models.torch_put(Model, place), None)  # type: ignore[arg-type]


def put_of(name: str, private: bool) -> Callable[[Any], Any]:
    if name == "convnet":
        return convnet_torch().put
    if name == "lstm":
        return lstm_torch(private).put
    return models.WORKLOADS[name].sides["PyTorch"]().put  # type: ignore[union-attr]


def torch_sides(name: str, norms: Any) -> tuple[dict[str, Callable[[], Any]], dict[str, str]]:
    """-> what runs, by name, and why others do not. norms: squared, by the JAX sides."""
    if importlib.util.find_spec("torch") is None:
        return {}, {"gradient": "PyTorch is not installed"}
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)
    rng = np.random.default_rng(0)
    workload = models.WORKLOADS[name]
    start, batch = workload.start(rng), workload.batch(rng)
    x, y = map(torch.from_numpy, batch)
    y = y.long()
    if name == "convnet":  # of strides that could be those of channels last Opacus makes zeros
        x = x.reshape(len(x), 1, *x.shape[1:3])
    if name == "gpt":
        x = x.long()

    def losses(model: Any) -> Any:
        logits = model(x)
        each = torch.nn.functional.cross_entropy(
            logits.flatten(0, -2), y.flatten(), reduction="none"
        )
        return each.reshape(len(x), -1).mean(1)

    plain = put_of(name, False)(start)
    wanted = [p for p in plain.parameters() if p.requires_grad]

    def gradient() -> Any:
        return [g.sum() for g in torch.autograd.grad(losses(plain).sum(), wanted)]

    if importlib.util.find_spec("opacus") is None:
        return {"gradient": gradient}, {"Opacus": "is not installed"}
    bound = float(np.sqrt(np.median(norms)))
    sides, refused = {"gradient": gradient}, {}
    for title, make in (("Opacus, hooks", hooks), ("Opacus, ghost clipping", ghost)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                run = make(put_of(name, True)(start), losses, bound)
                found = run().numpy() ** 2
        except Exception as error:  # what Opacus does not take is told, and left out
            refused[title] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:90]}"
            continue
        off = float(np.max(np.abs(found / norms - 1)))
        if off > TOLERANCE:  # the peer's own fault: it is told, and not timed
            refused[title] = f"squared norms are off by {off:.1%}"
            continue
        sides[title] = run
    return sides, refused


def hooks(model: Any, losses: Callable[[Any], Any], bound: float) -> Callable[[], Any]:
    """Gradients of single examples, held, and their clipped sum; returns the norms."""
    import torch
    from opacus.grad_sample import GradSampleModule

    wrapped = GradSampleModule(model)
    wanted = [p for p in wrapped.parameters() if p.requires_grad]

    def run() -> Any:
        wrapped.zero_grad(set_to_none=True)
        losses(wrapped).mean().backward()
        each = [p.grad_sample.flatten(1).norm(2, dim=1) for p in wanted]
        norms = torch.stack(each).norm(2, dim=0)
        factors = (bound / norms).clamp(max=1.0)
        for p in wanted:
            p.grad = torch.einsum("b,b...->...", factors, p.grad_sample)
        return norms

    return run


def ghost(model: Any, losses: Callable[[Any], Any], bound: float) -> Callable[[], Any]:
    """Norms from one backward pass, the clipped sum from another; returns the norms."""
    from opacus.grad_sample import GradSampleModuleFastGradientClipping

    wrapped = GradSampleModuleFastGradientClipping(model, max_grad_norm=bound)

    def run() -> Any:
        wrapped.zero_grad(set_to_none=True)
        each = losses(wrapped)
        each.mean().backward(retain_graph=True)
        wrapped.zero_grad(set_to_none=True)
        factors = wrapped.get_clipping_coef()
        wrapped.disable_hooks()
        (factors * each).sum().backward()
        wrapped.enable_hooks()
        return wrapped.per_sample_gradient_norms.detach()

    return run
