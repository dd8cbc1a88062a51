"""PyTorch with torch.func's nested gradients, compiled by torch.compile; fused Adam.

On a GPU the whole step, gather and noise and Adam with it, is one CUDA graph.
"""

import torch

from tests.benchmarks.steps import torch_eager
from tests.benchmarks.steps.torch_eager import PACKAGES, allow_tf32, device, on

__all__ = ["PACKAGES", "TITLE", "Steps", "allow_tf32", "device"]

TITLE = "PyTorch compiled"
WARM_UP = 3  # steps before a graph is captured


def objective(weights, x, nu, sigma):
    xi = x + sigma * nu
    gradient = torch.func.grad(lambda xi: torch_eager.energy(weights, xi).sum())(xi)
    return (x - xi + sigma**2 * gradient).square().sum(1).mean()


def gradients_of_a_batch(weights, data, order, start, batch, sigma):
    rows = order[start + torch.arange(batch, device=order.device)]
    x = data[rows]
    nu = torch.randn_like(x)
    return torch.func.grad_and_value(objective)(weights, x, nu, sigma)


class Compiled(torch_eager.Steps):
    def __init__(self, network, weights, x, batch):
        super().__init__(network, weights, x, batch)
        torch.compiler.reset()
        self.gradients = torch.compile(
            torch.func.grad_and_value(objective), dynamic=False
        )

    def set_gradients(self, x, nu):
        return self.assign(*self.gradients(self.detached(), x, nu, self.sigma))

    def detached(self):
        # torch.func keeps its own record: the weights' is not wanted.
        return [w.detach() for w in self.weights]

    def assign(self, gradients, loss):
        for w, g in zip(self.weights, gradients, strict=True):
            w.grad = g
        return loss


class Graph(Compiled):
    def __init__(self, network, weights, x, batch):
        torch_eager.Steps.__init__(self, network, weights, x, batch)
        self.gradients = torch.func.grad_and_value(objective)
        self.sample = torch.compile(gradients_of_a_batch, dynamic=False)
        self.order = torch.randperm(len(self.x), device=on)
        self.start = torch.zeros((), dtype=torch.int64, device=on)
        self.graph = None

    def step(self):
        gradients, loss = self.sample(
            self.detached(), self.x, self.order, self.start, self.batch, self.sigma
        )
        self.assign(gradients, loss)
        self.optimizer.step()
        self.start += self.batch

    def capture(self):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self.start.zero_()
                self.step()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.step()

    def run(self, epochs):
        if self.graph is None:
            self.capture()
        for _ in range(epochs):
            torch.randperm(len(self.x), out=self.order)
            self.start.zero_()
            for _ in range(len(self.x) // self.batch):
                self.graph.replay()
        torch.cuda.synchronize()


Steps = Graph if on.type == "cuda" else Compiled
