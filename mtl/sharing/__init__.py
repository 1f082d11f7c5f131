"""Trunks: sharing of the encoder between tasks. base.py defines the contract.

    trunk = sharing.implementation(tasks, encoder, width, dropout, sharing.settings)

To add a sharing mode, write a Trunk and register it with its settings in mtl/config/sharing.py.

| mode | modules that run for the named tasks |
|---|---|
| hard | the shared encoder once, their heads |
| soft | their encoders |
| cross_stitch | the encoders of all tasks |
| mmoe | the shared blocks and every expert once, their gates |
| ple | the shared blocks and experts, their experts; below the last level the experts of all tasks |
| attention | the shared encoder once, their masks |
| graph | the shared encoder once, their heads and those of their neighbours in the task graph |
| adapter | the first block once, the others once for each of them, their adapters |

The states of a task do not depend on which other tasks are computed.
"""
