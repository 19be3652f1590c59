"""What `base.Backend` asks for, in TensorFlow, gathered from the files beside this one."""

from pipeline.backends.tensorflow.start import quiet_start

with quiet_start():
    from pipeline.backends.tensorflow.build import build, configure, read, versions, write
    from pipeline.backends.tensorflow.loop import cut, stepper, train
    from pipeline.backends.tensorflow.native import LOSSES
    from pipeline.backends.tensorflow.show import layers, observe, predict, scale
    from pipeline.backends.tensorflow.tensors import OPS
    from pipeline.backends.tensorflow.traits import *
