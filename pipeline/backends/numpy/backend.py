"""What `base.Backend` asks for, in NumPy, gathered from the files beside this one."""

from pipeline.backends.numpy.build import build, configure, read, versions, write
from pipeline.backends.numpy.loop import LOSSES, cut, stepper, train
from pipeline.backends.numpy.show import layers, observe, predict, scale
from pipeline.backends.numpy.tensors import OPS
from pipeline.backends.numpy.traits import *
