"""PyTorch with torch.func's nested gradients, compiled by torch.compile; fused Adam."""

import torch

from tests.benchmarks.steps import torch_eager

TITLE = "PyTorch compiled"


def objective(weights, x, nu, sigma):
    xi = x + sigma * nu
    gradient = torch.func.grad(lambda xi: torch_eager.energy(weights, xi).sum())(xi)
    return (x - xi + sigma**2 * gradient).square().sum(1).mean()


class Steps(torch_eager.Steps):
    def __init__(self, network, weights, x, batch):
        super().__init__(network, weights, x, batch)
        torch.compiler.reset()
        self.gradients = torch.compile(
            torch.func.grad_and_value(objective), dynamic=False
        )

    def set_gradients(self, x, nu):
        # torch.func keeps its own record: the weights' is not wanted.
        weights = [w.detach() for w in self.weights]
        gradients, loss = self.gradients(weights, x, nu, self.sigma)
        for w, g in zip(self.weights, gradients, strict=True):
            w.grad = g
        return loss
