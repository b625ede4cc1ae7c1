"""`overtone`, its model sharded by accelerate's FSDP as a configuration file would have it.

accelerate reads such a configuration only where there are GPUs; here the one line in which it asks
for them is passed over, and everything behind it runs as it is, on CPUs. Used by test_launch.py.
"""

import sys

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch.distributed.tensor import DTensor

from overtone.cli.app import main
from overtone.training.rundir import RunDirectory

start, save = Accelerator.__init__, RunDirectory.save


def start_sharded(self, *arguments, **options):
    start(self, *arguments, **options)
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="TRANSFORMER_BASED_WRAP",
        transformer_cls_names_to_wrap=["DiffiTCell"],
    )
    AcceleratorState._shared_state.update(distributed_type=DistributedType.FSDP, fsdp_plugin=plugin)


def save_sharded(self, progress, export, model, averages, optimizer, keep):
    assert all(isinstance(p, DTensor) for p in model.parameters())
    moments = [v for state in optimizer.state.values() for v in state.values() if v.dim()]
    assert all(isinstance(v, DTensor) for v in moments)
    assert averages
    averaged = [p for average in averages.values() for p in average.module.parameters()]
    assert not any(isinstance(p, DTensor) for p in averaged)
    return save(self, progress, export, model, averages, optimizer, keep)


Accelerator.__init__, RunDirectory.save = start_sharded, save_sharded
main(sys.argv[1:])
