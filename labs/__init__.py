"""Keep these tools: hooks, data, models and checks that work on your own network.

Nothing is imported here, so that ``import labs.hooks`` costs only what hooks cost.
"""
