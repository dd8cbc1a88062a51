"""PyTorch as it is written first: autograd with create_graph=True, fused Adam."""

import torch

from tests.benchmarks.networks import BETA_1, BETA_2, EPSILON, LEARNING_RATE

TITLE = "PyTorch eager"
PACKAGES = ("torch",)

on = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device():
    return torch.cuda.get_device_name() if on.type == "cuda" else "CPU"


def allow_tf32(allow):
    torch.set_float32_matmul_precision("high" if allow else "highest")


def energy(weights, x):
    *layers, w = weights
    for kernel, bias in zip(layers[::2], layers[1::2], strict=True):
        x = torch.tanh(torch.addmm(bias, x, kernel))
    return (x @ w)[:, 0]


class Steps:
    def __init__(self, network, weights, x, batch):
        self.x, self.batch, self.sigma = (
            torch.tensor(x, device=on),
            batch,
            network.sigma,
        )
        self.weights = [torch.tensor(w, device=on, requires_grad=True) for w in weights]
        self.optimizer = torch.optim.Adam(
            self.weights,
            LEARNING_RATE,
            (BETA_1, BETA_2),
            EPSILON,
            fused=True,
            capturable=on.type == "cuda",
        )

    def set_gradients(self, x, nu):
        xi = (x + self.sigma * nu).requires_grad_()
        (gradient,) = torch.autograd.grad(
            energy(self.weights, xi).sum(), xi, create_graph=True
        )
        r = x - xi.detach() + self.sigma**2 * gradient
        loss = r.square().sum(1).mean()
        loss.backward(inputs=self.weights)
        return loss.detach()

    def loss_and_gradients(self, x, nu):
        self.optimizer.zero_grad()
        x, nu = torch.tensor(x, device=on), torch.tensor(nu, device=on)
        loss = self.set_gradients(x, nu)
        return loss.cpu(), [w.grad.cpu() for w in self.weights]

    def run(self, epochs):
        for _ in range(epochs):
            for rows in torch.randperm(len(self.x), device=on).view(-1, self.batch):
                x = self.x[rows]
                self.optimizer.zero_grad()
                self.set_gradients(x, torch.randn_like(x))
                self.optimizer.step()
        if on.type == "cuda":
            torch.cuda.synchronize()
