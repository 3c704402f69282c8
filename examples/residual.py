import torch
from torch import nn


class Residual(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels))

    def forward(self, x):
        return torch.relu(x + self.conv(x))


def blocks(channels: int = 32, depth: int = 3):
    return [nn.Conv2d(1, channels, 3, padding=1), *(Residual(channels) for _ in range(depth))]
