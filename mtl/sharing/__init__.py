"""Trunks: how much of the encoder the tasks share. The contract is in base.py.

    trunk = sharing.implementation(tasks, encoder, width, dropout, sharing.settings)

To add a sharing mode, write a Trunk and register it with its settings in mtl/config/sharing.py.

| mode | what runs for the named tasks |
|---|---|
| hard | the shared encoder once, their heads |
| soft | their encoders |
| cross_stitch | the encoders of all tasks: each is stitched to all others |
| mmoe | the shared blocks and every expert once, their gates |
| ple | the shared blocks, the shared experts and theirs; below the last level the experts of all tasks |
| attention | the shared encoder once, their masks |
| graph | the shared encoder once, their heads and those of their neighbours in the task graph |
| adapter | the first block once, the others once for each of them, their adapters |

The states of a task never depend on which other tasks are computed beside it.
"""
