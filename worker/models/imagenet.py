"""What the networks for ImageNet share: three parameters, how weights begin, and the form of the network.

Each of these networks names and shapes its tensors as torchvision's of the same name does, so that the
`state_dict()` of one loads. No forward pass holds a number of channels: layers whose weights were sliced
still run.
"""

from pydantic import Field
from torch import nn

from worker.models.registry import Network, Params, image_network


class ImageNetParams(Params):
    in_channels: int = Field(default=3, ge=1, le=64)
    image_size: int = Field(default=224, ge=4, le=2048)
    classes: int = Field(default=1000, ge=1, le=100_000)


def make_network(module: nn.Module, params: ImageNetParams) -> Network:
    """Return the network of a module for square images of `params`."""
    return image_network(module, (params.in_channels, params.image_size, params.image_size), params.classes)


def initialise(module: nn.Module) -> None:
    """Draw the weights of convolutions and linear layers anew, and set their biases to zero.

    He et al. 2015, "Delving deep into rectifiers", equation 14 for convolutions; the classifiers of Simonyan
    and Zisserman 2015 (section 3.1) have the deviation 0.01.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
