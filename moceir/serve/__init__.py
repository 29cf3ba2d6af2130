"""A page and a service on one port: a web server that decodes nothing, and worker processes that restore."""
