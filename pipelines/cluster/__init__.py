"""Triptych on Ray Serve: replicas, whoever calls them, and how both come to run.

A line of a log that can't be written is dropped in every process that has to do with a cluster (`logging.raiseExceptions`). Serve may lead
a replica's stderr back into its log (`RAY_SERVE_LOG_TO_STDERR=0`), and a complaint on stderr about a full disk would then be the next line
that can't be written, and so on, until the request that logged something fails by its depth of recursion. Said here because a replica
writes its first line right after its class has been imported.
"""

import logging

logging.raiseExceptions = False
