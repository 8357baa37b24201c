"""Run an application of Ray Serve behind Ray's proxy, as a cluster would: ARCHIVES, TOKEN_FOLDER, PORT."""

import signal
import sys
import time

from camserve.operate.ray_here import own_ray

*archives, token_folder, port = sys.argv[1:]
with own_ray(2):
    from ray import serve

    from camserve.asgi.on_ray.application import build

    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": int(port)})
    application = build({"archives": archives, "token_folder": token_folder, "num_cpus": 0.5})
    target = serve.RunTarget(application, "camserve", route_prefix="/")
    serve.run_many([target], wait_for_applications_running=False)
    while (status := serve.status().applications["camserve"].status) in ("NOT_STARTED", "DEPLOYING"):
        time.sleep(0.2)
    print(status.name, flush=True)
    signal.pause()
