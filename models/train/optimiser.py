"""Muon for the matrices of the layers, AdamW for the rest.

Master weights are float32; the model holds bfloat16 working copies, or in the last phase the
values that block FP8 will store, so that gradients are taken where the served model stands.
"""

import torch

from fp8 import fake_quantise, is_stored_in_fp8

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


@torch.compile(dynamic=False)
def orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
    """Replaces the singular values of each of [count, a, b] by about 1."""
    a, b, c = NEWTON_SCHULZ
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.mT if tall else x


class Group:
    """Weights of one matrix shape, held as one stack. [count, a, b]"""

    def __init__(self, params: list[torch.nn.Parameter]) -> None:
        self.params = params
        self.master = self.stack(params).float()
        self.momentum = torch.zeros_like(self.master)
        self.average = self.master.clone()

    @staticmethod
    def stack(tensors) -> torch.Tensor:
        return torch.cat([t.reshape(-1, *t.shape[-2:]) for t in tensors])

    def pieces(self, stack: torch.Tensor) -> list[torch.Tensor]:
        counts = [p.numel() // (p.shape[-1] * p.shape[-2]) for p in self.params]
        return [t.view(p.shape) for t, p in zip(stack.split(counts), self.params)]


class Optimiser:
    def __init__(self, model: torch.nn.Module, lr: float, decay: float, average: float) -> None:
        self.lr, self.decay, self.average_rate = lr, decay, average
        shapes: dict[tuple, list] = {}
        self.names = {p: n for n, p in model.named_parameters()}
        self.plain = []
        for name, p in model.named_parameters():
            if is_stored_in_fp8(name):
                shapes.setdefault(tuple(p.shape[-2:]), []).append(p)
            else:
                self.plain.append(p)
        self.groups = [Group(ps) for ps in shapes.values()]
        self.masters = [p.detach().float().clone() for p in self.plain]
        self.first = [torch.zeros_like(m) for m in self.masters]
        self.second = [torch.zeros_like(m) for m in self.masters]
        self.averages = [m.clone() for m in self.masters]
        self.decays = [p.dim() == 2 for p in self.plain]
        self.steps = 0

    @torch.no_grad()
    def step(self, scale: float, quantised: bool) -> torch.Tensor:
        """One update at lr * scale, then refreshes the working weights. Returns the gradient norm."""
        self.steps += 1
        lr = self.lr * scale
        momentum = min(0.95, 0.85 + 0.1 * self.steps / 300)
        grads = [p.grad for p in self.plain] + [p.grad for g in self.groups for p in g.params]
        norm = torch.nn.utils.get_total_norm(grads)
        # AdamW
        clip = (1.0 / (norm + 1e-6)).clamp(max=1.0)
        plain_grads = [p.grad.float() * clip for p in self.plain]
        b1, b2 = 0.9, 0.95
        torch._foreach_lerp_(self.first, plain_grads, 1 - b1)
        torch._foreach_mul_(self.second, b2)
        torch._foreach_addcmul_(self.second, plain_grads, plain_grads, 1 - b2)
        roots = torch._foreach_sqrt(torch._foreach_div(self.second, 1 - b2**self.steps))
        torch._foreach_add_(roots, 1e-10)
        updates = torch._foreach_div(torch._foreach_div(self.first, 1 - b1**self.steps), roots)
        decayed = [m for m, d in zip(self.masters, self.decays) if d]
        torch._foreach_mul_(decayed, 1 - lr * self.decay)
        torch._foreach_add_(self.masters, updates, alpha=-lr)
        # Early averages follow fast, so that the start is forgotten.
        rate = 1 - min(self.average_rate, self.steps / (self.steps + 10))
        torch._foreach_lerp_(self.averages, self.masters, rate)
        # Muon, scaled so that an update's root mean square is AdamW-like.
        for g in self.groups:
            grad = g.stack([p.grad for p in g.params]).float() * clip
            g.momentum.lerp_(grad, 1 - momentum)
            update = orthogonalise(grad.lerp(g.momentum, momentum)).float()
            g.master.mul_(1 - lr * self.decay)
            g.master.add_(update, alpha=-lr * 0.2 * max(update.shape[-2:]) ** 0.5)
            g.average.lerp_(g.master, rate)
        self.refresh(quantised, averaged=False)
        return norm

    @torch.no_grad()
    def refresh(self, quantised: bool, averaged: bool) -> None:
        """Writes the working weights from the masters or from their running averages."""
        torch._foreach_copy_(self.plain, self.averages if averaged else self.masters)
        for g in self.groups:
            stack = g.average if averaged else g.master
            stack = fake_quantise(stack) if quantised else stack
            torch._foreach_copy_(g.params, g.pieces(stack))

    def weights(self, averaged: bool) -> dict[str, torch.Tensor]:
        """float32 masters or averages by name."""
        out = {self.names[p]: t for p, t in zip(self.plain, self.averages if averaged else self.masters)}
        for g in self.groups:
            for p, t in zip(g.params, g.pieces(g.average if averaged else g.master)):
                out[self.names[p]] = t
        return {n: t.detach().clone().cpu() for n, t in out.items()}

    def state(self) -> dict:
        stacks = [(g.master, g.momentum, g.average) for g in self.groups]
        return {"plain": (self.masters, self.first, self.second, self.averages), "stacks": stacks, "steps": self.steps}

    @torch.no_grad()
    def load(self, state: dict) -> None:
        for mine, theirs in zip((self.masters, self.first, self.second, self.averages), state["plain"]):
            torch._foreach_copy_(mine, theirs)
        for g, (master, momentum, average) in zip(self.groups, state["stacks"]):
            g.master.copy_(master)
            g.momentum.copy_(momentum)
            g.average.copy_(average)
        self.steps = state["steps"]
