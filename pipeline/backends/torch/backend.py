"""What `base.Backend` asks for, in PyTorch, gathered from the files beside this one."""

from pipeline.backends.torch.build import build, configure, read, versions, write
from pipeline.backends.torch.loop import cut, stepper, train
from pipeline.backends.torch.native import LOSSES
from pipeline.backends.torch.show import layers, observe, predict, scale
from pipeline.backends.torch.tensors import OPS
from pipeline.backends.torch.traits import *
