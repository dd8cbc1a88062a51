"""PyTorch as it is written first: autograd with create_graph=True, fused Adam."""

import torch

from tests.benchmarks.networks import BETA_1, BETA_2, EPSILON, LEARNING_RATE

TITLE = "PyTorch eager"


def energy(weights, x):
    *layers, w = weights
    for kernel, bias in zip(layers[::2], layers[1::2], strict=True):
        x = torch.tanh(torch.addmm(bias, x, kernel))
    return (x @ w)[:, 0]


class Steps:
    def __init__(self, network, weights, x, batch):
        self.x, self.batch, self.sigma = torch.from_numpy(x), batch, network.sigma
        self.weights = [torch.tensor(w, requires_grad=True) for w in weights]
        self.optimizer = torch.optim.Adam(
            self.weights, LEARNING_RATE, (BETA_1, BETA_2), EPSILON, fused=True
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
        loss = self.set_gradients(torch.from_numpy(x), torch.from_numpy(nu))
        return loss, [w.grad for w in self.weights]

    def run(self, epochs):
        for _ in range(epochs):
            for rows in torch.randperm(len(self.x)).view(-1, self.batch):
                x = self.x[rows]
                self.optimizer.zero_grad()
                self.set_gradients(x, torch.randn_like(x))
                self.optimizer.step()
