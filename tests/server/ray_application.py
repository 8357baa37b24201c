"""Run an application of Ray Serve behind Ray's proxy, as a cluster would: ARCHIVE, TOKEN_FOLDER, PORT."""

import signal
import sys

from camserve.operate.ray_here import own_ray

archive, token_folder, port = sys.argv[1:]
with own_ray(2):
    from ray import serve

    from camserve.asgi.on_ray.application import build

    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": int(port)})
    serve.run(build({"archives": [archive], "token_folder": token_folder, "num_cpus": 0.5}), name="camserve")
    print("ready", flush=True)
    signal.pause()
