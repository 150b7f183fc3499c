"""The HTTP server: predictions, explanations and objects of images, and a page to try them.

Read the modules in this order:

- `server`: the process: opens models, listens, stops gracefully.
- `app`: the routes; `schemas` and `problems` are their JSON, `static_files` the page.
- `served_model`, `served_detector`: a model of the server, with `batching` and `decoding`.
- `limits`: all limits and their defaults, kept by `connections` and `bodies`; `keys`: which keys a
  request may have.
- `middleware`: what surrounds each request: its ID, headers, log and metrics.
"""
