"""The scoreboard: pyloop beside asyncio and the other event loops.

Run ``python -m bench`` from the root of the checkout; ``--list`` shows the
rows.  Every sample is taken in a fresh process, the loops take turns within
each round, and each turn starts with another loop, so that drift of the
machine hits all of them alike.  Standard library only; the loops and servers
compared are in ``requirements.txt``.
"""
