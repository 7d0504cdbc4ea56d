"""Applications of every kind as handlers, over the request's streams alone.

``asgi``, ``wsgi``, ``scripts``
    what turns each kind into a handler; their public names are in :mod:`trifcgi`.
``loader``, ``interface``
    from ``module:attribute`` to an application, and which kind it is.
``lifespan``, ``threads``
    what lives as long as the server: the ASGI lifespan, the WSGI thread pool.

Nothing is imported here: the functions have their modules' names, which they would hide,
and a program that serves one kind need not load the others.
"""
