"""The page at a router's /ui: a few static files, data made at most once a second, and a handful of deeds.

`attach` gives a front door the ASGI application to mount. Looking and acting are admitted apart from the public API's keys.
"""
