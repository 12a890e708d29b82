"""How do states and words travel? Exchange: one connection for each edge, and the registry that introduces its ends.

`wire` is bytes alone, `vocabulary` what the control plane may say, `links` what one end knows of an edge; `neighbours`
knows who is there, `outgoing` sends and keeps, `mending` makes a broken connection good (`knocking` tells the dead from
the cut), `transport` keeps the rounds in step; `sockets`, `registry` and `control` hold the ZeroMQ.

Imports: errors, system, record.
"""
