"""Who runs adapt, exchange and combine, and where? Launcher, hosts, agent processes; or all agents in one process.

Imports: errors, system, catalog, config, meta, maths, algorithms, topology, agent, record, workload, exchange, places.
"""
