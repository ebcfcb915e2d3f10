"""
Several processes
=================

A head has no state of the tasks, so that ``DistributedDataParallel`` works as for any model. This script starts two processes of
itself with ``torchrun``'s module; each takes its share of the tasks, and gradients are averaged.
"""

import json
import os
import subprocess
import sys

import torch
import torch.distributed
from matplotlib import pyplot
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from sparsesvm import SparseSVMHead


class FewShot(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Sequential(torch.nn.Linear(40, 64), torch.nn.ReLU())
        self.head = SparseSVMHead(lambda1_ratio=0.1)

    def forward(self, query, support, support_labels):
        return self.head(self.encoder(query), self.encoder(support), support_labels, n_way=5)


def work():
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    torch.manual_seed(0)
    model = DistributedDataParallel(FewShot())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(rank)  # every process draws tasks of its own
    labels = torch.arange(25).expand(4, -1) % 5
    losses = []
    for _ in range(30):
        means = torch.randn(4, 5, 40, generator=generator).repeat(1, 5, 1)
        support, query = (means + 2 * torch.randn(4, 25, 40, generator=generator) for _ in range(2))
        loss = cross_entropy(model(query, support, labels).flatten(0, 1), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    total = torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).double().sum()
    sums = [torch.zeros_like(total) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(sums, total)
    if rank == 0:
        print(json.dumps({"losses": losses, "sums": [value.item() for value in sums]}))
    torch.distributed.destroy_process_group()


# %%
# Solves in a process use the threads that it has been given, one each here. ``sparsesvm fit --trainer.devices 2
# --trainer.strategy ddp`` does the same with Lightning.

if "RANK" in os.environ:
    work()
else:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", sys.argv[0]]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    found = json.loads(done.stdout)
    print("sum of all parameters, in each process:", found["sums"])

# %%
# Both end with the same parameters.

if "RANK" not in os.environ:
    figure, axis = pyplot.subplots(figsize=(5, 3), layout="constrained")
    axis.plot(found["losses"])
    axis.set(xlabel="step", ylabel="loss of the first process", ylim=(0, None))
