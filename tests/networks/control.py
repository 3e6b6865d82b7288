"""Loops of a controller and what it controls: next states, Lyapunov functions, integrators."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from networks.activations import perceptron
from networks.base import network

Dynamics = Callable[[Tensor, Tensor], Tensor]  # state [B, n], action [B, m] -> its derivative [B, n]


class Loop(nn.Module):
    """The state after some steps of Euler's method under the controller."""

    def __init__(self, policy: nn.Module, dynamics: Dynamics, step: float, steps: int = 2) -> None:
        super().__init__()
        self.policy, self.dynamics, self.step, self.steps = policy, dynamics, step, steps

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.steps):
            x = x + self.step * self.dynamics(x, self.policy(x))
        return x


def pendulum(x: Tensor, u: Tensor) -> Tensor:  # angle, speed
    return torch.cat([x[:, 1:], 9.81 * torch.sin(x[:, :1]) - 0.2 * x[:, 1:] + u], 1)


def van_der_pol(x: Tensor, u: Tensor) -> Tensor:
    first, second = x[:, :1], x[:, 1:]
    return torch.cat([second, (1 - first**2) * second - first + u], 1)


def dubins(x: Tensor, u: Tensor) -> Tensor:  # place, heading; a constant speed
    return torch.stack([torch.cos(x[:, 2]), torch.sin(x[:, 2]), u[:, 0]], 1)


def quadrotor(x: Tensor, u: Tensor) -> Tensor:  # place and pitch in the plane, then their speeds; two thrusts
    thrust, torque = u[:, 0] + u[:, 1] + 9.81, u[:, 0] - u[:, 1]
    pitch = x[:, 2]
    return torch.stack([x[:, 3], x[:, 4], x[:, 5], -thrust * pitch.sin(), thrust * pitch.cos() - 9.81, 4 * torque], 1)


def cartpole(x: Tensor, u: Tensor) -> Tensor:  # place, speed, angle, its speed (Barto et al. 1983)
    sine, cosine = torch.sin(x[:, 2]), torch.cos(x[:, 2])
    push = (10 * u[:, 0] + 0.05 * x[:, 3] ** 2 * sine) / 1.1
    turn = (9.8 * sine - cosine * push) / (0.5 * (4 / 3 - 0.1 * cosine**2 / 1.1))
    return torch.stack([x[:, 1], push - 0.05 * turn * cosine / 1.1, x[:, 3], turn], 1)


class Lyapunov(nn.Module):
    """V(x) - V(next x) of a quadratic function, |R x|^2 with a part of a network, as it is trained to be positive."""

    def __init__(self, loop: Loop, states: int) -> None:
        super().__init__()
        self.loop, self.body = loop, perceptron(nn.Tanh, states, 8, 1)
        self.root = nn.Parameter(torch.eye(states) + 0.1 * torch.randn(states, states))

    def value(self, x: Tensor) -> Tensor:
        return (x @ self.root).square().sum(1, keepdim=True) + (self.body(x) - self.body(torch.zeros_like(x))).abs()

    def forward(self, x: Tensor) -> Tensor:
        return self.value(x) - self.value(self.loop(x))


class Barrier(nn.Module):
    """A discrete barrier's condition: h(next x) - 0.9 h(x) of a disc around the origin, for the Dubins car."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self.loop = loop

    def forward(self, x: Tensor) -> Tensor:
        before, after = ((s[:, :2].square().sum(1, keepdim=True) - 0.04).sqrt() for s in (x + 1.5, self.loop(x) + 1.5))
        return after - 0.9 * before


class RungeKutta(nn.Module):
    """Neural ordinary differential equation: steps of the classical method of order four, then classes."""

    def __init__(self) -> None:
        super().__init__()
        self.field, self.out = perceptron(nn.Tanh, 4, 8, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = 0.25
        for _ in range(2):
            first = self.field(x)
            second = self.field(x + h / 2 * first)
            third = self.field(x + h / 2 * second)
            x = x + h / 6 * (first + 2 * second + 2 * third + self.field(x + h * third))
        return self.out(x)


class ActorCritic(nn.Module):
    """Bounded action of an actor, and its value by a critic of state and action."""

    def __init__(self) -> None:
        super().__init__()
        self.actor, self.critic = perceptron(nn.ReLU, 6, 8, 2), perceptron(nn.ReLU, 8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.critic(torch.cat([x, 2 * torch.tanh(self.actor(x))], 1))


@network("pendulum", (2,), 0.01, values=True)
def loop_pendulum() -> nn.Module:
    return Loop(perceptron(nn.Tanh, 2, 8, 1), pendulum, 0.05)


@network("Dubins car", (3,), 0.01, values=True)
def loop_dubins() -> nn.Module:
    return Loop(perceptron(nn.ReLU, 3, 8, 1), dubins, 0.1, steps=4)


@network("quadrotor", (6,), 0.01, values=True)
def loop_quadrotor() -> nn.Module:
    return Loop(perceptron(nn.ReLU, 6, 8, 2), quadrotor, 0.05)


@network("Van der Pol", (2,), 0.01, values=True)
def loop_van_der_pol() -> nn.Module:
    return Loop(perceptron(nn.ReLU, 2, 8, 1), van_der_pol, 0.1)


@network("cartpole", (4,), 0.01, values=True)
def loop_cartpole() -> nn.Module:
    return Loop(perceptron(nn.Tanh, 4, 8, 1), cartpole, 0.02)


@network("Lyapunov decrease", (2,), 0.005)
def lyapunov() -> nn.Module:
    return Lyapunov(Loop(perceptron(nn.Tanh, 2, 8, 1), van_der_pol, 0.05, steps=1), 2)


@network("actor and critic", (6,), 0.01)
def actor_critic() -> nn.Module:
    return ActorCritic()


@network("barrier", (3,), 0.005)
def barrier() -> nn.Module:
    return Barrier(Loop(perceptron(nn.ReLU, 3, 8, 1), dubins, 0.1))


@network("neural differential equation", (4,), 0.01)
def runge_kutta() -> nn.Module:
    return RungeKutta()
